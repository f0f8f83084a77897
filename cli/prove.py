"""`zkaudit prove`: the proof of a finished training run."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from zkaudit.cli import threads
from zkaudit.cli.command import Command
from zkaudit.cli.outcome import DONE
from zkaudit.cli.progress import ProgressBar
from zkaudit.zk.errors import BadInput


def run(arguments: argparse.Namespace) -> int:
    """Write the proof and say what it took."""
    if not arguments.run_folder.is_dir():
        raise BadInput(f"{arguments.run_folder} is not a folder that zkaudit train wrote")
    from zkaudit.zk import prover  # loads native code, which --help can do without

    threads.use(arguments.threads)
    started = time.perf_counter()
    with ProgressBar() as progress:
        files = prover.prove_run(arguments.run_folder, arguments.out, arguments.segment_steps, progress)
    size = sum(file.stat().st_size for file in files)
    segments = "1 segment" if len(files) == 1 else f"{len(files)} segments"
    print(f"{arguments.out}: {segments}, {size} bytes, proved in {time.perf_counter() - started:.1f} s")
    return DONE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, --out, --segment-steps, --threads."""
    parser.add_argument("run_folder", metavar="RUN", type=Path, help="the folder that `zkaudit train` wrote")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="the proof; a folder for several segments")
    parser.add_argument("--segment-steps", metavar="N", type=threads.positive, help="steps in a segment (default: all steps)")
    threads.add_option(parser)


EXAMPLES = """\
examples:
  zkaudit prove runs/digits --out digits.zkp
  zkaudit prove runs/digits --out digits-proofs --segment-steps 25    # a folder with a proof for each 25 steps

Memory is needed for one segment at a time. If prove is stopped, the same command goes on where it was.
"""

COMMAND = Command("prove", "prove a training run in zero knowledge", EXAMPLES, add_arguments, run)
