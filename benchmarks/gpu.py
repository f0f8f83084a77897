"""The GPU back end against the device's own ceilings, and the run of ten million parameters.

    python benchmarks/gpu.py --json benchmarks/results/gpu.json           # ceilings, kernels, 64 steps of 8 layers
    python benchmarks/gpu.py --only kernels
    python benchmarks/gpu.py --steps 4 --parameters 1000000               # a smaller run

Ceilings are those of gpu_ceilings.py. For each kernel its multiply-adds are counted, as its algorithm needs them, and its
bytes, each input and output once; the share of a ceiling is the larger of the two times over the measured one. Times are the
GPU's, of the named kernel alone, but for `msm`: there all kernels of the call count.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gpu_ceilings import PRODUCTS, Bench, KernelClock

from zkaudit.cli.bench import stages
from zkaudit.cli.bench.machine import machine
from zkaudit.cli.bench.shape import Shape, widths_of
from zkaudit.zk import curve, field, mle
from zkaudit.zk.gpu.points import best_windows
from zkaudit.zk.leaves import Leaves, Part

# Wide multiply-adds: words of a product, of its reduction, and of a product of an element with a word.
HALF, REDUCTION, WORD = 64, 48, 8
FR = HALF + REDUCTION
FP, FP_SQUARE, FP_PAIR = 279, 210, 422  # products in the base field, and a b + c d
ADDITION = 6 * FP + 2 * FP_SQUARE + FP_PAIR  # of an affine point to a sum in XYZZ coordinates

ATTEMPTS = 5  # at the whole run


def products(bench: Bench) -> list[dict[str, Any]]:
    """Products and additions in registers, nothing else in the way."""
    cp = bench.cp
    from zkaudit.zk.gpu.cuda import OPTIONS, SOURCES

    module = cp.RawModule(code=PRODUCTS, options=(*OPTIONS, f"-I{SOURCES}", f"-I{SOURCES / 'gpu'}"), backend="nvrtc")
    threads, rounds, rows = 132 * 2048, 512, []
    for name, words, cost in (("scalar_products", 4, FR), ("base_products", 6, FP)):
        out = cp.empty((threads, words), np.uint64)
        body = np.array([out.data.ptr, rounds], np.int64).view("V16")
        kernel = module.get_function(name)
        seconds = bench.seconds(partial(kernel, (threads // 128,), (128,), (body, np.int64(threads))))
        count = 2 * rounds * threads
        rows.append(bench.row(name, seconds, count * cost, 0, per_second=count / seconds))
    points = cp.asarray(curve.generators(b"bench", 4096))
    out = cp.empty((threads, 12), np.uint64)
    body = np.array([points.data.ptr, out.data.ptr, 64, len(points)], np.int64).view("V32")
    seconds = bench.seconds(
        partial(module.get_function("point_additions"), (threads // 128,), (128,), (body, np.int64(threads)))
    )
    rows.append(bench.row("point_additions", seconds, 64 * threads * ADDITION, 0, per_second=64 * threads / seconds))
    return rows


def kernels(bench: Bench) -> list[dict[str, Any]]:
    """The passes of a proof, each at a size that fills the GPU."""
    rng, put, core, empty, rows = np.random.default_rng(0), bench.place.put, bench.place.core, bench.place.empty, []
    n = 1 << 25
    a, b, half, one = put(_elements(n)), put(_elements(n)), empty(n // 2, 4), _elements(1)

    def measure(kernel: str, call: Callable[[], object], multiply_adds: float, moved: float) -> None:
        rows.append(bench.row(kernel, bench.kernel_seconds(kernel, call), multiply_adds, moved))

    measure("mul", lambda: core.mul(a, b, a), n * FR, 96 * n)
    measure("fold", lambda: core.fold(a, one, half), n // 2 * FR, 48 * n)
    low, high = mle.eq_halves(field.to_ints(_elements(23)))
    out, p, q, pair = np.empty((2, 4), np.uint64), empty(n // 2, 4), empty(n // 2, 4), 8 * HALF + 4 * REDUCTION
    measure("fraction_round", lambda: core.fraction_round(a, b, one, low, high, out), n // 4 * pair, 64 * n)
    low_half, high_half = mle.eq_halves(field.to_ints(_elements(22)))
    fold_round = partial(core.fraction_fold_round, a, b, one, one, low_half, high_half, p, q, out)
    measure("fraction_fold_round", fold_round, n // 8 * (pair + 8 * FR), 96 * n)
    measure("fraction_layer", lambda: core.fraction_layer(a, b, p, q), n // 2 * (3 * HALF + 2 * REDUCTION), 96 * n)
    tables, three = [put(_elements(1 << 22)) for _ in range(7)], np.empty((3, 4), np.uint64)
    terms = [(0, 1, 2), (0, 3, 4), (0, 5, 6)]
    round_of_products = partial(core.products_round, tables, terms, 3, three)
    measure("products_round_3", round_of_products, (1 << 21) * 3 * (4 * HALF + REDUCTION), 7 * 32 << 22)
    words = put(rng.integers(0, 1 << 16, 1 << 28).astype(np.uint16))
    leaves, gamma = Leaves.of([Part(0, field.to_ints(one)[0], [(1, words)])]), field.to_ints(_elements(30))
    for level in range(3):
        now = leaves
        for _ in range(level):
            now = now.above()
        rest = gamma[: leaves.length.bit_length() - 3 - level]
        work = _leaf_pair(level) * (leaves.length >> (level + 2))
        measure(f"leaf_round_{level}_0", partial(now.round, gamma[-1], rest), work, 2 * leaves.length)
    fractions = leaves.length >> 4
    work = 2 * 2 * (8 * WORD + WORD) + 3 * (3 * HALF + 2 * REDUCTION)
    measure("leaf_layer_4", lambda: leaves.written(4), fractions * work, 2 * leaves.length + 64 * fractions)
    counts = bench.place.zeros((1 << 16,), np.int64)
    measure("histogram", lambda: core.histogram(words, counts), 0, words.nbytes)
    matrix, weights = words.reshape(-1, 4096)[:16384], _elements(16384)
    measure("combine_uint16", lambda: field.combine(weights, matrix), matrix.size * WORD, matrix.nbytes)
    bits = put(rng.integers(0, 2, (1024, 4096)).astype(np.uint8))
    highs, sums = _elements(9 * 1024).reshape(9, 1024, 4), empty(27 * 9 * 512, 4)
    ternary = partial(core.ternary_sums, bits, -1, 1, words.reshape(-1, 4096)[:1024], 1, 0, highs, 9, sums)
    measure("ternary", ternary, 1024 * 512 * 27 * 9 * 2 * WORD, 3 * bits.size)
    generators, matrix = curve.generators(b"bench", 1 << 14), words.reshape(-1, 1 << 14)[:8192]
    seconds = bench.kernel_seconds(None, lambda: curve.msm_rows([matrix], generators))
    rate = {"entries_per_second": matrix.size / seconds}
    rows.append(bench.row("msm of rows, 16 bits", seconds, matrix.size * 16 / 14 * ADDITION, matrix.nbytes, **rate))
    for log in (14, 18):
        points, scalars = put(np.tile(generators, (1 << (log - 14), 1))), _elements(1 << log)
        seconds = bench.kernel_seconds(None, partial(curve.msm, scalars, points))
        windows = best_windows(1 << log)
        work = windows * ((1 << log) * ADDITION + (1 << (-(-256 // windows) - 1)) * 28 * FP)
        rate = {"points_per_second": (1 << log) / seconds}
        rows.append(bench.row(f"msm, full width, 2^{log}", seconds, work, 0, **rate))
    return rows


def _leaf_pair(level: int) -> float:
    """Multiply-adds of a round over a pair of gates, the first of its layer: symmetric sums, then products of fractions."""
    if level == 0:
        return 3 * 2 * WORD
    words = {1: 2 + 1, 2: 5 + 3}[level]  # of q and p
    return 4 * 2 * words * WORD + 8 * HALF + 4 * REDUCTION


def run(bench: Bench, parameters: int, layers: int, batch: int, steps: int) -> dict[str, Any]:
    """Train, prove on the GPU, again with everything loaded, the best of ATTEMPTS, and with a clock on every kernel; verify."""
    shape = Shape(widths_of(parameters, layers), batch, steps, "cross_entropy", None, None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stages.train(shape, folder / "first", os.cpu_count() or 1, "cuda")  # compiles what CuPy compiles
        folder = folder / "second"
        trained = stages.train(shape, folder, os.cpu_count() or 1, "cuda")
        clock, times = KernelClock(bench), []
        for attempt in range(ATTEMPTS + 2):
            started = time.perf_counter()
            with clock if attempt > ATTEMPTS else nullcontext():
                proved = stages.prove(folder, folder / f"proof{attempt}", shape.segment_steps, os.cpu_count() or 1, "cuda")
            times.append(time.perf_counter() - started)
            if attempt in range(1, ATTEMPTS + 1) and times[-1] == min(times[1:]):
                phases = proved.phases
        seconds = min(times[1 : ATTEMPTS + 1])
        verify_seconds, _ = stages.verify(proved.files, os.cpu_count() or 1)
    by_kernel = sorted(clock.totals().items(), key=lambda item: -item[1][1])
    for kernel, (launches, total) in by_kernel[:25]:
        print(f"  {kernel:28s} {launches:6d} launches {1e3 * total:9.2f} ms")
    print({phase: round(spent, 3) for phase, spent in phases.items()})
    print(f"start {trained.commit_seconds:.3f} s, prove {seconds:.3f} s, verify {verify_seconds:.3f} s", flush=True)
    return {
        "widths": list(shape.widths),
        "parameters": shape.parameters,
        "batch": batch,
        "steps": steps,
        "segments": len(proved.files),
        "start_seconds": trained.commit_seconds,
        "first_prove_seconds": times[0],
        "prove_seconds": seconds,
        "seconds_per_update": (trained.commit_seconds + seconds) / steps,
        "phases": phases,
        "verify_seconds": verify_seconds,
        "gpu_seconds": sum(total for _, (_, total) in by_kernel),
        "kernels": {kernel: {"launches": n, "seconds": total} for kernel, (n, total) in by_kernel},
    }


def _elements(n: int) -> field.Array:
    return field.from_wide_bytes(np.random.default_rng(n).bytes(64 * n))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("kernels", "run"), help="one of the two parts")
    parser.add_argument("--parameters", type=int, default=10_000_000)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    bench = Bench()
    print(f"{bench.name}; {machine()}; kernels loaded in {bench.load_seconds:.1f} s")
    print(
        f"copy {bench.bandwidth / 1e12:.2f} TB/s, multiply-adds {bench.multiply_adds / 1e12:.2f} T/s, "
        f"without carries {bench.plain_multiply_adds / 1e12:.2f} T/s",
        flush=True,
    )
    result: dict[str, Any] = {
        "device": bench.name,
        "host": machine(),
        "bytes_per_second": bench.bandwidth,
        "multiply_adds_per_second": bench.multiply_adds,
        "plain_multiply_adds_per_second": bench.plain_multiply_adds,
        "load_seconds": bench.load_seconds,
    }
    if arguments.only != "run":
        result["kernels"] = products(bench) + kernels(bench)
    if arguments.only != "kernels":
        result["run"] = run(bench, arguments.parameters, arguments.layers, arguments.batch, arguments.steps)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
