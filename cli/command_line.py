"""Parses the command line, runs one command and turns every failure into one sentence and an exit code (outcome.py).

Set ZKAUDIT_DEBUG=1 to see the traceback behind a sentence.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from io import TextIOWrapper

from zkaudit.cli import attest, audit, bench, inspect, methods, prove, replay, reveal, train, verify
from zkaudit.cli.command import add_to
from zkaudit.cli.outcome import UNUSABLE, explain

COMMANDS = (
    *(train.COMMAND, replay.COMMAND, prove.COMMAND, verify.COMMAND, inspect.COMMAND, reveal.COMMAND),
    *(attest.COMMAND, audit.COMMAND, methods.COMMAND, bench.COMMAND),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in `argv` (the process's own arguments by default) and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a seed or path may hold what the terminal's encoding lacks
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as stop:  # --help, --version and usage errors: argparse has printed what there is to say
        return int(stop.code or 0)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()  # a verdict that nobody could read must not end in 0
        return code
    except BrokenPipeError:
        # Whoever read our output has gone; without this the interpreter complains once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNUSABLE
    except (Exception, KeyboardInterrupt) as error:
        if os.environ.get("ZKAUDIT_DEBUG") == "1":
            raise
        sentence, code = explain(error)
        print(f"zkaudit: {' '.join(sentence.split())}", file=sys.stderr)
        return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zkaudit",
        description="Prove in zero knowledge how a network was trained, verify such proofs, audit what fine-tuning leaks.",
        epilog="exit codes: 0 done or valid, 1 the proof is invalid, 2 bad input or usage",
    )
    parser.add_argument("--version", action="version", version=f"zkaudit {version('zkaudit')}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        add_to(commands, command).set_defaults(run=command.run)
    return parser
