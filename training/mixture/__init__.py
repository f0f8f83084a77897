"""Mixtures: how much of each source a step draws, fixed, in phases, learnt on the way or searched for."""
