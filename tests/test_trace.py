"""The trace folder: what it holds, and that a run stopped at any moment goes on to the same bytes."""

from __future__ import annotations

import dataclasses
import json
import resource
import signal
import stat
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zkaudit.training import trace as trace_module
from zkaudit.training.config import DataConfig, FixedPoint, ModelConfig, RunConfig, TrainingConfig
from zkaudit.training.errors import TrainingError
from zkaudit.training.fixedpoint import dequantise, prepare
from zkaudit.training.trace import TraceWriter, manifest_of, step_arrays
from zkaudit.zk.testing.reference_trainer import reference_run
from zkaudit.zk.trace import read_trace

STEPS, BATCH, ROWS = 10, 3, 112


@pytest.fixture(autouse=True)
def _short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_module, "LONGEST_CHUNK", 4)


def configuration(loss: str = "cross_entropy", weight_bits: int = 32, seed: int | None = 1) -> RunConfig:
    training = TrainingConfig(loss, BATCH, STEPS, (0.05,) * STEPS, "seed")
    return RunConfig(DataConfig("iris"), ModelConfig((5, 3), seed), training, FixedPoint(8, 12, weight_bits))


def batches() -> Any:
    return np.random.default_rng(0).integers(0, ROWS, (STEPS, BATCH))


def train(run: Path, config: RunConfig | None = None) -> None:
    prepare(config or configuration(), run).train(batches())


def content(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("loss", ["cross_entropy", "square"])
@pytest.mark.parametrize("weight_bits", [32, 33])
def test_reader_finds_what_the_reference_computes(loss: str, weight_bits: int, tmp_path: Path) -> None:
    config = configuration(loss, weight_bits)
    train(tmp_path, config)
    trace = read_trace(tmp_path / "trace")
    assert trace.complete
    x, y = trace.data()
    bits, rates = dataclasses.astuple(config.fixed_point), config.settings.rates
    expected = reference_run(trace.widths, loss, *bits, rates, x, y, trace.state_before(0)[1], batches())
    remainder = "<u4" if weight_bits <= 32 else "<i8"
    kinds = {"z": "<i4", "r": remainder, "ga": "<i4", "rg": remainder}
    stored = {f"{name}{j}": kind for j in range(3) for name, kind in kinds.items()} | {"p": "<i4", "rho": "<i8"}
    for name, kind in stored.items():
        assert (name in expected) == (tmp_path / "trace" / "chunk-00000" / f"{name}.bin").exists()
        if name in expected:
            layer = int(name[-1]) if name[-1].isdigit() else 2
            assert (trace.samples(name, kind, layer, 0, STEPS) == expected[name].reshape(STEPS * BATCH, -1).T).all(), name
    at, end = trace.state_before(STEPS)
    assert at == STEPS
    assert all((expected[f"end.w{j}"] == matrix).all() for j, matrix in enumerate(end))
    assert (batches() == trace.batches(0, STEPS)).all()


def test_manifest_says_what_the_documentation_lists(tmp_path: Path) -> None:
    prepare(configuration(), tmp_path)
    assert json.loads((tmp_path / "trace" / "manifest.json").read_text()) == {
        "format": "zkaudit-trace",
        "version": 1,
        "widths": [4, 5, 3, 3],
        "loss": "cross_entropy",
        "batch": BATCH,
        "steps": STEPS,
        "rows": ROWS,
        "activation_bits": 8,
        "gradient_bits": 12,
        "weight_bits": 32,
        "learning_rate": [68] * STEPS,
        "seed": "seed",
        "chunk_steps": 4,
    }


def test_owner_alone_reads_the_trace(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(run)
    assert {oct(stat.S_IMODE(path.stat().st_mode)) for path in [run, *run.rglob("*")] if path.is_dir()} == {"0o700"}
    assert {oct(stat.S_IMODE(path.stat().st_mode)) for path in run.rglob("*") if path.is_file()} == {"0o600"}


def test_files_are_those_of_the_documentation(tmp_path: Path) -> None:
    train(tmp_path)
    steps = {"batch", "z0", "z1", "z2", "r0", "r1", "r2", "ga0", "ga1", "rg0", "rg1", "p", "rho"}
    chunk = steps | {"weights0", "weights1", "weights2"}
    expected = {f"chunk-{i:05d}/{name}.bin" for i in range(3) for name in chunk}
    expected |= {"manifest.json", "complete", "data.x.bin", "data.y.bin", *(f"start.w{j}.bin" for j in range(3))}
    assert expected == content(tmp_path / "trace").keys()


class Stopped(Exception):
    pass


@pytest.mark.parametrize("stops", [[1], [4], [5, 7], [9, 10]])
def test_interrupted_run_goes_on_to_the_same_bytes(stops: list[int], tmp_path: Path) -> None:
    train(tmp_path / "whole")
    for stop in stops:

        def progress(done: int, steps: int, stop: int = stop) -> None:
            assert steps == STEPS
            if done == stop:
                raise Stopped

        with pytest.raises(Stopped):
            prepare(configuration(), tmp_path / "stopped").train(batches(), progress)
        assert not (tmp_path / "stopped" / "trace" / "complete").exists()
    seen: list[int] = []
    run = prepare(configuration(), tmp_path / "stopped")
    first = stops[-1] // 4 * 4 if stops[-1] < STEPS else STEPS
    assert run.trace.done == first
    run.train(batches(), lambda done, _: seen.append(done))
    assert seen == list(range(first + 1, STEPS + 1))
    assert content(tmp_path / "whole") == content(tmp_path / "stopped")


KILLED = """
import os, signal, sys
from pathlib import Path
import test_trace
test_trace.trace_module.LONGEST_CHUNK = 4
run = test_trace.prepare(test_trace.configuration(seed=None), Path(sys.argv[1]))
run.train(test_trace.batches(), lambda done, steps: done == 6 and os.kill(os.getpid(), signal.SIGKILL))
"""


@pytest.mark.slow
def test_killed_run_with_a_start_from_the_system_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed")]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / "killed" / "trace" / ".chunk.part").exists()
    killed = prepare(configuration(seed=None), tmp_path / "killed")
    result = killed.train(batches())
    model = dequantise(result.start, FixedPoint())
    prepare(configuration(seed=None), tmp_path / "whole", model=model).train(batches())
    assert content(tmp_path / "whole") == content(tmp_path / "killed")


@pytest.fixture
def _small_files() -> Iterator[None]:
    """Writes beyond 200 bytes fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("_small_files")
def test_full_disk_at_the_start_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="cannot write"):
        prepare(configuration(), tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


def test_full_disk_during_training_loses_no_chunk(tmp_path: Path) -> None:
    train(tmp_path / "whole")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def progress(done: int, _: int) -> None:
        if done == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (60, hard))

    try:
        with pytest.raises(TrainingError, match="cannot write"):
            prepare(configuration(), tmp_path / "full").train(batches(), progress)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in (tmp_path / "full" / "trace").iterdir() if "chunk" in path.name] == ["chunk-00000"]
    train(tmp_path / "full")
    assert content(tmp_path / "whole") == content(tmp_path / "full")


def _changed(**training: Any) -> RunConfig:
    config = configuration()
    return dataclasses.replace(config, training=dataclasses.replace(config.training, **training))


OTHERS = {
    "seed": (_changed(seed="other"), "seed"),
    "rate": (_changed(learning_rate=(0.06,) * STEPS), "learning_rate"),
    "steps": (_changed(steps=11, learning_rate=(0.05,) * 11), "steps"),
    "widths": (dataclasses.replace(configuration(), model=ModelConfig((5, 4), 1)), "widths"),
    "rows": (dataclasses.replace(configuration(), data=DataConfig("iris", 0.3)), "rows"),
    "start": (configuration(seed=2), "start model"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_run_of_another_configuration_is_refused(what: str, tmp_path: Path) -> None:
    prepare(configuration(), tmp_path)
    config, word = OTHERS[what]
    with pytest.raises(TrainingError, match=word) as caught:
        prepare(config, tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_run_on_other_data_of_the_same_shape_is_refused(tmp_path: Path) -> None:
    dataset = prepare(configuration(), tmp_path).dataset
    other = dataset.x_train.copy()
    other[5, 2] += 0.01
    with pytest.raises(TrainingError, match="other data"):
        prepare(configuration(), tmp_path, dataclasses.replace(dataset, x_train=other))


def test_steps_stored_for_other_batches_are_refused(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(TrainingError, match="other batches"):
        prepare(configuration(), tmp_path).train((batches() + 1) % ROWS)


def test_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first = prepare(configuration(), tmp_path).train(batches())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = prepare(configuration(), tmp_path).train(batches())
    assert all((a == b).all() for a, b in zip(first.end, again.end, strict=True))
    assert (first.test_accuracy, first.float_test_accuracy) == (again.test_accuracy, again.float_test_accuracy)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    train(tmp_path)
    path = tmp_path / "trace" / "chunk-00002" / "weights1.bin"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(TrainingError, match=r"weights1\.bin"):
        prepare(configuration(), tmp_path).train(batches())


def test_memory_does_not_grow_with_the_run(tmp_path: Path) -> None:
    training = TrainingConfig("square", 64, 40, (0.05,) * 40, "seed")
    config = RunConfig(DataConfig("iris"), ModelConfig((512, 512)), training)
    manifest = manifest_of(config, (4, 512, 512, 3), ROWS)
    start = [np.zeros((d + 1, units), np.int64) for d, units in ((4, 512), (512, 512), (512, 3))]
    writer = TraceWriter.create(tmp_path / "trace", manifest, np.zeros((ROWS, 4)), np.zeros((ROWS, 3)), start)
    arrays = {name: np.zeros(shape, kind) for name, (kind, shape) in step_arrays(manifest).items()}
    tracemalloc.start()
    for _ in range(40):
        writer.write(arrays, start)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    writer.finish()
    assert peak < 2 * sum(array.nbytes for array in arrays.values())
