"""`zkaudit reveal`: the opening of one commitment, for somebody who is to receive the model or the data."""

from __future__ import annotations

import argparse
from pathlib import Path

from zkaudit.cli.command import Command
from zkaudit.cli.outcome import DONE
from zkaudit.zk.errors import BadInput


def run(arguments: argparse.Namespace) -> int:
    """Write the opening."""
    if not arguments.run_folder.is_dir():
        raise BadInput(f"{arguments.run_folder} is not a folder that zkaudit train wrote")
    from zkaudit.zk import opening  # loads native code, which --help can do without

    opening.reveal(arguments.run_folder, arguments.what, arguments.out)
    print(f"{arguments.out}: opens the commitment to the {arguments.what.replace('-', ' ')}")
    return DONE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, --what, --out."""
    parser.add_argument("run_folder", metavar="RUN", type=Path, help="the folder of a run that was proved")
    parser.add_argument("--what", choices=("end-weights", "start-weights", "data"), required=True, help="what to open")
    parser.add_argument("--out", metavar="OPENING", type=Path, required=True, help="the file to write, for its owner only")


EXAMPLES = """\
examples:
  zkaudit reveal runs/digits --what end-weights --out digits.opening
  zkaudit verify digits.zkp --model runs/digits/model.safetensors --opening digits.opening
"""

COMMAND = Command("reveal", "write what ties revealed weights or data to the proof", EXAMPLES, add_arguments, run)
