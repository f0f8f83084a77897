"""Time and memory of training, proving and verifying one network, by phase.

    python benchmarks/prove.py                                        # digits, 64-128-64-10, batch 64, 100 steps
    python benchmarks/prove.py --widths 100,300,300,10 --batch 32 --steps 16 --loss square --json result.json

Any widths but the digits' run on random data. The proof is verified in a process of its own, so that its time includes deriving
the generators. Times are of this machine at this moment: compare only what ran side by side.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from zkaudit.training.config import DataConfig, FixedPoint, ModelConfig, RunConfig, TrainingConfig
from zkaudit.training.data import Dataset, load
from zkaudit.training.fixedpoint import prepare
from zkaudit.zk import curve, field
from zkaudit.zk.backend import core
from zkaudit.zk.proof_file import read
from zkaudit.zk.prover import commit_start, prove_run
from zkaudit.zk.statement import batch_rows

DIGITS = (64, 128, 64, 10)
PHASES = ("witness", "commit", "lookup", "matmul", "relu", "opening")


def main() -> None:
    """Run the benchmark, print a table, write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", default=",".join(map(str, DIGITS)), help="inputs, hidden layers, outputs")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--loss", choices=("cross_entropy", "square"), default="cross_entropy")
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--segment-steps", type=int)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="write the result there")
    options = parser.parse_args()
    widths = tuple(int(width) for width in options.widths.split(","))
    field.set_threads(options.threads)
    curve.set_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(widths, options, Path(folder))
    for name, value in result.items():
        print(f"{name:24} {value:.3f}" if isinstance(value, float) else f"{name:24} {value}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def measure(widths: tuple[int, ...], options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train, prove, verify; every figure by name."""
    config, dataset = run_of(widths, options)
    started = time.perf_counter()
    run = prepare(config, folder, dataset)
    batches = batch_rows(commit_start(folder), run.rows, options.batch, 0, options.steps)
    trained = run.train(batches)
    train_seconds = time.perf_counter() - started
    before = peak_bytes()
    seconds: dict[str, float] = {}
    started = time.perf_counter()
    proofs = prove_run(folder, folder / "proof", options.segment_steps, seconds=seconds)
    prove_seconds = time.perf_counter() - started
    verdict = subprocess.run(
        [sys.executable, "-m", "zkaudit.cli", "verify", *map(str, proofs), "--json", "--threads", str(options.threads)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    statement = read(proofs[0]).statement
    return {
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "lanes": "ifma" if core.__name__.endswith("_ifma") else "scalar",
        "threads": options.threads,
        "widths": list(widths),
        "parameters": sum((d + 1) * units for d, units in itertools.pairwise(widths)),
        "batch": options.batch,
        "steps": options.steps,
        "segments": len(proofs),
        "loss": options.loss,
        "test_accuracy": trained.test_accuracy,
        "float_test_accuracy": trained.float_test_accuracy,
        "train_seconds": train_seconds,
        **{f"{name}_seconds": seconds.get(name, 0.0) for name in PHASES},
        "prove_seconds": prove_seconds,
        "seconds_per_update": prove_seconds / options.steps,
        "peak_bytes": peak_bytes(),
        "peak_bytes_before_proving": before,
        "proof_bytes": sum(proof.stat().st_size for proof in proofs),
        "row_length": 1 << statement.columns,
        "verify_seconds": json.loads(verdict.stdout)["seconds"],
    }


def run_of(widths: tuple[int, ...], options: argparse.Namespace) -> tuple[RunConfig, Dataset]:
    """The configuration, and the digits or random data of the asked shape."""
    source = DataConfig("digits", 0.25)
    config = RunConfig(
        source,
        ModelConfig(widths[1:-1], 0),
        TrainingConfig(options.loss, options.batch, options.steps, (options.learning_rate,) * options.steps, "benchmark"),
        FixedPoint(8, 12, 32),
    )
    if (widths[0], widths[-1]) == (DIGITS[0], DIGITS[-1]):
        return config, load(source)
    rng = np.random.default_rng(0)
    rows = max(2 * options.batch, 256)

    def split(count: int) -> tuple[Any, Any]:
        labels = rng.integers(0, widths[-1], count)
        labels[: widths[-1]] = np.arange(widths[-1])[:count]
        return rng.normal(size=(count, widths[0])).clip(-4, 4), labels

    return config, Dataset(*split(rows), *split(64), widths[-1])


def peak_bytes() -> int:
    """The most memory this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def processor() -> str:
    """The CPU's name."""
    names = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
