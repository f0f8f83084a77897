"""Normalisation layers: ghost batches, layer norm, batch-channel norm and standardised weights."""
