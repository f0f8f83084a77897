"""Triton kernels where there is no GPU: run by the interpreter on a CPU, and compiled for a GPU that is not there."""

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def interpreted(name: str, *needed: ModuleType) -> ModuleType:
    """The kernels' module once more, for the interpreter: Triton asks when a kernel is defined.

    `needed` are interpreted modules whose functions its kernels call.
    """
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        for other in needed:
            patch.setitem(sys.modules, other.__name__, other)
        spec.loader.exec_module(module)
    return module


def assert_compiles(kernel: Any, signature: Mapping[str, str], constants: Mapping[str, Any], cache: Path) -> None:
    """The kernel's machine code for compute capability 9.0; `signature` names its first arguments, the others are constants."""
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    assert kernel.arg_names[: len(signature)] == list(signature)
    names = kernel.arg_names[len(signature) :]
    chosen = {(kernel.arg_names.index(name),): constants[name] for name in names}
    source = ASTSource(kernel, {**signature, **dict.fromkeys(names, "constexpr")}, chosen)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(cache))
        assert compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]
