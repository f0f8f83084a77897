"""Moments stored in 8 bits as a configuration asks for them, and a run of it from training to its revealed model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from method_segments import VARIANTS, data_of
from test_exact_methods import run, settings_of
from test_proved_methods import proved
from tiny_runs import succeed

from zkaudit.training import config
from zkaudit.training.config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from zkaudit.training.errors import TrainingError
from zkaudit.training.fixedpoint import prepare
from zkaudit.training.fixedpoint.moments import Moments
from zkaudit.training.method_config import GaLoreConfig
from zkaudit.training.provable import GaLore, as_manifest
from zkaudit.zk.circuit import dither
from zkaudit.zk.circuit.galore import layers
from zkaudit.zk.circuit.stored_moments import StoredMoments
from zkaudit.zk.errors import BadInput
from zkaudit.zk.sampling import batch_rows

HIDDEN, WIDTHS = (20, 8), (4, 20, 8, 3)


def configured(**options: Any) -> RunConfig:
    training = TrainingConfig("cross_entropy", 4, 2, (0.01,) * 2, "s", "galore")
    return RunConfig(DataConfig("x.npz"), ModelConfig(HIDDEN), training, galore=GaLoreConfig(2, **options))


def method(**options: Any) -> GaLore:
    made = configured(**options).settings_for(WIDTHS).galore
    assert made
    return made


def test_by_default_ranges_are_whole_and_moments_are_exact() -> None:
    assert not as_manifest(method()).keys() & {"first_exponents", "second_exponents"}
    stored = method(states="fp8")
    assert stored.first_exponents == (15,) * 3
    assert stored.second_exponents == (16,) * 3


def test_exponents_are_of_layers_and_of_groups_of_kept_units() -> None:
    """On the left outputs are kept, on the right inputs and the bias."""
    assert method(states="fp8", first_exponents=((9, 8), 7, 6)).first_exponents == ((9, 8), 7, 6)
    right = method(states="fp8", side="right", second_exponents=(9, (8, 7), 6))
    assert right.second_exponents == (9, (8, 7), 6)
    assert as_manifest(right)["second_exponents"] == [9, [8, 7], 6]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"states": "fp8", "optimizer": "sgd"}, r'it must be "exact" with optimizer = "sgd", which has no moments'),
        ({"states": "int8"}, "one of exact, fp8"),
        ({"first_exponents": 13}, r'first_exponents is 13; it must be 15 but with states = "fp8"'),
        ({"second_exponents": (9, 9, 9)}, r'it must be 16 but with states = "fp8"'),
        ({"states": "fp8", "first_exponents": 16}, "an integer from 1 to 15"),
        ({"states": "fp8", "second_exponents": (9, (0, 9), 9)}, "an integer from 1 to 16"),
        ({"states": "fp8", "first_exponents": (9, 9)}, "first_exponents has 2 entries for 3 layers"),
        ({"states": "fp8", "second_exponents": ((9,), 9, 9)}, "1 entries for a layer of 20 units; one or 2 are needed"),
        ({"states": "fp8", "side": "right", "first_exponents": ((9, 9), 9, 9)}, "2 entries for a layer of 5 units"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        method(**options)


def test_lists_of_a_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(
        '[data]\nsource = "digits"\n[model]\nhidden = [20, 8]\n[training]\nloss = "square"\nbatch = 4\nsteps = 1\n'
        'learning_rate = 0.01\nseed = "s"\nmethod = "galore"\n[galore]\nrank = 2\nstates = "fp8"\n'
        "first_exponents = [[12, 11], 10, 9]\nsecond_exponents = 13\n"
    )
    made = config.load(path).settings_for((64, 20, 8, 10)).galore
    assert made
    assert made.first_exponents == ((12, 11), 10, 9)
    assert made.second_exponents == (13,) * 3


@pytest.mark.parametrize("states", ["exact", "fp8"])
def test_the_exact_run_learns_as_the_float_one_does(states: str, tmp_path: Path) -> None:
    steps, batch = 150, 32
    training = TrainingConfig("cross_entropy", batch, steps, (0.01,) * steps, "s", "galore")
    galore = GaLoreConfig(8, gap=50, scale=1.0, projection_bits=13, states=states)
    made = RunConfig(DataConfig("digits"), ModelConfig((16,), init_seed=1), training, galore=galore)
    ours = prepare(made, tmp_path / "run")
    result = ours.train(batch_rows(bytes(32), ours.rows, batch, 0, steps), seed=bytes(32))
    assert result.test_accuracy > 0.85
    assert abs(result.test_accuracy - result.float_test_accuracy) < 0.02


def test_training_goes_on_from_stored_moments_wherever_it_was() -> None:
    """What was stored is all that the next step needs, within a period too."""
    s = replace(VARIANTS["galore, stored, whole gap"], rates=(40,) * 7)
    data = data_of(s)
    whole, begun = run(s, data), len(data.start)
    state = whole.states[3]
    rest = run(s, replace(data, start=state[:begun]), 4, [*state[begun::2], *state[begun + 1 :: 2]])
    assert all((a[4:] == rest.arrays[name]).all() for name, a in whole.arrays.items())
    assert all((a == b).all() for a, b in zip(whole.states[-1], rest.states[-1], strict=True))
    assert any(state[begun + k].any() for k in range(2))


def test_a_first_moment_beyond_16_bits_stops_trainer_and_prover() -> None:
    """A step's factor can take the largest ones there."""
    assert dither.factor(1) > 1
    s = VARIANTS["galore, stored"]
    assert s.galore
    largest = torch.full((1, 1), 32767, dtype=torch.float64)
    moments = Moments.of(settings_of(s).galore, 0, [largest, largest])
    mean, root = moments.averages_after(1, largest)
    with pytest.raises(TrainingError, match="the first moment leaves 16 bits"):
        moments.store(mean.to(torch.int64), root.to(torch.int64))
    layer = layers(s)[0]
    full = [np.full((layer.kept, count), 32767, np.int64) for count in (layer.samples, layer.rank, layer.rank)]
    assert isinstance(layer.moments, StoredMoments)
    with pytest.raises(BadInput, match="the first moment of layer 0 leaves 16 bits"):
        layer.moments.tables(*full)


@pytest.mark.parametrize("name", ["galore, stored", "stored galore in fp8"])
def test_the_end_of_a_chain_is_revealed(name: str, tmp_path: Path) -> None:
    """Moments stand behind the weights in the commitment that is opened."""
    out, files = proved(name, tmp_path, "--segment-steps", "2")
    assert len(files) == 3
    opening, model = tmp_path / "opening", tmp_path / "run" / "model.safetensors"
    succeed("reveal", tmp_path / "run", "--what", "end-weights", "--out", opening)
    assert succeed("verify", out, "--model", model, "--opening", opening).startswith("VALID")
