"""An NVIDIA GPU through CuPy. Kernels are compiled where they run, by NVRTC, and kept in CuPy's cache on disk."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from zkaudit.zk.errors import BadInput
from zkaudit.zk.gpu.small import KINDS
from zkaudit.zk.gpu.staging import LARGE, Staging

HERE = Path(__file__).parent
SOURCES = next(folder for folder in (HERE / "sources", HERE.parents[1] / "cuda") if folder.is_dir())  # installed, or a checkout
FILES = ("vector", "small", "rounds", "leaf_layers", "leaves_0", "leaves_1", "leaves_2", "rows", "msm")
OPTIONS = ("--std=c++20", "--device-int128")
BLOCK = 128  # threads, as __launch_bounds__ says
OLDEST = 70  # compute capability times ten: 64-bit atomics and the carry chains of 32-bit words


class Cuda:
    """See Machine."""

    name = "cuda"

    def __init__(self) -> None:
        self.xp: Any = _cupy()
        self.kind = self.xp.ndarray
        self._kernels: dict[str, Any] = {}

    def ready(self) -> str:
        with ThreadPoolExecutor() as pool:  # the first time on a machine they are compiled
            list(pool.map(lambda module: module.compile(), self._modules))
        device = self.xp.cuda.Device()
        return str(self.xp.cuda.runtime.getDeviceProperties(device.id)["name"].decode())

    def memory_bytes(self) -> int:
        return int(self.xp.cuda.runtime.memGetInfo()[1])

    def is_scarce(self) -> bool:
        free, total = self.xp.cuda.runtime.memGetInfo()
        pool = self.xp.get_default_memory_pool()
        return bool(2 * (free + pool.free_bytes()) < total)

    def launch(self, kernel: str, threads: int, body: bytes) -> None:
        if kernel not in self._kernels:
            self._kernels[kernel] = self._find(kernel)
        by_value = np.frombuffer(body, f"V{len(body)}")
        self._kernels[kernel]((-(-threads // BLOCK),), (BLOCK,), (by_value, np.int64(threads)))

    def empty(self, shape: tuple[int, ...], dtype: Any = np.uint64) -> Any:
        return self.xp.empty(shape, dtype)

    def put(self, array: Any) -> Any:
        if isinstance(array, self.kind):
            return array
        if array.nbytes < LARGE or not array.flags.c_contiguous:
            return self.xp.asarray(array)
        return self._staging.put(array)

    def put_bytes(self, data: bytes) -> Any:
        return self.put(np.frombuffer(data, np.uint8))

    def get(self, array: Any) -> Any:
        return self.xp.asnumpy(array)

    def pointer(self, array: Any) -> int:
        if not array.flags.c_contiguous:
            raise ValueError("a kernel was given an array that is not contiguous")
        return int(array.data.ptr)

    @cached_property
    def _staging(self) -> Staging:
        from cupyx import empty_pinned

        return Staging(self.xp, empty_pinned)

    @cached_property
    def _modules(self) -> list[Any]:
        options = (*OPTIONS, f"-I{SOURCES}", f"-I{SOURCES / 'gpu'}")
        return [self.xp.RawModule(code=source, options=options, backend="nvrtc") for source in self._sources]

    @cached_property
    def _sources(self) -> list[str]:
        return [source_of(name) for name in FILES]

    def _find(self, kernel: str) -> Any:
        """A kernel's module is that of the source which names it."""
        for module, source in zip(self._modules, self._sources, strict=True):
            if kernel in kernels_of(source):
                return module.get_function(kernel)
        raise ValueError(f"no kernel is called {kernel}")


def source_of(name: str) -> str:
    """A source, and a digest of all headers: CuPy's cache goes by the text, and would keep what an older header gave."""
    headers = b"".join(path.read_bytes() for path in sorted(SOURCES.rglob("*.cuh")))
    return f"// headers {sha256(headers).hexdigest()}\n" + (SOURCES / "gpu" / f"{name}.cu").read_text()


def kernels_of(source: str) -> set[str]:
    """The kernels that a source defines, by the macros of kernel.cuh and leaf_blocks.cuh."""
    found = set(re.findall(r"ZK_KERNEL\((\w+),", source))
    found |= {f"{name}_{kind}" for name in re.findall(r"ZK_SMALL_KERNELS\((\w+),", source) for kind in KINDS}
    for what, level, rounds in re.findall(r"ZK_LEAF_(WRITE|ROUND)\((\d), (\d)\)", source):
        names = ("prepare_leaves", "leaf_write") if what == "WRITE" else ("leaf_round",)
        found |= {f"{name}_{level}_{rounds}" for name in names}
    return found


def _cupy() -> Any:
    """CuPy, if it and a GPU are there."""
    try:
        import cupy
    except ImportError:
        raise BadInput("--device cuda needs CuPy: pip install 'zkaudit[gpu]'") from None
    try:
        count = cupy.cuda.runtime.getDeviceCount()
        capability = int(cupy.cuda.Device().compute_capability) if count else 0
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise BadInput(f"--device cuda: {error}; is an NVIDIA GPU there, and its driver recent enough?") from None
    if count == 0:
        raise BadInput("--device cuda: this machine has no NVIDIA GPU")
    if capability < OLDEST:
        raise BadInput(f"--device cuda: this GPU has compute capability {capability / 10}; {OLDEST / 10} is needed")
    return cupy
