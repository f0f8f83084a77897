"""Training whose ranges are checked at a step's end, and on a GPU: the same bytes and messages as the ordinary way."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_training import DIGITS, Problem, problems
from zkaudit_process import assert_refused, zkaudit

from zkaudit.training import config as configuration
from zkaudit.training.config import FixedPoint, ModelConfig, RunConfig, Settings
from zkaudit.training.errors import TrainingError
from zkaudit.training.fixedpoint import prepare, train
from zkaudit.training.fixedpoint.deferred import DeferredStep, Parcel, deferred_steps
from zkaudit.training.fixedpoint.device import choose
from zkaudit.training.fixedpoint.exact import EXACT, bounded_product, bounded_update, magnitude, split
from zkaudit.training.fixedpoint.step import Step
from zkaudit.training.trace import TraceWriter

gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch.cuda sees no GPU")]
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="torch.cuda sees a GPU")
WAYS = [
    {"deferred": True},
    pytest.param({"device": "cuda"}, marks=gpu),
    pytest.param({"device": "cuda", "deferred": False}, marks=gpu),
]


def course(problem: Problem, **where: Any) -> list[Any]:
    """What reaches the sink, step by step, and then the end weights, or the message that the run ends with."""
    seen: list[Any] = []

    def sink(arrays: Any, weights: Any) -> None:
        seen.append({name: (array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items()})
        seen.append([np.ascontiguousarray(matrix, "<i8").tobytes() for matrix in weights])

    start = [torch.from_numpy(matrix) for matrix in problem.start]
    x, y = torch.from_numpy(problem.x), torch.from_numpy(problem.y)
    try:
        end = train(start, x, y, problem.batches, problem.settings, sink, **where)
    except TrainingError as error:
        return [*seen, str(error)]
    return [*seen, [matrix.numpy().tobytes() for matrix in end]]


@pytest.mark.parametrize("where", WAYS)
@settings(max_examples=80)
@given(problem=problems())
def test_every_way_gives_the_same_numbers_or_the_same_message(where: dict[str, Any], problem: Problem) -> None:
    assert course(problem) == course(problem, **where)


def overflowing(step: int, steps: int = 4) -> Problem:
    """One input of 1 a step but for a large one at `step`, which the second layer's weight carries out of its range."""
    x = np.full((steps, 1), 1 << 8)
    x[step] = (1 << 15) - 1
    start = [np.array([[1 << 32], [0]]), np.array([[2 << 32], [0]])]
    batches = np.arange(steps)[:, None]
    return Problem((1, 1, 1), Settings("square", 1, (1,) * steps, FixedPoint()), x, np.full((steps, 1), 256), start, batches)


@pytest.mark.parametrize("where", WAYS)
@pytest.mark.parametrize("step", range(4))
def test_a_step_that_leaves_its_range_is_named_and_never_handed_on(step: int, where: dict[str, Any]) -> None:
    found = course(overflowing(step), **where)
    assert len(found) == 2 * step + 1
    assert found[-1].startswith(f"step {step + 1} of 4, layer 2 of 2: the output ")
    assert found == course(overflowing(step))


@pytest.mark.parametrize("where", WAYS)
def test_outputs_too_far_apart_for_the_exponential_table_are_refused_alike(where: dict[str, Any]) -> None:
    start = [np.array([[8 << 32, -8 << 32], [0, 0]]) - np.array([[1, -1], [0, 0]])]
    x, y, batches = np.full((1, 1), (1 << 15) - 1), np.array([[0, 1]]), np.zeros((1, 1), np.int64)
    problem = Problem((1, 2), Settings("cross_entropy", 1, (1,), FixedPoint()), x, y, start, batches)
    (message,) = course(problem, **where)
    assert message.startswith("step 1 of 1, layer 1 of 1: the output 262136 ")
    assert [message] == course(problem)


def large_step(loss: str) -> Problem:
    """Three layers at the default widths and a usual learning rate."""
    random, widths = np.random.default_rng(2), (40, 30, 20, 10)
    bits = FixedPoint()
    one = 256 if loss == "square" else 1
    start = [random.uniform(-1, 1, (d + 1, units)) * d**-0.5 * 2**32 for d, units in itertools.pairwise(widths)]
    return Problem(
        widths,
        Settings(loss, 32, (8, 8), bits),
        random.integers(-512, 512, (64, 40)),
        np.eye(10, dtype=np.int64)[random.integers(0, 10, 64)] * one,
        [matrix.astype(np.int64) for matrix in start],
        random.integers(0, 64, (2, 32)),
    )


@pytest.mark.parametrize("loss", configuration.LOSSES)
def test_usual_steps_pass_without_a_second_look(loss: str) -> None:
    problem = large_step(loss)
    x, y = torch.from_numpy(problem.x).double(), torch.from_numpy(problem.y)
    weights = [torch.from_numpy(matrix).double() for matrix in problem.start]
    largest = [magnitude(matrix) for matrix in weights]
    rows = torch.from_numpy(problem.batches[0])
    deferred = DeferredStep(0, weights, largest, problem.settings, 2, magnitude(x), magnitude(y))
    seen = Parcel(deferred.run(x[rows], y[rows]), deferred.seen, problem.settings).seen()
    assert deferred.passes(seen)
    for _ in deferred_steps(range(2), weights, x, y, problem.batches, problem.settings):
        pass
    untouched = zip(weights, problem.start, strict=True)  # a second look would have updated them in place
    assert all((matrix.numpy() == start).all() for matrix, start in untouched)
    Step(0, weights, largest, problem.settings, 2).run(x[rows], y[rows])
    assert deferred.largest_after(seen) == largest
    assert all(torch.equal(a, b) for a, b in zip(deferred.weights, weights, strict=True))


def test_a_step_passes_at_the_ends_of_its_ranges_and_fails_beyond() -> None:
    problem = large_step("square")
    weights = [torch.from_numpy(matrix).double() for matrix in problem.start]
    step = DeferredStep(0, weights, [magnitude(matrix) for matrix in weights], problem.settings, 2, 512, 256)
    step.run(*(torch.from_numpy(a[:32]).to(kind) for a, kind in ((problem.x, torch.float64), (problem.y, torch.int64))))
    ends = [bound for pair in step.allowed for bound in pair]
    assert step.passes(ends)
    for i in range(len(ends)):
        beyond = ends.copy()
        beyond[i] += 1 if i % 2 else -1
        assert not step.passes(beyond), i
    assert set(step.allowed) == {(-(1 << 16), (1 << 16) - 1), (-(1 << 15), (1 << 15) - 1), (1 - EXACT, EXACT - 1)}


@given(st.lists(st.integers(-EXACT, EXACT), min_size=1, max_size=4), st.integers(1, 48), st.integers(0, 8))
def test_limbs_make_the_numbers_and_are_as_small_as_promised(values: list[int], shift: int, more: int) -> None:
    size, room = max(map(abs, values)), (1 << shift) + more
    limbs = split(torch.tensor(values, dtype=torch.float64), size, shift, room)
    columns = zip(*(limb.long().tolist() for limb in limbs), strict=True)
    for value, column in zip(values, columns, strict=True):
        assert sum(limb << (i * shift) for i, limb in enumerate(column)) == value
        assert all(0 <= limb < 1 << shift for limb in column[:-1])
        assert abs(column[-1]) <= room


@settings(max_examples=150)
@given(st.data())
def test_products_of_bounded_size_are_exact_or_refused(draws: st.DataObject) -> None:
    rows, inner, columns = (draws.draw(st.integers(1, 5)) for _ in range(3))
    bits = draws.draw(st.integers(16, 48))
    left_size, right_size = 1 << draws.draw(st.integers(0, 40)), (1 << draws.draw(st.integers(0, 52))) - 1

    def matrix(height: int, width: int, size: int) -> Any:
        entries = st.one_of(st.sampled_from([-size, size, max(0, size - 1), min(0, 1 - size)]), st.integers(-size, size))
        drawn = draws.draw(st.lists(entries, min_size=height * width, max_size=height * width))
        return np.array(drawn, object).reshape(height, width)

    left, right = matrix(rows, inner, left_size), matrix(inner, columns, right_size)
    total = left.dot(right) + (1 << (bits - 1))
    try:
        quotient, remainder = bounded_product(_double(left), left_size, _double(right), right_size, bits)
    except TrainingError:
        assert inner * right_size * max(left_size >> 4, 1 << 4) > 1 << 47
        return
    assert (total // (1 << bits) == quotient.numpy()).all()
    assert (total % (1 << bits) == remainder.numpy()).all()


@given(st.integers(1, 1 << 20), st.integers(1, 1 << 30), st.integers(1, 1 << 10), st.integers(-EXACT + 1, EXACT - 1))
def test_update_of_bounded_size_is_exact_or_refused(a: int, g: int, rate: int, weight: int) -> None:
    left, right = np.array([[a, -a]], object), np.array([[g], [1 - g]], object)
    target = _double(np.array([[weight]], object))
    try:
        updated = bounded_update(target, abs(weight), _double(left), _double(right), 2 * a * g, rate)
    except TrainingError:
        assert 2 * a * g * rate + abs(weight) > EXACT
        return
    assert int(updated) == weight - rate * int(left.dot(right)[0, 0])
    assert int(target) == weight


def _double(matrix: Any) -> torch.Tensor:
    return torch.from_numpy(matrix.astype(np.float64))


def digits() -> tuple[RunConfig, Any]:
    """A run of many chunks, and its batches."""
    loaded = configuration.load(DIGITS)
    training = dataclasses.replace(loaded.training, learning_rate=(0.5,) * 60, steps=60)
    config = dataclasses.replace(loaded, training=training, model=ModelConfig((96, 64), init_seed=3))
    return config, np.random.default_rng(0).integers(0, 1000, (60, training.batch))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_trace_of_deferred_steps_is_the_ordinary_trace(tmp_path: Path) -> None:
    config, batches = digits()
    ordinary, run = prepare(config, tmp_path / "ordinary"), prepare(config, tmp_path / "deferred")
    ordinary.train(batches)
    trace: TraceWriter = run.trace
    x = np.fromfile(trace.folder / "data.x.bin", "<i4").reshape(run.rows, -1).astype(np.int64)
    y = np.fromfile(trace.folder / "data.y.bin", "<i4").reshape(run.rows, -1).astype(np.int64)
    start = [torch.from_numpy(matrix) for matrix in trace.start()]
    train(start, torch.from_numpy(x), torch.from_numpy(y), batches, config.settings, trace.write, deferred=True)
    trace.finish()
    expected = files(tmp_path / "ordinary")
    assert len([name for name in expected if name.endswith("/z0.bin")]) > 3
    assert expected == files(tmp_path / "deferred")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch.cuda sees no GPU")
@pytest.mark.parametrize("loss", configuration.LOSSES)
@pytest.mark.parametrize("bits", [FixedPoint(), FixedPoint(6, 10, 24), FixedPoint(8, 12, 40)])
def test_trace_and_accuracies_of_a_gpu_are_the_cpus(bits: FixedPoint, loss: str, tmp_path: Path) -> None:
    config, batches = digits()
    training = dataclasses.replace(config.training, loss=loss, learning_rate=(0.25 if loss == "square" else 0.5,) * 60)
    config = dataclasses.replace(config, training=training, fixed_point=bits)
    cpu, cuda = (prepare(config, tmp_path / name).train(batches, device=name) for name in ("cpu", "cuda"))
    assert files(tmp_path / "cpu") == files(tmp_path / "cuda")
    assert (cpu.test_accuracy, cpu.float_test_accuracy) == (cuda.test_accuracy, cuda.float_test_accuracy)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch.cuda sees no GPU")
@pytest.mark.parametrize("devices", [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_stopped_run_goes_on_elsewhere(devices: tuple[str, str], tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(done: int, steps: int) -> None:
        if done == 40:
            raise Stop

    config, batches = digits()
    with pytest.raises(Stop):
        prepare(config, tmp_path / "moved").train(batches, stop, devices[0])
    resumed = prepare(config, tmp_path / "moved")
    assert 0 < resumed.trace.done <= 40
    resumed.train(batches, device=devices[1])
    prepare(config, tmp_path / "whole").train(batches)
    assert files(tmp_path / "moved") == files(tmp_path / "whole")


@needs_no_gpu
@pytest.mark.skipif(torch.version.cuda is not None, reason="torch is built with CUDA")
def test_a_torch_without_cuda_is_named() -> None:
    with pytest.raises(
        TrainingError, match=rf"torch {torch.__version__}".replace("+", r"\+") + " is built without it: install"
    ):
        choose("cuda")


@needs_no_gpu
def test_a_missing_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(TrainingError, match=r"NVIDIA GPU with a driver for CUDA 13\.0.*nvidia-smi"):
        choose("cuda")


@needs_no_gpu
def test_auto_is_the_cpu_where_there_is_no_gpu() -> None:
    assert choose("auto") == choose("cpu") == torch.device("cpu")


@needs_no_gpu
def test_train_on_a_gpu_that_is_missing_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    assert_refused(zkaudit("train", DIGITS, "--out", tmp_path / "run", "--device", "cuda"), "--device cuda")
    assert not (tmp_path / "run").exists()
