"""Gradient matching: look for the records whose gradient is what the client sent."""
