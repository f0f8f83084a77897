"""GaLore, LoRA and FP8 train to the same integers wherever and however their ranges are checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_training_device import WAYS

from zkaudit.training import config
from zkaudit.training.data import load
from zkaudit.training.fixedpoint import initial_network, quantise, quantise_inputs, targets, train
from zkaudit.training.fixedpoint.adapters import initial_adapters

CONFIG = """
[data]
source = "digits"
[model]
hidden = [12, 9]
[training]
loss = "cross_entropy"
batch = 16
steps = 6
learning_rate = 0.02
seed = "device"
"""
METHODS = {
    "fp8": 'precision = "fp8"\n',
    "galore": 'method = "galore"\n[galore]\nrank = 4\ngap = 4\nbasis = "random"\n',
    "galore, stored": 'method = "galore"\n[galore]\nrank = 4\ngap = 4\nbasis = "random"\nstates = "fp8"\n',
    "lora": 'method = "lora"\n[lora]\nrank = 3\n',
    "fp8 with lora": 'method = "lora"\nprecision = "fp8"\n[lora]\nrank = 3\n',
}


def steps_of(method: str, folder: Path, **where: Any) -> tuple[list[dict[str, Any]], list[Any]]:
    """Each step's arrays, and the weights at the end."""
    path = folder / "config.toml"
    path.write_text(CONFIG + METHODS[method])
    read = config.load(path)
    data = load(read.data)
    widths = (data.x_train.shape[1], *read.model.hidden, data.classes)
    settings, bits = read.settings_for(widths), read.fixed_point
    x, y = quantise_inputs(data.x_train, bits), targets(data.y_train, data.classes, settings)
    start, frozen = quantise(initial_network(widths, 1), bits), []
    if settings.lora is not None:
        start, frozen = initial_adapters(settings.lora, widths, bits, 1), start
    seen: list[dict[str, Any]] = []
    end = train(
        start, x, y, np.arange(96).reshape(6, 16), settings,
        lambda arrays, _: seen.append({name: np.array(values) for name, values in arrays.items()}),
        frozen=frozen, seed=bytes(32), **where,
    )  # fmt: skip
    return seen, [matrix.numpy() for matrix in end]


@pytest.mark.parametrize("where", WAYS, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_every_number_is_that_of_the_careful_cpu(method: str, where: dict[str, Any], tmp_path: Path) -> None:
    expected, end = steps_of(method, tmp_path, deferred=False)
    found, weights = steps_of(method, tmp_path, **where)
    for one, other in zip(expected, found, strict=True):
        assert one.keys() == other.keys()
        assert all((one[name] == other[name]).all() for name in one)
    assert all((a == b).all() for a, b in zip(end, weights, strict=True))
