"""Training for robustness that is certified."""
