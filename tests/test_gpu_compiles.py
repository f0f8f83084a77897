"""Every kernel compiles for every generation of GPUs that is supported, with the compiler that users have: no GPU is needed."""

from __future__ import annotations

import re
import shutil
from functools import cache
from pathlib import Path

import pytest
from nvrtc_compiler import Nvrtc

from zkaudit.zk import _twin
from zkaudit.zk.gpu import cuda
from zkaudit.zk.gpu.cuda import FILES, OPTIONS, SOURCES, kernels_of, source_of

pytestmark = pytest.mark.slow

GENERATIONS = ("sm_80", "sm_90", "sm_100")


@cache
def compiler() -> Nvrtc:
    return Nvrtc()


@cache
def compiled(name: str, generation: str) -> bytes:
    source = source_of(name)
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
    assert found == {kernel for name in FILES for kernel in kernels_of(source_of(name))}


def test_a_changed_header_is_another_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = source_of("vector")
    shutil.copytree(SOURCES, tmp_path / "cuda")
    monkeypatch.setattr(cuda, "SOURCES", tmp_path / "cuda")
    assert source_of("vector") == before
    with (tmp_path / "cuda" / "field.cuh").open("a") as header:
        header.write("// changed\n")
    assert source_of("vector") != before


def test_a_mistake_is_named() -> None:
    with pytest.raises(RuntimeError, match="nonsense"):
        compiler().cubin("nonsense", ("-arch=sm_90",))
