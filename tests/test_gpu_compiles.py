"""Every kernel compiles for every generation of GPUs that is supported, with the compiler that users have: no GPU is needed."""

from __future__ import annotations

import re
from functools import cache

import pytest
from nvrtc_compiler import Nvrtc

from zkaudit.zk import _twin
from zkaudit.zk.gpu.cuda import FILES, OPTIONS, SOURCES, kernels_of

pytestmark = pytest.mark.slow

GENERATIONS = ("sm_80", "sm_90", "sm_100")


@cache
def compiler() -> Nvrtc:
    return Nvrtc()


@cache
def compiled(name: str, generation: str) -> bytes:
    source = (SOURCES / "gpu" / f"{name}.cu").read_text()
    includes = (f"-I{SOURCES}", f"-I{SOURCES / 'gpu'}")
    return compiler().cubin(source, (*OPTIONS, *includes, f"-arch={generation}"))


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("name", FILES)
def test_sources_compile(name: str, generation: str) -> None:
    assert compiled(name, generation).startswith(b"\x7fELF")


def test_the_twin_and_the_gpu_have_the_same_kernels() -> None:
    binaries = b"".join(compiled(name, "sm_90") for name in FILES)
    found = {match.decode() for match in re.findall(rb"\.text\.([a-z0-9_]+)\x00", binaries)}
    assert set(_twin.kernels()) == found
    assert found == {kernel for name in FILES for kernel in kernels_of((SOURCES / "gpu" / f"{name}.cu").read_text())}


def test_a_mistake_is_named() -> None:
    with pytest.raises(RuntimeError, match="nonsense"):
        compiler().cubin("nonsense", ("-arch=sm_90",))
