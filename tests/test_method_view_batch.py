"""View batches: each record as often as before, all at once, with views that can be made again."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from zkaudit.training.batch.view_batch import ViewBatchSampler, ViewKey, Views
from zkaudit.training.errors import TrainingError
from zkaudit.training.replay import replay
from zkaudit.training.step_file import StepWriter
from zkaudit.training.steps import StepRecord, derive_seed
from zkaudit.zk.sampling import view_batch_rows


def test_each_record_is_seen_as_often_as_in_plain_epochs() -> None:
    sampler = ViewBatchSampler(30, 12, 4, run_seed="a", steps=20)
    keys = [key for batch in sampler for key in batch]
    assert Counter(key.item for key in keys[:120]) == dict.fromkeys(range(30), 4)
    assert Counter((key.item, key.view) for key in keys) == {(item, view): 2 for item in range(30) for view in range(4)}


def test_a_task_of_few_rows_is_not_empty() -> None:
    """The released sampler cuts an epoch to a multiple of 256 rows."""
    assert len(list(ViewBatchSampler(5, 4, 4, run_seed="a", steps=5))) == 5


def test_rows_are_those_of_the_exact_trainer() -> None:
    sampler = ViewBatchSampler(10, 8, 4, run_seed="a", steps=300)
    rows = view_batch_rows(derive_seed("a", "sampler", 0).to_bytes(8, "little"), 10, 8, 0, 300, 4)
    assert [[key.item for key in batch] for batch in sampler] == rows.tolist()


def test_views_follow_from_their_seeds_and_differ() -> None:
    images = torch.zeros(6, 3)
    views = Views(images, lambda image, generator: image + torch.rand(3, generator=generator))
    for _ in range(2):
        loader = DataLoader(views, batch_sampler=ViewBatchSampler(6, 8, 4, run_seed="a", steps=3))
        batches = torch.cat(list(loader))
        assert len({tuple(view) for view in batches.tolist()}) == 24
    again = torch.cat(list(DataLoader(views, batch_sampler=ViewBatchSampler(6, 8, 4, run_seed="a", steps=3))))
    assert torch.equal(again, batches)
    key = ViewKey(0, 1, derive_seed("a", "view 2", 1))
    expected = torch.rand(3, generator=torch.Generator().manual_seed(key.seed))
    assert torch.equal(views[key], expected)


@pytest.mark.parametrize("stop", [0, 1, 7])
def test_a_loaded_sampler_goes_on_with_the_same_batches(stop: int) -> None:
    straight = list(ViewBatchSampler(9, 6, 3, run_seed="a", steps=10))
    before, after = (ViewBatchSampler(9, 6, 3, run_seed="a", steps=10) for _ in range(2))
    taken = [batch for batch, _ in zip(before, range(stop), strict=False)]
    after.load_state_dict({"step": stop, "run_seed": "a"})
    assert len(after) == 10 - stop
    assert taken + list(after) == straight
    with pytest.raises(TrainingError, match="belongs to run seed"):
        after.load_state_dict({"step": 1, "run_seed": "b"})


def test_a_recorded_run_is_replayed(tmp_path: Path) -> None:
    sampler = ViewBatchSampler(10, 8, 4, run_seed="a", steps=12)
    with StepWriter(tmp_path, "a", 10, {"view-batch": {"batch": 8, "views": 4}}) as writer:
        for step in range(12):
            writer.write(StepRecord(step, learning_rate=0.1, **sampler.fields(step)))
    done = replay(tmp_path)
    assert done.difference is None
    assert {"ids", "view_ids", "view_seeds", "epoch"} <= set(done.recomputed)
    assert done.declared == ("learning_rate",)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ViewBatchSampler(2, 9, 4, run_seed="a", steps=1), "cannot be filled"),
        (lambda: ViewBatchSampler(2, 1, 0, run_seed="a", steps=1), "views is 0"),
        (lambda: ViewBatchSampler(2, 1, 1, run_seed="a", steps=0), "steps = 0"),
    ],
)
def test_bad_options_are_named(make: object, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        make()  # type: ignore[operator]
