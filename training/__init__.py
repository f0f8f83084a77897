"""Training in exact arithmetic, and the trace it leaves."""
