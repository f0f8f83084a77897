"""What is said where a GPU is asked for and there is none to use: one sentence, and what to do."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from zkaudit_process import Proved

from zkaudit.cli.command_line import main
from zkaudit.zk import gpu
from zkaudit.zk.backend import HOST
from zkaudit.zk.errors import BadInput


class RuntimeFault(RuntimeError):
    """CuPy's own."""


def stand_in(count: int = 1, capability: str = "90", fault: str = "") -> Any:
    """As much of CuPy as is asked before anything is computed."""

    def get_device_count() -> int:
        if fault:
            raise RuntimeFault(fault)
        return count

    runtime = SimpleNamespace(getDeviceCount=get_device_count, CUDARuntimeError=RuntimeFault)
    device = SimpleNamespace(compute_capability=capability)
    return SimpleNamespace(cuda=SimpleNamespace(runtime=runtime, Device=lambda: device), ndarray=type("ndarray", (), {}))


CASES = {
    "needs CuPy: pip install": None,
    "this machine has no NVIDIA GPU": stand_in(count=0),
    "compute capability 6.1; 7.0 is needed": stand_in(capability="61"),
    "driver version is insufficient.*is an NVIDIA GPU there, and its driver recent enough": stand_in(
        fault="cudaErrorInsufficientDriver: CUDA driver version is insufficient"
    ),
}


@pytest.mark.parametrize("said", CASES)
def test_no_gpu_is_one_sentence(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", CASES[said])
    with pytest.raises(BadInput, match=said):
        gpu.place("cuda")
    assert gpu.place("auto") is HOST


def test_an_unknown_device_is_named() -> None:
    with pytest.raises(BadInput, match="device 'tpu' is not known; choose one of cpu, cuda"):
        gpu.place("tpu")


def test_the_command_says_it(
    smallest: Proved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert main(["prove", str(smallest.run), "--out", str(tmp_path / "proof"), "--device", "cuda"]) == 2
    assert "zkaudit: --device cuda needs CuPy: pip install 'zkaudit[gpu]'" in capsys.readouterr().err
    assert not (tmp_path / "proof").exists()
