"""Data that a generator writes: rewritten, extended, explained or filled in, with a record of where it came from."""
