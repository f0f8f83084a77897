"""The `zkaudit` command: train, prove, verify, inspect, reveal."""

from zkaudit.cli.command_line import main

__all__ = ["main"]
