"""Parts of models that make training better."""
