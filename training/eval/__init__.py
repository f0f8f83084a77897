"""Protocols that compare trained models: scores, splits and what is measured on them."""
