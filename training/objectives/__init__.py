"""Losses and auxiliary losses."""
