"""`zkaudit prove`: the proof of a finished training run."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from zkaudit.cli import device, threads
from zkaudit.cli.command import Command
from zkaudit.cli.outcome import DONE
from zkaudit.cli.progress import ProgressBar
from zkaudit.zk.errors import BadInput

if TYPE_CHECKING:
    from zkaudit.zk.engine import Engine


def run(arguments: argparse.Namespace) -> int:
    """Write the proof and say what it took."""
    if not arguments.run_folder.is_dir():
        raise BadInput(f"{arguments.run_folder} is not a folder that zkaudit train wrote")
    from zkaudit.zk import prover  # loads native code, which --help can do without

    threads.use(arguments.threads)
    engine = _engine(arguments)
    started = time.perf_counter()
    with ProgressBar() as progress:
        files = prover.prove_run(
            arguments.run_folder, arguments.out, arguments.segment_steps, progress, engine=engine, device=arguments.device
        )
    size = sum(file.stat().st_size for file in files)
    segments = "1 segment" if len(files) == 1 else f"{len(files)} segments"
    print(f"{arguments.out}: {segments}, {size} bytes, proved in {time.perf_counter() - started:.1f} s")
    return DONE


def _engine(arguments: argparse.Namespace) -> Engine:
    from zkaudit.zk import engine

    if arguments.engine == "ray":
        return engine.RayTasks(arguments.workers, arguments.threads, arguments.ray_address)
    if arguments.ray_address is not None:
        raise BadInput("--ray-address is for --engine ray only")
    if (arguments.workers or 1) == 1:
        return engine.ThisProcess()
    return engine.Processes(arguments.workers)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, --out, --segment-steps, --threads, and where to prove: --device, --engine, --workers, --ray-address."""
    parser.add_argument("run_folder", metavar="RUN", type=Path, help="the folder that `zkaudit train` wrote")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="the proof; a folder for several segments")
    parser.add_argument(
        "--segment-steps",
        metavar="N",
        type=threads.positive,
        help="steps in a segment (default: what memory allows)",
    )
    threads.add_option(parser)
    device.add_option(parser)
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="where to prove (default: local)")
    many = "segments to prove at a time, sharing the threads (default: 1; with ray, one for each machine)"
    parser.add_argument("--workers", metavar="N", type=threads.positive, help=many)
    alone = "a Ray cluster, host:port or auto (default: a Ray of this machine alone, for this command)"
    parser.add_argument("--ray-address", metavar="ADDRESS", help=alone)


EXAMPLES = """\
examples:
  zkaudit prove runs/digits --out digits.zkp
  zkaudit prove runs/digits --out digits.zkp --device cuda    # the same proof, on an NVIDIA GPU: docs/gpu.md
  zkaudit prove runs/digits --out digits-proofs --segment-steps 25    # a folder with a proof for each 25 steps
  zkaudit prove runs/digits --out digits-proofs --segment-steps 25 --workers 2    # two processes, half of the threads each
  zkaudit prove runs/digits --out digits-proofs --segment-steps 25 --engine ray --ray-address auto    # on a Ray cluster

Memory is needed for one segment in each worker. If prove is stopped, the same command goes on where it was. Workers see
the secrets of the run: docs/distribution.md.
"""

COMMAND = Command("prove", "prove a training run in zero knowledge", EXAMPLES, add_arguments, run)
