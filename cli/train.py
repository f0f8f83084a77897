"""`zkaudit train`: exact training on committed data, and the trace that `zkaudit prove` needs."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from zkaudit.cli.command import Command
from zkaudit.cli.outcome import DONE
from zkaudit.cli.progress import ProgressBar
from zkaudit.zk.errors import BadInput

if TYPE_CHECKING:
    from zkaudit.training.config import RunConfig
    from zkaudit.training.exact_records import ExactRecords
    from zkaudit.training.fixedpoint import Result, Run
    from zkaudit.zk.statement import Statement


def run(arguments: argparse.Namespace) -> int:
    """Commit to data and start weights, draw the batches from that, train, write model and metrics."""
    # Loads torch, which no other command needs.
    from zkaudit.training import config, fixedpoint
    from zkaudit.training.fixedpoint import device
    from zkaudit.zk import prover, sampling

    started = time.perf_counter()
    folder: Path = arguments.out
    settings, place = config.load(arguments.config), device.choose(arguments.device)
    _refuse_foreign(folder)
    prepared = fixedpoint.prepare(settings, folder)
    metrics, model = folder / "metrics.json", folder / "model.safetensors"
    if prepared.trace.complete and metrics.exists() and model.exists():
        print(f"{folder}: this run is complete")
        return DONE
    _show_rates(settings)
    statement = prover.state_start(folder)
    with ExitStack() as stack:
        progress = stack.enter_context(ProgressBar())
        records = stack.enter_context(_records(folder, statement)) if settings.training.records else None

        def report(done: int, steps: int) -> None:
            progress(f"training, step {done} of {steps}", done / steps)
            if records is not None:
                records.write(done)

        result = prepared.train(sampling.batches(statement), report, place, bytes.fromhex(statement.batch_seed))
        if records is not None:
            records.write(statement.steps)
    fixedpoint.write_model(model, result.start, result.end, settings.fixed_point, result.frozen)
    _write_metrics(metrics, settings, prepared, result, time.perf_counter() - started)
    print(f"{folder}: {settings.training.steps} steps in {time.perf_counter() - started:.1f} s on {device.description(place)}")
    print(f"test accuracy: {result.test_accuracy:.2%} in fixed point, {result.float_test_accuracy:.2%} in float, same steps")
    return DONE


def _refuse_foreign(folder: Path) -> None:
    """A run is made readable by its owner only, which no other folder should be subjected to."""
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is a file; a run needs a folder")
    if folder.is_dir() and any(folder.iterdir()) and not any((folder / name).is_dir() for name in ("trace", ".trace.part")):
        raise BadInput(f"{folder} holds something else than a training run: give the run another folder")


def _records(folder: Path, statement: Statement) -> ExactRecords:
    from zkaudit.training.batch.exact import ExactBatches
    from zkaudit.training.exact_records import ExactRecords

    batches = ExactBatches(statement.batch_seed, statement.rows, statement.batch, statement.sampler)
    data = hashlib.sha256(statement.data).hexdigest()
    return ExactRecords(folder, batches, statement.seed, data, statement.learning_rates)


def _show_rates(settings: RunConfig) -> None:
    """Say so if the learning rate is not what was asked for: it must be a multiple of batch / 2^k."""
    wanted, used = settings.wanted_rates, settings.settings.learning_rates
    furthest = max(range(len(used)), key=lambda step: abs(used[step] / wanted[step] - 1))
    if abs(used[furthest] / wanted[furthest] - 1) > 1e-9:
        step = f" of step {furthest}" if len(set(wanted)) > 1 else ""
        print(f"learning rate{step}: {wanted[furthest]:g} becomes {used[furthest]:g}, the nearest that fixed_point can express")


def _write_metrics(path: Path, settings: RunConfig, prepared: Run, result: Result, seconds: float) -> None:
    from zkaudit.training.private_file import write_whole

    metrics = {
        "test_accuracy": result.test_accuracy,
        "float_test_accuracy": result.float_test_accuracy,
        "learning_rate": _rates(settings.settings.learning_rates),
        "steps": settings.training.steps,
        "batch": settings.training.batch,
        "loss": settings.training.loss,
        "widths": list(prepared.widths),
        "training_rows": prepared.rows,
        "seconds": seconds,
    }
    write_whole(path, json.dumps(metrics, indent=2).encode() + b"\n")


def _rates(rates: Sequence[float]) -> float | list[float]:
    """The effective learning rate: one number, or one a step where they differ."""
    return rates[0] if len(set(rates)) == 1 else list(rates)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """CONFIG, --out, --device."""
    parser.add_argument("config", metavar="CONFIG.toml", type=Path, help="what to train, on what and how")
    parser.add_argument("--out", metavar="RUN", type=Path, required=True, help="the folder to write, for its owner only")
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda", "auto"),
        default="cpu",
        help="where to compute, which changes no number; auto takes a GPU if there is one (default: cpu)",
    )


EXAMPLES = """\
examples:
  zkaudit train examples/digits.toml --out runs/digits
  zkaudit train large.toml --out runs/large --device cuda

With [training] sampler = "view-batch" or "length-buckets", batches are drawn in another way; with records = true RUN gets
steps.jsonl too, and the proof names its head: docs/step-records.md.

RUN gets model.safetensors (start and end weights), metrics.json and the trace. RUN is secret: it holds data and
weights. If train is stopped, the same command goes on where it was.
"""

COMMAND = Command("train", "train a network exactly, leaving what a proof needs", EXAMPLES, add_arguments, run)
