"""Fuzz the verifier: `make fuzz`, or `python -m fuzz --help` in tests/."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fuzz.loop import Tally

CORPUS = Path(__file__).parent / "corpus"


def main() -> int:
    """Exit code 1 if there are findings."""
    parser = argparse.ArgumentParser(description="Give the verifier malformed proof files and watch what it makes of them.")
    parser.add_argument("--inputs", type=int, default=1_000_000, metavar="N", help="how many (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=float("inf"), metavar="S", help="for how long (default: no limit)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="what inputs follow from (default: %(default)s)")
    parser.add_argument("--findings", type=Path, default=CORPUS, metavar="FOLDER", help="where to keep what goes wrong")
    parser.add_argument("--guided", action="store_true", help="let coverage guide, to the first finding (pip install atheris)")
    arguments = parser.parse_args()
    settings = arguments.seed, arguments.inputs, arguments.seconds, arguments.findings
    if arguments.guided:
        if importlib.util.find_spec("atheris") is None:
            parser.error("--guided needs the package 'atheris': pip install atheris")
        from fuzz import coverage  # before anything of zkaudit, which it watches

        coverage.fuzz(*settings)
    from fuzz.loop import fuzz

    tally = fuzz(*settings, _Progress())
    print(tally.summary(arguments.seed))
    return 1 if tally.findings else 0


class _Progress:
    """A line every half a minute."""

    def __init__(self) -> None:
        self._printed = time.monotonic()

    def __call__(self, tally: Tally) -> None:
        if time.monotonic() - self._printed > 30:
            print(tally.line(), flush=True)
            self._printed = time.monotonic()


if __name__ == "__main__":
    sys.exit(main())
