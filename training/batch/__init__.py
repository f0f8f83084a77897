"""Which records a step trains on, in what shape: large and changing batches, samplers, selectors."""
