"""Training with weights or updates of low rank: fewer numbers to hold and to send."""
