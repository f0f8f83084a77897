"""The option --threads of the commands that compute."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """An integer of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def add_option(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the option."""
    parser.add_argument("--threads", type=positive, metavar="N", help="threads to use (default: one for each core)")


def use(threads: int | None) -> None:
    """Have the native code use this many threads; None leaves the default."""
    from zkaudit.zk import curve, field  # loads the native code: not for `--help`

    if threads is not None:
        field.set_threads(threads)
        curve.set_threads(threads)
