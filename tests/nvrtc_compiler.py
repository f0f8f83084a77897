"""NVRTC from its wheel, by ctypes: compiles for any GPU on a machine that has none."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path


class Nvrtc:
    """The library; `cubin` compiles with it."""

    def __init__(self) -> None:
        (root,) = find_spec("nvidia").submodule_search_locations  # a namespace package
        (path,) = sorted(Path(root).glob("cu*/lib/libnvrtc.so.*[0-9]"))[:1]
        self._library = ctypes.CDLL(str(path))

    def cubin(self, source: str, options: Sequence[str]) -> bytes:
        """The machine code; RuntimeError with the compiler's words if there is none."""
        call, program = self._library, ctypes.c_void_p()
        assert call.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None) == 0
        try:
            given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            failed = call.nvrtcCompileProgram(program, len(options), given)
            if failed:
                raise RuntimeError(self._text(program, "ProgramLog"))
            return self._bytes(program, "CUBIN")
        finally:
            call.nvrtcDestroyProgram(ctypes.byref(program))

    def _bytes(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        assert getattr(self._library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)) == 0
        content = ctypes.create_string_buffer(size.value)
        assert getattr(self._library, f"nvrtcGet{what}")(program, content) == 0
        return content.raw

    def _text(self, program: ctypes.c_void_p, what: str) -> str:
        return self._bytes(program, what).rstrip(b"\0").decode()
