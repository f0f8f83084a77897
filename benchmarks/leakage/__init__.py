"""What updates of federated fine-tuning leak, measured on laboratory models: cases, tests and comparisons."""
