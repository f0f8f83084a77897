"""What a GPU can do at most, measured and not looked up, and a clock for what our kernels take of it.

The bandwidth of a copy counts bytes read and written. The rate of 32-bit multiply-adds with 64-bit results is that of a loop of
chains of carries, as products of long numbers need them; without carries it is higher.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from zkaudit.zk import gpu

REPEATS = 5


def _step(k: int) -> str:
    """Assembly of the k-th of eight multiply-adds in a chain of carries."""
    first, last = "" if k == 0 else "c", "" if k == 7 else ".cc"
    low = f"mad{first}.lo.cc.u32 %{2 * k}, %{16 + k}, %24, %{2 * k};"
    return f'"{low} madc.hi{last}.u32 %{2 * k + 1}, %{16 + k}, %24, %{2 * k + 1};\\n"'


MULTIPLY_ADDS = r"""
typedef unsigned int u32;
typedef unsigned long long u64;
extern "C" __global__ void chains(u64* out, u32 a, int n) {
    u64 x[8];
    u32 b[8];
    for (int k = 0; k < 8; ++k) x[k] = threadIdx.x + k, b[k] = threadIdx.x * a + k;
    for (int i = 0; i < n; ++i) {
#pragma unroll
        for (int j = 0; j < 8; ++j) {
#pragma unroll
            for (int k = 0; k < 8; ++k) asm volatile("mad.wide.u32 %0, %1, %2, %0;" : "+l"(x[k]) : "r"(b[k]), "r"(a));
        }
    }
    u64 sum = 0;
    for (int k = 0; k < 8; ++k) sum += x[k];
    out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}
"""
CARRIES = (
    r"""
typedef unsigned int u32;
typedef unsigned long long u64;
extern "C" __global__ void chains(u64* out, u32 a, int n) {
    u32 x[16], b[8];
    for (int k = 0; k < 16; ++k) x[k] = threadIdx.x + k, b[k / 2] = threadIdx.x * a + k;
    for (int i = 0; i < n; ++i) {
#pragma unroll
        for (int j = 0; j < 8; ++j) asm volatile(@STEPS@ : @OUT@ : @IN@, "r"(a + j));
    }
    u64 sum = 0;
    for (int k = 0; k < 16; ++k) sum += x[k];
    out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}
""".replace("@STEPS@", " ".join(_step(k) for k in range(8)))
    .replace("@OUT@", ", ".join(f'"+r"(x[{k}])' for k in range(16)))
    .replace("@IN@", ", ".join(f'"r"(b[{k}])' for k in range(8)))
)
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


class Bench:
    """The GPU, its ceilings, and a clock."""

    def __init__(self) -> None:
        self.place: Any = gpu.place("cuda")
        started = time.perf_counter()
        self.name = self.place.ready()
        self.load_seconds = time.perf_counter() - started
        self.cp: Any = self.place.machine.xp
        self.bandwidth = self._bandwidth()
        self.plain_multiply_adds, self.multiply_adds = self._multiply_adds(MULTIPLY_ADDS), self._multiply_adds(CARRIES)

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

    def kernel_seconds(self, kernel: str | None, call: Callable[[], object], repeats: int = REPEATS) -> float:
        """The same of one kernel in a call, or of all of them."""
        call()
        times, clock = [], KernelClock(self)
        for _ in range(repeats):
            with clock:
                call()
            times.append(sum(seconds for name, (_, seconds) in clock.totals().items() if kernel in (None, name)))
        return float(np.median(times))

    def _bandwidth(self) -> float:
        source = self.cp.arange(1 << 28, dtype=np.uint64)
        target = self.cp.empty_like(source)
        return 2 * source.nbytes / self.seconds(lambda: self.cp.copyto(target, source))

    def _multiply_adds(self, code: str) -> float:
        kernel = self.cp.RawModule(code=code, options=("--std=c++17",)).get_function("chains")
        blocks, rounds = 132 * 8, 2000
        out = self.cp.empty(blocks * 256, np.uint64)
        seconds = self.seconds(lambda: kernel((blocks,), (256,), (out, np.uint32(0x9E3779B1), np.int32(rounds))))
        return blocks * 256 * 64 * rounds / seconds

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
