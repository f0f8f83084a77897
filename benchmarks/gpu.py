"""The GPU back end against the device's own ceilings, and the run of ten million parameters.

    python benchmarks/gpu.py --json benchmarks/results/gpu.json           # ceilings, kernels, 64 steps of 8 layers
    python benchmarks/gpu.py --only kernels
    python benchmarks/gpu.py --steps 4 --parameters 1000000               # a smaller run

Ceilings are measured, not looked up: the bandwidth of a copy (bytes read and written), and the rate of 32-bit multiply-adds with
64-bit results in a loop that does nothing else. For each kernel its work is counted (words of a product: 2 l^2 + l multiply-adds
for a Montgomery product of l 32-bit limbs, l^2 for a product that is not reduced by itself) and its bytes, each input and output
once; the share of a ceiling is the larger of the two times over the measured one.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from zkaudit.cli.bench import stages
from zkaudit.cli.bench.machine import machine
from zkaudit.cli.bench.shape import Shape, widths_of
from zkaudit.zk import curve, field, gpu, mle
from zkaudit.zk.leaves import Leaves, Part

MULTIPLY_ADDS = r"""
typedef unsigned int u32;
typedef unsigned long long u64;
extern "C" __global__ void chains(u64* out, u32 a, int n) {
    u64 x[8];
    for (int k = 0; k < 8; ++k) x[k] = threadIdx.x + k;
    for (int i = 0; i < n; ++i) {
#pragma unroll
        for (int k = 0; k < 8; ++k) asm volatile("mad.wide.u32 %0, %1, %2, %0;" : "+l"(x[k]) : "r"((u32)x[k]), "r"(a));
    }
    u64 sum = 0;
    for (int k = 0; k < 8; ++k) sum += x[k];
    out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}
"""
PRODUCTS = r"""
#include "kernel.cuh"
#include "gpu/xyzz.cuh"
using namespace zkaudit;
template <class F>
struct Chain {
    F* out;
    int64_t rounds;
    ZK_HD void operator()(int64_t i) const {
        F x = F::from_u64(static_cast<uint64_t>(i) + 3), y = x.doubled();
        for (int64_t k = 0; k < rounds; ++k) {
            x = x * y;
            y = y * x;
        }
        out[i] = x + y;
    }
};
struct Additions {
    const Affine<Base>* points;
    Affine<Base>* out;
    int64_t rounds, points_count;
    ZK_HD void operator()(int64_t i) const {
        Xyzz<Base> sum = Xyzz<Base>::identity();
        for (int64_t k = 0; k < rounds; ++k) sum.add(points[(i + 7 * k) % points_count]);
        out[i] = {sum.x, sum.y};
    }
};
ZK_KERNEL(scalar_products, Chain<Scalar>)
ZK_KERNEL(base_products, Chain<Base>)
ZK_KERNEL(point_additions, Additions)
"""

FR, FP = 8, 12  # 32-bit limbs
PRODUCT = {limbs: 2 * limbs * limbs + limbs for limbs in (FR, FP)}
HALF = {limbs: limbs * limbs for limbs in (FR, FP)}
ADDITION = 8 * PRODUCT[FP] + 2 * PRODUCT[FP]  # multiply-adds of a mixed addition in XYZZ coordinates
REPEATS = 5


class Bench:
    """The GPU, its ceilings, and a clock."""

    def __init__(self) -> None:
        self.place: Any = gpu.place("cuda")
        started = time.perf_counter()
        self.name = self.place.ready()
        self.load_seconds = time.perf_counter() - started
        self.cp: Any = self.place.machine.xp
        self.bandwidth = self._bandwidth()
        self.multiply_adds = self._multiply_adds()

    def seconds(self, run: Callable[[], object], repeats: int = REPEATS) -> float:
        """The median of the GPU's time, the first run left out."""
        run()
        times = []
        for _ in range(repeats):
            begin, end = self.cp.cuda.Event(), self.cp.cuda.Event()
            begin.record()
            run()
            end.record()
            end.synchronize()
            times.append(self.cp.cuda.get_elapsed_time(begin, end) / 1e3)
        return float(np.median(times))

    def _bandwidth(self) -> float:
        source = self.cp.arange(1 << 28, dtype=np.uint64)
        target = self.cp.empty_like(source)
        return 2 * source.nbytes / self.seconds(lambda: self.cp.copyto(target, source))

    def _multiply_adds(self) -> float:
        kernel = self.cp.RawModule(code=MULTIPLY_ADDS, options=("--std=c++17",)).get_function("chains")
        blocks, rounds = 132 * 16, 4000
        out = self.cp.empty(blocks * 256, np.uint64)
        seconds = self.seconds(lambda: kernel((blocks,), (256,), (out, np.uint32(0x9E3779B1), np.int32(rounds))))
        return blocks * 256 * 8 * rounds / seconds

    def row(self, name: str, seconds: float, multiply_adds: float, moved: float, **more: Any) -> dict[str, Any]:
        """A measured kernel beside its ceilings."""
        arithmetic, memory = multiply_adds / self.multiply_adds, moved / self.bandwidth
        bound = "arithmetic" if arithmetic > memory else "memory"
        share = max(arithmetic, memory) / seconds
        print(
            f"{name:34s} {1e3 * seconds:9.3f} ms  {share:6.1%} of {bound}",
            *(f"{k} {v:.4g}" for k, v in more.items()),
            flush=True,
        )
        return {"kernel": name, "seconds": seconds, "share_of_ceiling": share, "bound": bound, **more}


def products(bench: Bench) -> list[dict[str, Any]]:
    """Products and additions in registers, nothing else in the way."""
    cp = bench.cp
    from zkaudit.zk.gpu.cuda import OPTIONS, SOURCES

    module = cp.RawModule(code=PRODUCTS, options=(*OPTIONS, f"-I{SOURCES}", f"-I{SOURCES / 'gpu'}"), backend="nvrtc")
    threads, rounds, rows = 132 * 2048, 512, []
    for name, limbs in (("scalar_products", FR), ("base_products", FP)):
        out = cp.empty((threads, limbs // 2), np.uint64)
        body = np.array([out.data.ptr, rounds], np.int64)
        kernel = module.get_function(name)
        seconds = bench.seconds(lambda k=kernel, b=body: k((threads // 128,), (128,), (b.view("V16"), np.int64(threads))))
        count = 2 * rounds * threads
        rows.append(bench.row(name, seconds, count * PRODUCT[limbs], 0, per_second=count / seconds))
    points = cp.asarray(curve.generators(b"bench", 4096))
    out = cp.empty((threads, 12), np.uint64)
    body = np.array([points.data.ptr, out.data.ptr, 64, len(points)], np.int64)
    kernel = module.get_function("point_additions")
    seconds = bench.seconds(lambda: kernel((threads // 128,), (128,), (body.view("V32"), np.int64(threads))))
    rows.append(bench.row("point_additions", seconds, 64 * threads * ADDITION, 0, per_second=64 * threads / seconds))
    return rows


def kernels(bench: Bench) -> list[dict[str, Any]]:
    """The passes of a proof, each at a size that fills the GPU."""
    rng, put, rows = np.random.default_rng(0), bench.place.put, []
    n = 1 << 24
    core, empty = bench.place.core, bench.place.empty
    a, b, half = put(_elements(n)), put(_elements(n)), empty(n // 2, 4)
    one = _elements(1)
    rows.append(bench.row("mul", bench.seconds(lambda: core.mul(a, b, a)), n * PRODUCT[FR], 96 * n))
    rows.append(bench.row("fold", bench.seconds(lambda: core.fold(a, one, half)), n // 2 * PRODUCT[FR], 48 * n))
    low, high = mle.eq_halves(field.to_ints(_elements(22)))
    out, p, q = np.empty((2, 4), np.uint64), empty(n // 2, 4), empty(n // 2, 4)
    pair = 8 * HALF[FR] + 4 * (PRODUCT[FR] - HALF[FR])
    seconds = bench.seconds(lambda: core.fraction_round(a, b, one, low, high, out))
    rows.append(bench.row("fraction_round", seconds, n // 4 * pair, 64 * n))
    low, high = mle.eq_halves(field.to_ints(_elements(21)))
    seconds = bench.seconds(lambda: core.fraction_fold_round(a, b, one, one, low, high, p, q, out))
    rows.append(bench.row("fraction_fold_round", seconds, n // 8 * (pair + 8 * PRODUCT[FR]), 96 * n))
    seconds = bench.seconds(lambda: core.fraction_layer(a, b, p, q))
    rows.append(bench.row("fraction_layer", seconds, n // 2 * (3 * HALF[FR] + 2 * (PRODUCT[FR] - HALF[FR])), 96 * n))
    terms, tables = [(0, 1, 2), (0, 3, 4), (0, 5, 6)], [put(_elements(1 << 21)) for _ in range(7)]
    three = np.empty((3, 4), np.uint64)
    seconds = bench.seconds(lambda: core.products_round(tables, terms, 3, three))
    rows.append(bench.row("products_round", seconds, (1 << 20) * 3 * (4 * HALF[FR] + 72), 7 * 32 << 21))
    words = put(rng.integers(0, 1 << 16, 1 << 27).astype(np.uint16))
    leaves = Leaves.of([Part(0, field.to_ints(one)[0], [(1, words)])])
    count = leaves.length
    gamma = field.to_ints(_elements(30))
    for level in range(3):
        now = leaves
        for _ in range(level):
            now = now.above()
        variables = count.bit_length() - 2 - level
        seconds = bench.seconds(lambda x=now, v=variables: x.round(gamma[0], gamma[1:v]), 3)
        rows.append(bench.row(f"leaf_round, level {level}", seconds, _leaf_pair(level) * (count >> (level + 2)), 2 * count))
    seconds = bench.seconds(lambda: leaves.written(4), 3)
    rows.append(bench.row("leaf_layer_4", seconds, (count >> 4) * (20 * FR + 3 * (3 * HALF[FR] + 144)), 2 * count + 4 * count))
    matrix = words.reshape(-1, 4096)[:8192]
    weights = _elements(8192)
    seconds = bench.seconds(lambda: field.combine(weights, matrix))
    rows.append(bench.row("combine", seconds, matrix.size * FR, 2 * matrix.size))
    generators = curve.generators(b"bench", 1 << 14)
    matrix = words.reshape(-1, 1 << 14)[:4096]
    seconds = bench.seconds(lambda: curve.msm_rows([matrix], generators), 3)
    additions = matrix.size * 16 / 14
    rows.append(bench.row("msm_rows, 16-bit", seconds, additions * ADDITION, 0, entries_per_second=matrix.size / seconds))
    return rows


def _leaf_pair(level: int) -> float:
    """Multiply-adds of a round over a pair of gates, the first of its layer."""
    small = (0, 2 * 4, 7 * 4)[level] * FR  # symmetric sums times constants, a fraction has (0, 2, 8) or so
    return small + (3 * 2 * FR if level == 0 else 8 * HALF[FR] + 4 * (PRODUCT[FR] - HALF[FR]))


def run(bench: Bench, parameters: int, layers: int, batch: int, steps: int) -> dict[str, Any]:
    """Train, prove on the GPU twice (the second time with everything loaded), verify; GPU seconds by kernel."""
    shape = Shape(widths_of(parameters, layers), batch, steps, "cross_entropy", None, None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stages.train(shape, folder, 16, "cuda")
        clock = KernelClock(bench)
        results = []
        for attempt in range(2):
            with clock:
                started = time.perf_counter()
                proved = stages.prove(folder, folder / f"proof{attempt}", shape.segment_steps, 16, "cuda")
                results.append((time.perf_counter() - started, proved))
        seconds, proved = results[-1]
        verify_seconds, _ = stages.verify(proved.files, 16)
    by_kernel = sorted(clock.totals().items(), key=lambda item: -item[1][1])
    for kernel, (launches, total) in by_kernel[:25]:
        print(f"  {kernel:28s} {launches:6d} launches {1e3 * total:9.2f} ms")
    print(
        {k: round(v, 3) for k, v in proved.phases.items()}, f"prove {seconds:.3f} s, verify {verify_seconds:.3f} s", flush=True
    )
    return {
        "widths": list(shape.widths), "parameters": shape.parameters, "batch": batch, "steps": steps,
        "first_prove_seconds": results[0][0], "prove_seconds": seconds, "seconds_per_update": seconds / steps,
        "phases": proved.phases, "verify_seconds": verify_seconds, "segments": len(proved.files),
        "kernels": {kernel: {"launches": n, "seconds": total} for kernel, (n, total) in by_kernel},
        "gpu_seconds": sum(total for _, (_, total) in by_kernel),
    }  # fmt: skip


class KernelClock:
    """Events around every launch while it is entered; `totals` of the last time."""

    def __init__(self, bench: Bench) -> None:
        self._machine, self._cp = bench.place.machine, bench.cp
        self._launch = self._machine.launch

    def __enter__(self) -> None:
        self._events: list[tuple[str, Any, Any]] = []

        def launch(kernel: str, threads: int, body: bytes) -> None:
            begin, end = self._cp.cuda.Event(), self._cp.cuda.Event()
            begin.record()
            self._launch(kernel, threads, body)
            end.record()
            self._events.append((kernel, begin, end))

        self._machine.launch = launch

    def __exit__(self, *_: object) -> None:
        self._machine.launch = self._launch

    def totals(self) -> dict[str, tuple[int, float]]:
        """Launches and seconds by kernel."""
        found: dict[str, tuple[int, float]] = defaultdict(lambda: (0, 0.0))
        for kernel, begin, end in self._events:
            end.synchronize()
            count, seconds = found[kernel]
            found[kernel] = count + 1, seconds + self._cp.cuda.get_elapsed_time(begin, end) / 1e3
        return dict(found)


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
    print(f"copy {bench.bandwidth / 1e12:.2f} TB/s, multiply-adds {bench.multiply_adds / 1e12:.2f} T/s", flush=True)
    result: dict[str, Any] = {
        "device": bench.name, "host": machine(), "bytes_per_second": bench.bandwidth,
        "multiply_adds_per_second": bench.multiply_adds, "load_seconds": bench.load_seconds,
    }  # fmt: skip
    if arguments.only != "run":
        result["kernels"] = products(bench) + kernels(bench)
    if arguments.only != "kernels":
        result["run"] = run(bench, arguments.parameters, arguments.layers, arguments.batch, arguments.steps)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
