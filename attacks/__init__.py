"""Audits of what federated fine-tuning leaks: what a server can recover of its clients' records from what they send."""
