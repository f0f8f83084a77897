"""Data sets: scikit-learn's bundled ones and .npz files, scaled to small numbers and split for testing."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zkaudit.training.config import BUNDLED, LARGEST_WIDTH, DataConfig
from zkaudit.training.errors import TrainingError

LARGEST_INPUT = 7.99  # standardised features are clipped to it, so that 12 fractional bits still fit 16
LARGEST_ROWS = 1 << 22  # of the training part
SPLIT_SEED = 0

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Dataset:
    """Inputs (n, d) of small size and labels (n,) in [0, classes)."""

    x_train: Floats
    y_train: Labels
    x_test: Floats
    y_test: Labels
    classes: int
    places: tuple[Labels, int] | None = None  # of the training rows in the set that was split, and how many rows it has


def load(config: DataConfig) -> Dataset:
    """The configured data: split by class with a fixed seed, then scaled with numbers taken from the training part alone.

    Digits, which are grey values from 0 to 16, are divided by 16; everything else is standardised per feature and clipped.
    TrainingError for a set that cannot be trained on.
    """
    inputs, labels = _bundled(config.source) if config.source in BUNDLED else _from_file(config.source)
    x, y = checked(inputs, labels, config.source)
    dataset = _split(x, y, config)
    if config.source == "digits":
        return replace(dataset, x_train=dataset.x_train / 16, x_test=dataset.x_test / 16)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is not finite, and refused
        mean, deviation = dataset.x_train.mean(axis=0), dataset.x_train.std(axis=0)
    if not np.isfinite([mean, deviation]).all():
        raise TrainingError(f"{config.source}: X holds numbers too large to be standardised")
    deviation[deviation == 0] = 1
    train, test = (np.clip((x - mean) / deviation, -LARGEST_INPUT, LARGEST_INPUT) for x in (dataset.x_train, dataset.x_test))
    return replace(dataset, x_train=train, x_test=test)


def checked(inputs: Any, labels: Any, source: str) -> tuple[Floats, Labels]:
    """Inputs as float64 (n, d) and labels numbered from 0, in the order of their values; TrainingError says what is wrong."""
    x, y = np.asarray(inputs), np.asarray(labels)
    if x.ndim != 2 or y.ndim != 1 or len(x) != len(y):
        raise TrainingError(f"{source}: X must have shape (n, d) and y (n,), but they have {x.shape} and {y.shape}")
    if x.dtype.kind not in "biuf" or y.dtype.kind not in "biuf":
        raise TrainingError(f"{source}: X and y must hold numbers, but their types are {x.dtype} and {y.dtype}")
    if not 1 <= x.shape[1] <= LARGEST_WIDTH:
        raise TrainingError(f"{source}: X has {x.shape[1]} features; from 1 to {LARGEST_WIDTH} are allowed")
    if not np.isfinite(x).all():
        row, column = np.argwhere(~np.isfinite(x))[0]
        raise TrainingError(f"{source}: X[{row}, {column}] is {x[row, column]}; every input must be a finite number")
    if not np.isfinite(y).all() or (y != np.floor(y)).any():
        raise TrainingError(f"{source}: y must hold integers, one class number a row")
    values, numbered = np.unique(y, return_inverse=True)
    if not 2 <= len(values) <= LARGEST_WIDTH:
        raise TrainingError(f"{source}: y names {len(values)} classes; from 2 to {LARGEST_WIDTH} are allowed")
    return x.astype(np.float64), numbered.astype(np.int64)


def _split(x: Floats, y: Labels, config: DataConfig) -> Dataset:
    from sklearn.model_selection import train_test_split

    try:
        parts = train_test_split(x, y, np.arange(len(x)), test_size=config.test_fraction, stratify=y, random_state=SPLIT_SEED)
    except ValueError as error:
        what = f"{config.source}: its {len(x)} rows cannot be split by class with test_fraction {config.test_fraction}"
        raise TrainingError(f"{what}: {error}") from None
    if len(parts[0]) > LARGEST_ROWS:
        raise TrainingError(f"{config.source}: {len(parts[0])} training rows; at most {LARGEST_ROWS} are allowed")
    return Dataset(parts[0], parts[2], parts[1], parts[3], int(y.max()) + 1, (parts[4], len(x)))


def _bundled(name: str) -> tuple[Any, Any]:
    from sklearn import datasets

    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return x, y


def _from_file(path: str) -> tuple[Any, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile) or not {"X", "y"} <= set(file.files):
                raise TrainingError(f"{path} must be an .npz file with the arrays X and y")
            return file["X"], file["y"]
    except OSError as error:
        raise TrainingError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise TrainingError(f"{path} is not an .npz file of plain numbers: {error}") from None
