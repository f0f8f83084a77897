"""`zkaudit bench`: what proving costs, and how it compares with others on the same machine."""

from __future__ import annotations

import argparse

from zkaudit.cli.bench import msm, peers, prove
from zkaudit.cli.command import Command, add_to


def run(arguments: argparse.Namespace) -> int:
    """Run the benchmark that was named."""
    code: int = arguments.benchmark(arguments)
    return code


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One subcommand a benchmark."""
    benchmarks = parser.add_subparsers(metavar="BENCHMARK", required=True)
    for command in (prove.COMMAND, msm.COMMAND, peers.COMMAND):
        add_to(benchmarks, command).set_defaults(benchmark=command.run)


EXAMPLES = """\
examples:
  zkaudit bench prove --json digits.json
  zkaudit bench msm --json msm.json
  zkaudit bench peers --json peers.json

Times are of this machine at this moment: compare only what ran side by side.
"""

COMMAND = Command("bench", "measure proving, its curve arithmetic, and other provers", EXAMPLES, add_arguments, run)
