"""Records behind each gradient, counted from a run's step records."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.records_meter import exposures, measure_records
from zkaudit.training.batch.uniform import UniformSampler
from zkaudit.training.batch.view_batch import ViewBatchSampler
from zkaudit.training.step_file import NAME, StepWriter
from zkaudit.training.steps import StepRecord

weights = st.just(0.0) | st.floats(1e-3, 1e3)


@given(st.lists(st.tuples(st.integers(0, 3), weights), min_size=1).filter(lambda rows: any(w > 0 for _, w in rows)))
def test_the_effective_number_is_that_of_kish(rows: list[tuple[int, float]]) -> None:
    """Of the records' weights, each that of all its rows; against numpy."""
    ids, weights = (tuple(column) for column in zip(*rows, strict=True))
    [found] = exposures([StepRecord(0, ids, weights=weights)])
    together = np.bincount(ids, weights)
    assert found.effective_n == pytest.approx(together.sum() ** 2 / (together**2).sum(), rel=1e-9)
    assert found.distinct_records == np.count_nonzero(together)
    assert 1 - 1e-9 <= found.effective_n <= found.distinct_records + 1e-9


@pytest.mark.parametrize("size", [1e308, 5e-324])
def test_the_size_of_weights_does_not_matter(size: float) -> None:
    [found] = exposures([StepRecord(0, (0, 0, 1, 1), weights=(size,) * 4)])
    assert found.effective_n == 2


def test_equal_weights_count_every_record_once() -> None:
    [found] = exposures([StepRecord(3, (5, 2, 9, 2))])
    assert (found.step, found.rows, found.distinct_records) == (3, 4, 3)
    assert found.effective_n == pytest.approx(16 / 6)


def test_a_record_that_weighs_as_much_as_all_others_halves_the_number() -> None:
    [found] = exposures([StepRecord(0, tuple(range(101)), weights=(100.0, *(1.0,) * 100))])
    assert found.effective_n == pytest.approx(200**2 / (100**2 + 100))


def test_view_batches_have_fewer_records_behind_a_gradient(tmp_path: Path) -> None:
    worst = {}
    for name, sampler in (
        ("uniform", UniformSampler(64, 16, run_seed="a", steps=8)),
        ("views", ViewBatchSampler(64, 16, 4, run_seed="a", steps=8)),
    ):
        with StepWriter(tmp_path / name, "a", 64) as writer:
            for step in range(8):
                writer.write(StepRecord(step, **sampler.fields(step)))
        worst[name] = measure_records(tmp_path / name).worst
    assert (worst["uniform"].effective_n, worst["uniform"].rows) == (16, 16)
    assert (worst["views"].effective_n, worst["views"].distinct_records, worst["views"].rows) == (4, 4, 16)


def test_pieces_count_for_their_document(tmp_path: Path) -> None:
    with StepWriter(tmp_path, "a", 4, columns={"record": np.array([0, 0, 0, 1])}) as writer:
        writer.write(StepRecord(0, (0, 1, 2, 3)))
        writer.write(StepRecord(1, (3,)))
        writer.write(StepRecord(2, (2,), weights=(0.5,)))
    found = measure_records(tmp_path)
    assert [step.distinct_records for step in found.steps] == [2, 1, 1]
    assert found.steps[0].effective_n == pytest.approx(16 / 10)
    assert (found.most_seen, found.times) == (0, 2)
    assert found.worst.step == 1
    assert found.to_dict()["worst"]["step"] == 1
    assert "step 1, 1 rows of 1 records, as 1" in found.lines()[1]


def test_what_cannot_be_measured_is_named(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="cannot read"):
        measure_records(tmp_path)
    StepWriter(tmp_path, "a", 4).close()
    with pytest.raises(AuditError, match="records no step"):
        measure_records(tmp_path)
    (tmp_path / NAME).write_bytes((tmp_path / NAME).read_bytes() + b"{}\n")
    with pytest.raises(AuditError, match="line 2"):
        measure_records(tmp_path)
