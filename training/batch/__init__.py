"""Methods for large and changing batches."""
