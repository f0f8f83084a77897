"""View-batch: several augmented views of a record in one batch, and longer rests between its visits.

A cycle of V epochs takes an order of all N records and repeats each V times on end; batches of B are cut from that. A record is
seen as often as before, but all at once: its visits are about V N / B steps apart, not N / B. What the views of a record can
teach each other is a loss (objectives/view_consistency.py).

Kang et al., "Do Your Best and Get Enough Rest for Continual Learning", 2025, arXiv:2503.18371; V = 4. Their released sampler
cuts an epoch to a multiple of 256 rows, which leaves none of a small task; here each cycle drops less than a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset

from zkaudit.training.batch.multigrid import Items
from zkaudit.training.batch.sampler import RecordedSampler
from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method
from zkaudit.training.replay import Rule, Run, SamplerRule, made, view_seeds
from zkaudit.zk.errors import BadInput
from zkaudit.zk.sampling import view_batch_rows, view_numbers

METHOD = Method(
    name="view-batch",
    title="View-batch: repeated views and rest",
    paper="Kang, Seifer, Lee, Ryu 2025, arXiv:2503.18371",
    where="zkaudit.training.batch.view_batch.ViewBatchSampler",
    changes=("batch", "schedule"),
    effect="iCaRL on Split-CIFAR-10, buffer of 200: accuracy from 63.58% to 67.21%, forgetting from 28.05 to 18.72 points.",
    library="timm's RepeatAugSampler repeats views too, without the cycle; the sampler is ours.",
    provable="Exact training may draw batches so, and proofs show it (docs/step-records.md); views of a row are alike there.",
    server_sees="Fewer records behind each gradient, B / V of them, in several linked views: easier to invert.",
    use=(
        "from zkaudit.training.batch.view_batch import ViewBatchSampler, Views\n"
        "\n"
        'sampler = ViewBatchSampler(len(images), batch=32, views=4, run_seed="public", steps=1000)\n'
        "loader = DataLoader(Views(images, augment), batch_sampler=sampler)  # augment(item, generator)"
    ),
    avoid="Where updates are shared and records are private, and where no augmentation makes views differ.",
    binding="replayable",
)

BLOCK = 256  # steps that are drawn at once


class ViewKey(NamedTuple):
    """What the sampler asks a data set for: a view of an item, and the seed of its augmentation."""

    item: int
    view: int
    seed: int


class ViewBatchSampler(RecordedSampler):
    """Batches of `batch` entries, `views` in a row of each record; see RecordedSampler. TrainingError if none can be filled."""

    def __init__(self, rows: int, batch: int, views: int = 4, *, run_seed: str, steps: int) -> None:
        super().__init__(run_seed, steps)
        self.rows, self.batch, self.views = rows, batch, views
        try:
            view_numbers(rows, batch, 0, 1, views)
        except BadInput as error:
            raise TrainingError(str(error)) from None

    def stream(self, first: int) -> Iterator[dict[str, Any]]:
        for begin in count(first, BLOCK):
            rows = view_batch_rows(self.seed, self.rows, self.batch, begin, BLOCK, self.views).tolist()
            numbers = view_numbers(self.rows, self.batch, begin, BLOCK, self.views).tolist()
            for step, (ids, views) in enumerate(zip(rows, numbers, strict=True), begin):
                yield {
                    "ids": tuple(ids),
                    "epoch": step // (self.views * self.rows // self.batch),
                    "view_ids": tuple(views),
                    "view_seeds": view_seeds(self.run_seed, step, self.batch),
                }

    def keys(self, chosen: Mapping[str, Any]) -> list[ViewKey]:
        return [ViewKey(*key) for key in zip(chosen["ids"], chosen["view_ids"], chosen["view_seeds"], strict=True)]


class Views(Dataset[Any]):
    """A map-style data set under view keys: `augment(item, generator)` makes a view, random by the generator alone."""

    def __init__(self, items: Items | Sequence[Any], augment: Callable[[Any, torch.Generator], Any]) -> None:
        self.items, self.augment = items, augment

    def __getitem__(self, key: ViewKey) -> Any:
        return self.augment(self.items[key.item], torch.Generator().manual_seed(key.seed))

    def __len__(self) -> int:
        return len(self.items)


def rule(run: Run, options: Mapping[str, Any]) -> Rule:
    """{"batch": 32, "views": 4}"""

    def make(batch: int, views: int) -> ViewBatchSampler:
        return ViewBatchSampler(run.header.rows, batch, views, run_seed=run.header.run_seed, steps=1)

    return SamplerRule(made(make, "view-batch", options))
