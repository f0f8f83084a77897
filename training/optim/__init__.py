"""Optimizers: low-rank gradients, 8-bit states, layer-wise rates for large batches."""
