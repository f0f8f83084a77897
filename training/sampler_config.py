"""[view_batch] and [length_buckets] of a configuration: how an exact run's batches are chosen, and the lengths of its rows.

Lengths are declared by whoever trains, and public: they stand in the statement of a proof."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zkaudit.training.checks import integer, is_kind, refuse
from zkaudit.training.errors import TrainingError
from zkaudit.zk.errors import BadInput
from zkaudit.zk.samplers import LARGEST_VIEWS, MOST_CYCLES, MOST_LENGTHS, Buckets, Sampler, ViewBatch
from zkaudit.zk.sampling import LARGEST_LENGTH, LARGEST_ODDS

SAMPLERS = ("uniform", "view-batch", "length-buckets")  # of [training] sampler

Integers = NDArray[np.int64]
Places = tuple[Integers, int] | None


@dataclass(frozen=True)
class ViewBatchConfig:
    """[view_batch]: each row comes `views` times in a row, in a cycle of as many epochs."""

    views: int = 4

    def __post_init__(self) -> None:
        integer("[view_batch] views", self.views, 1, LARGEST_VIEWS)


@dataclass(frozen=True)
class LengthBucketsConfig:
    """[length_buckets]: batches of rows of like lengths. odds: for each bucket from the shortest on; none are equal ones.

    lengths: "nonzero", the number of features of each quantised row that are not zero, or a path to an .npy with a positive
    integer for each row of the data set, test rows included.
    """

    lengths: str = "nonzero"
    odds: tuple[int, ...] = ()
    cycles: int = 8

    def __post_init__(self) -> None:
        if not is_kind(self.lengths, str) or not (self.lengths == "nonzero" or self.lengths.endswith(".npy")):
            refuse("[length_buckets] lengths", self.lengths, '"nonzero" or a path that ends in .npy')
        if not is_kind(self.odds, tuple):
            refuse("[length_buckets] odds", self.odds, "a list of integers, one for each bucket")
        for value in self.odds:
            integer("[length_buckets] odds", value, 1, LARGEST_ODDS)
        integer("[length_buckets] cycles", self.cycles, 1, MOST_CYCLES)


SamplerConfig = ViewBatchConfig | LengthBucketsConfig


def sampler_of(config: SamplerConfig | None, x: Integers, batch: int, places: Places) -> Sampler | None:
    """What draws the batches, None for uniform epochs; TrainingError if none can be filled.

    x: quantised training rows. places: where these stand in the data set and how many rows it has; None if it is x.
    """
    if config is None:
        return None
    if isinstance(config, ViewBatchConfig):
        return ViewBatch(config.views)
    lengths = _nonzero(x) if config.lengths == "nonzero" else _from_file(config.lengths, len(x), places)
    sampler = Buckets(tuple(lengths.tolist()), config.odds, config.cycles)
    if len(x) > MOST_LENGTHS:
        raise TrainingError(f"[length_buckets] is for at most {MOST_LENGTHS} training rows; there are {len(x)}")
    try:
        sampler.check(len(x), batch)
    except BadInput as error:
        raise TrainingError(f"[length_buckets] does not fit the data: {error}") from None
    return sampler


def _nonzero(x: Integers) -> Integers:
    """At least 1, the shortest length that there is."""
    lengths: Integers = np.maximum(np.count_nonzero(x, axis=1), 1).astype(np.int64)
    return lengths


def _from_file(path: str, rows: int, places: Places) -> Integers:
    try:
        lengths = np.load(path, allow_pickle=False)
    except OSError as error:
        raise TrainingError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, EOFError) as error:
        raise TrainingError(f"{path} is not an array of numbers: {error}") from None
    if not isinstance(lengths, np.ndarray) or lengths.dtype.kind not in "iu" or lengths.ndim != 1:
        raise TrainingError(f"{path} must hold one integer for each row of the data set")
    kept, expected = places or (np.arange(rows), rows)
    if len(lengths) != expected:
        raise TrainingError(f"{path} holds {len(lengths)} lengths, but the data set has {expected} rows")
    chosen: Integers = lengths[kept].astype(np.int64)
    if lengths.min() < 1 or lengths.max() > LARGEST_LENGTH:
        raise TrainingError(f"{path} holds a length outside 1 to {LARGEST_LENGTH}")
    return chosen
