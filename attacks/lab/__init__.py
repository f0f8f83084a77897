"""A laboratory without a network: small models built from configurations, a tokenizer of their own, synthetic records."""
