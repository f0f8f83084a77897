"""Training, proving and verifying one shape, each made to run in a process of its own."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from zkaudit.cli import threads
from zkaudit.cli.bench.machine import lanes
from zkaudit.cli.bench.process import peak_bytes
from zkaudit.cli.bench.shape import Shape, run_of
from zkaudit.cli.progress import ProgressBar
from zkaudit.zk.errors import InvalidProof

PAGE = 4096  # the smallest that a system has: one byte in each is touched


@dataclass(frozen=True)
class Trained:
    """Seconds of the exact trainer alone, seconds of the commitments before it, and accuracies on the test rows."""

    seconds: float
    commit_seconds: float
    test_accuracy: float
    float_test_accuracy: float


@dataclass(frozen=True)
class Proved:
    """What proving took: in all, by phase, by segment; memory in all and before it began."""

    files: list[Path]
    seconds: float
    phases: dict[str, float]
    segment_seconds: list[float]
    peak_bytes: int
    peak_bytes_before: int
    lanes: str
    device: str


def train(shape: Shape, folder: Path, thread_count: int, device: str) -> Trained:
    """Commit to data and start weights, then train in `folder`."""
    import torch

    from zkaudit.training.fixedpoint import prepare
    from zkaudit.zk.prover import commit_start
    from zkaudit.zk.sampling import batch_rows

    torch.set_num_threads(thread_count)
    threads.use(thread_count)
    config, dataset, model = run_of(shape)
    run = prepare(config, folder, dataset, model)
    ready(device)
    started = time.perf_counter()
    seed = commit_start(folder, device=device)
    committed = time.perf_counter()
    ended = committed
    batches = batch_rows(seed, run.rows, shape.batch, 0, shape.steps)
    with ProgressBar() as bar:

        def progress(done: int, steps: int) -> None:
            # The float run for comparison comes after the last step and is no part of what is proved.
            nonlocal ended
            ended = time.perf_counter()
            bar(f"training, step {done} of {steps}", done / steps)

        result = run.train(batches, progress)
    return Trained(ended - committed, committed - started, result.test_accuracy, result.float_test_accuracy)


def warm(folder: Path, segment_steps: int | None) -> int:
    """Touch about as much memory as proving the run in `folder` will take; the bytes, which go back when this process ends.

    A virtual machine's host backs memory when it is touched first, several times as slowly as the system clears it.
    """
    from zkaudit.zk.segments import proving_bytes
    from zkaudit.zk.trace import read_trace

    size = proving_bytes(read_trace(folder / "trace"), segment_steps)
    touch(size)
    return size


def touch(size: int) -> None:
    """Write to every page of so many bytes, then give them back."""
    import numpy as np

    np.empty(size, np.uint8)[::PAGE] = 1


def prove(folder: Path, out: Path, segment_steps: int | None, thread_count: int, device: str) -> Proved:
    """Prove the run in `folder` into `out`."""
    from zkaudit.zk.prover import prove_run

    threads.use(thread_count)
    place = ready(device)
    before, phases = peak_bytes(), dict[str, float]()
    started = time.perf_counter()
    begun: list[tuple[str, float, float]] = []  # phase, share of the whole done, when
    with ProgressBar() as bar:

        def progress(phase: str, fraction: float) -> None:
            begun.append((phase, fraction, time.perf_counter()))
            bar(f"proving, {phase}", fraction)

        files = prove_run(folder, out, segment_steps, progress, seconds=phases, device=device)
    seconds = time.perf_counter() - started
    return Proved(files, seconds, phases, _by_segment(begun, len(files)), peak_bytes(), before, lanes(), place)


def ready(device: str) -> str:
    """Start the device and load its kernels, which is done once a process; its name."""
    from zkaudit.zk import gpu

    return gpu.place(device).ready()


def _by_segment(begun: list[tuple[str, float, float]], segments: int) -> list[float]:
    """Seconds of each segment, from when its first phase began to when the next one's did."""
    begins = [next(when for _, done, when in begun if done * segments >= i - 1e-6) for i in range(segments)]
    return [after - before for before, after in zip(begins, [*begins[1:], begun[-1][2]], strict=True)]


def verify(files: list[Path], thread_count: int) -> tuple[float, int]:
    """Seconds to verify, deriving the generators included, and the most memory held; InvalidProof if it does not hold."""
    from zkaudit.zk.verifier import verify_files

    threads.use(thread_count)
    verdict = verify_files(files)
    if not verdict.valid:
        raise InvalidProof(verdict.reason)
    return verdict.seconds, peak_bytes()
