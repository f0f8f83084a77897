"""The `zkaudit` command: train, prove, verify, inspect, reveal, bench."""

from zkaudit.cli.command_line import main

__all__ = ["main"]
