"""Filters: which records of a pool are trained on, decided before training."""
