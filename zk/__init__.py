"""Zero-knowledge proofs of training."""
