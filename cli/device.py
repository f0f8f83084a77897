"""The option --device of the commands that prove."""

from __future__ import annotations

import argparse

NAMES = ("cpu", "cuda", "auto")


def add_option(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the option."""
    meaning = "where to compute: the proof is the same; auto takes an NVIDIA GPU if there is one (default: cpu)"
    parser.add_argument("--device", choices=NAMES, default="cpu", help=meaning)
