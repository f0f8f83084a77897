"""Triton kernels for the interpreter, which runs them on a CPU."""

import importlib.util
from types import ModuleType

import pytest


def interpreted(name: str) -> ModuleType:
    """The kernels' module once more, for the interpreter: Triton asks when a kernel is defined."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        spec.loader.exec_module(module)
    return module
