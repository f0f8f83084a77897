"""The `zkaudit` command: train, replay, prove, verify, inspect, reveal, attest, audit, methods, bench."""

from zkaudit.cli.command_line import main

__all__ = ["main"]
