"""Training whose optimizer states and saved activations are stored in 8-bit floating point."""
