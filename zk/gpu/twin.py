"""The twin: a GPU's kernels run by the CPU, on arrays that refuse, as a GPU's do, to be mixed with the host's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from zkaudit.zk import _twin


class TwinArray(np.ndarray[Any, Any]):
    """An array in the twin's memory."""

    def __array_function__(self, function: Any, types: Any, arguments: Any, keywords: Any) -> Any:
        if any(kind is np.ndarray for kind in types):
            raise TypeError(f"{function.__name__} mixes arrays of the host and of the twin")
        return _taken(super().__array_function__(function, types, arguments, keywords))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **keywords: Any) -> Any:
        if any(type(x) is np.ndarray and x.ndim for x in inputs):
            raise TypeError(f"{ufunc.__name__} mixes arrays of the host and of the twin")
        plain = [x.view(np.ndarray) if isinstance(x, TwinArray) else x for x in inputs]
        outputs = keywords.get("out")
        if outputs is not None:
            keywords["out"] = tuple(x.view(np.ndarray) for x in outputs)
        result = getattr(ufunc, method)(*plain, **keywords)
        return outputs[0] if outputs is not None else _taken(result)


class Twin:
    """See Machine."""

    name = "twin"
    kind: type[Any] = TwinArray
    scarce = False
    memory = 1 << 40
    largest: int | None = None  # bytes of an allocation
    xp: Any = SimpleNamespace(
        zeros=lambda *given: np.zeros(*given).view(TwinArray),
        full=lambda *given: np.full(*given).view(TwinArray),
        ascontiguousarray=lambda a, dtype=None: np.ascontiguousarray(a.view(np.ndarray), dtype).view(TwinArray),
    )

    def ready(self) -> str:
        return "twin of a GPU"

    def memory_bytes(self) -> int:
        return self.memory

    def is_scarce(self) -> bool:
        return self.scarce

    def launch(self, kernel: str, threads: int, body: bytes) -> None:
        _twin.launch(kernel, np.frombuffer(body, np.uint8), threads)

    def empty(self, shape: tuple[int, ...], dtype: Any = np.uint64) -> Any:
        if self.largest is not None and np.prod(shape) * np.dtype(dtype).itemsize > self.largest:
            raise MemoryError
        return np.full(shape, 0xA5, dtype).view(TwinArray)  # what nobody writes must show

    def put(self, array: Any) -> Any:
        return array if isinstance(array, TwinArray) else np.array(array, order="C").view(TwinArray)

    def put_bytes(self, data: bytes) -> Any:
        return self.put(np.frombuffer(data, np.uint8))

    def get(self, array: Any) -> Any:
        return np.array(array.view(np.ndarray)) if isinstance(array, TwinArray) else array

    def pointer(self, array: Any) -> int:
        if not array.flags.c_contiguous:
            raise ValueError("a kernel was given an array that is not contiguous")
        return int(array.__array_interface__["data"][0])


def _taken(result: Any) -> Any:
    return result.view(TwinArray) if isinstance(result, np.ndarray) and result.ndim else result
