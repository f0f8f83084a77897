"""Federated fine-tuning on one machine: what clients compute, and what a server sees of it."""
