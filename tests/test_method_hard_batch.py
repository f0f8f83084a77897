"""Hard batches: the released rule step by step, ties to the lower number, and choices that recorded losses give again."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zkaudit.training.batch.hard_batch import UNIT, HardBatchSampler
from zkaudit.training.errors import TrainingError
from zkaudit.training.replay import replay
from zkaudit.training.step_file import StepFile, StepWriter
from zkaudit.training.steps import StepRecord


def published(losses: list[list[float]], batches: int, delta: float, epochs: int) -> list[int]:
    """Numbers of the batches visited, by the paper's rule; losses[n][b]: of batch b were it visited as update n."""
    visited = list(range(batches))
    remembered = np.array([losses[b][b] for b in visited])
    while len(visited) < epochs * batches:
        hardest = np.sort(np.argsort(-remembered, kind="stable")[: max(1, int(np.floor(delta * batches)))])
        for b in hardest:
            if len(visited) < epochs * batches:
                remembered[b] = losses[len(visited)][b]
                visited.append(int(b))
    return visited


@given(st.integers(1, 9), st.integers(1, 4), st.sampled_from([0.2, 0.5, 0.8, 1.0]), st.data())
def test_batches_are_visited_by_the_published_rule(batches: int, epochs: int, delta: float, data: st.DataObject) -> None:
    table = np.array(
        data.draw(st.lists(st.integers(0, 4), min_size=epochs * batches**2, max_size=epochs * batches**2)), float
    ).reshape(-1, batches)  # few values, so that there are ties
    sampler = HardBatchSampler(batches * 2, 2, epochs, delta, shuffle=False, run_seed="a")
    found = []
    for step, rows in enumerate(sampler):
        found.append(rows[0] // 2)
        assert rows == [rows[0], rows[0] + 1]
        sampler.report(float(table[step, found[-1]]))
    assert found == published(table.tolist(), batches, delta, epochs)


def test_ties_go_to_the_lower_number() -> None:
    sampler = HardBatchSampler(8, 2, 2, 0.5, shuffle=False, run_seed="a")
    visited = []
    for rows in sampler:
        visited.append(rows[0] // 2)
        sampler.report(1.0)
    assert visited == [0, 1, 2, 3, 0, 1, 0, 1]


def test_a_partition_is_cut_once() -> None:
    sampler = HardBatchSampler(10, 3, 3, 1.0, run_seed="a")
    visited = []
    for rows in sampler:
        visited.append(tuple(rows))
        sampler.report(float(len(visited) % 5))
    assert sorted(row for rows in visited[:4] for row in rows) == list(range(10))
    assert visited[4:8] == visited[:4] == visited[8:]
    assert visited[:4] != [(0, 1, 2), (3, 4, 5), (6, 7, 8), (9,)]


def test_row_by_row_the_hardest_share_comes_back() -> None:
    sampler = HardBatchSampler(8, 2, 2, 0.5, granularity="sample", shuffle=False, run_seed="a")
    visited = []
    for rows in sampler:
        visited += rows
        sampler.report(torch.tensor([float(row in (1, 2, 6, 7)) for row in rows]))
    assert visited == [0, 1, 2, 3, 4, 5, 6, 7] + 2 * [1, 2, 6, 7]


def test_losses_that_are_not_renewed_stay() -> None:
    visited = {}
    for refresh in (True, False):
        sampler = HardBatchSampler(4, 1, 3, 0.5, refresh=refresh, shuffle=False, run_seed="a")
        visited[refresh] = []
        for rows in sampler:
            visited[refresh] += rows
            sampler.report(float(rows[0]) if len(visited[refresh]) <= 4 else 0.0)
    assert visited[False][4:] == [2, 3] * 4
    assert visited[True][4:] == [2, 3, 0, 1, 0, 1, 0, 1]  # all but batch 1 have lost their loss, then all are 0


def test_a_next_batch_needs_the_last_one_s_loss() -> None:
    batches = iter(HardBatchSampler(4, 1, 1, run_seed="a"))
    next(batches)
    with pytest.raises(TrainingError, match="step 1 was asked for when 0 losses"):
        next(batches)


@pytest.mark.parametrize("stop", [0, 3, 6, 11])
@pytest.mark.parametrize("granularity", ["batch", "sample"])
def test_a_loaded_sampler_goes_on_with_the_same_batches(stop: int, granularity: str) -> None:
    def go(sampler: HardBatchSampler, steps: int) -> list[list[int]]:
        found = []
        for rows in sampler:
            found.append(rows)
            losses = [((row * 7 + len(rows) + sampler.step) % 5) / 4 for row in rows]
            sampler.report(losses if granularity == "sample" else losses[0])
            if len(found) == steps:
                break
        return found

    first, second = (HardBatchSampler(11, 2, 2, 0.6, granularity=granularity, run_seed="a") for _ in range(2))
    straight = go(HardBatchSampler(11, 2, 2, 0.6, granularity=granularity, run_seed="a"), 12)
    taken = go(first, stop) if stop else []
    second.load_state_dict(first.state_dict())
    assert taken + go(second, 12 - stop) == straight


@pytest.mark.parametrize("granularity", ["batch", "sample"])
def test_a_recorded_run_is_replayed_from_its_losses(tmp_path: Path, granularity: str) -> None:
    options = {"batch": 3, "epochs": 3, "delta": 0.4, "granularity": granularity}
    sampler = HardBatchSampler(13, 3, 3, 0.4, granularity=granularity, run_seed="a")
    generator = np.random.default_rng(0)
    with StepWriter(tmp_path, "a", 13, {"hard-batch": options}) as writer:
        for step in range(len(sampler)):
            fields = sampler.fields(step)
            scores = sampler.report(generator.random(len(fields["ids"]) if granularity == "sample" else 1).tolist())
            writer.write(StepRecord(step, scores=scores, **fields))
    done = replay(tmp_path)
    assert done.difference is None
    assert done.declared == ("scores",)
    # A loss that was another would have led to other batches.
    records = list(StepFile(tmp_path).records())
    forged = tmp_path / "forged"
    with StepWriter(forged, "a", 13, {"hard-batch": options}) as writer:
        for record in records:
            scores = tuple((-score,) for (score,) in record.scores) if record.epoch == 0 else record.scores
            writer.write(StepRecord(**vars(record) | {"scores": scores}))
    found = replay(forged).difference
    assert found is not None
    assert (found.field, records[found.step].epoch) == ("ids", 1)


def test_a_record_without_its_loss_is_a_difference(tmp_path: Path) -> None:
    sampler = HardBatchSampler(4, 2, 1, run_seed="a")
    with StepWriter(tmp_path, "a", 4, {"hard-batch": {"batch": 2, "epochs": 1, "delta": 0.5}}) as writer:
        writer.write(StepRecord(0, **sampler.fields(0)))
    found = replay(tmp_path).difference
    assert found is not None
    assert (found.step, found.field, found.expected) == (0, "scores", "1 losses")


def test_losses_are_recorded_in_units_of_two_to_the_minus_20() -> None:
    assert HardBatchSampler(4, 2, 1, run_seed="a").report(torch.tensor(1.5)) == ((3 << (UNIT - 1),),)


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), 1e9, [1.0, 2.0]])
def test_a_loss_that_cannot_be_compared_is_refused(loss: float | list[float]) -> None:
    with pytest.raises(TrainingError, match=r"the loss of step 0|1 losses belong"):
        HardBatchSampler(4, 2, 1, run_seed="a").report(loss)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(batch=5), "batch = 5"),
        (dict(delta=0.0), "delta = 0.0"),
        (dict(delta=1.5), "delta = 1.5"),
        (dict(granularity="row"), "granularity = 'row'"),
        (dict(epochs=0), "steps = 0"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        HardBatchSampler(**dict(rows=4, batch=2, epochs=1, run_seed="a") | options)  # type: ignore[arg-type]
