"""The `zkaudit` command: train, prove, verify, inspect, reveal, attest, audit, methods, bench."""

from zkaudit.cli.command_line import main

__all__ = ["main"]
