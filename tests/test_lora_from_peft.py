"""LoRA that starts from a PeftModel: the exact trainer's first step is autograd's on that model, to fixed-point accuracy."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from torch import Tensor, nn

from zkaudit.training.config import DataConfig, FixedPoint, ModelConfig, RunConfig, TrainingConfig
from zkaudit.training.data import Dataset
from zkaudit.training.errors import TrainingError
from zkaudit.training.fixedpoint import prepare
from zkaudit.training.fixedpoint.adapters import merged
from zkaudit.training.fixedpoint.network import from_matrices
from zkaudit.training.method_config import LoRAConfig

WIDTHS = (6, 5, 4, 3)
RATE = 0.25
BITS = FixedPoint(11, 13, 40)
ERROR = 2.0**-8  # of a gradient, from activations with 11 and gradients with 13 bits
ROWS = np.array([[4, 0, 9, 7, 2, 11, 1, 3]])


def network() -> nn.Sequential:
    modules: list[nn.Module] = []
    for d, units in itertools.pairwise(WIDTHS):
        modules += [nn.Linear(d, units, dtype=torch.float64), nn.ReLU()]
    return nn.Sequential(*modules[:-1])


def adapted(seed: int = 0, **options: Any) -> Any:
    """A PeftModel over a small network; by default every layer has an adapter of rank 2 and scale 1.5, nothing of it zero."""
    torch.manual_seed(seed)
    given = {"r": 2, "lora_alpha": 3, "target_modules": ["0", "2", "4"], "init_lora_weights": False, **options}
    return peft.get_peft_model(network(), peft.LoraConfig(**given)).double()


def dataset() -> Dataset:
    random = np.random.default_rng(3)
    x, y = random.uniform(-2, 2, (16, WIDTHS[0])), random.integers(0, WIDTHS[-1], 16)
    return Dataset(x[:12], y[:12], x[12:], y[12:], WIDTHS[-1])


def config(loss: str = "cross_entropy", **lora: Any) -> RunConfig:
    training = TrainingConfig(loss, ROWS.shape[1], 1, (RATE,), "peft", method="lora")
    options = LoRAConfig(**{"rank": 2, "alpha": 3.0, **lora})
    return RunConfig(DataConfig("digits"), ModelConfig(WIDTHS[1:-1]), training, BITS, lora=options)


def stepped(model: Any, loss: str, rate: float) -> None:
    """One step of torch's SGD on the PeftModel, in place."""
    data, rows = dataset(), ROWS[0]
    outputs, labels = model(torch.from_numpy(data.x_train[rows])), torch.from_numpy(data.y_train[rows])
    if loss == "square":
        distance = outputs - nn.functional.one_hot(labels, WIDTHS[-1])
        value = 0.5 * (distance**2).sum(dim=1).mean()
    else:
        value = nn.functional.cross_entropy(outputs, labels)
    value.backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=rate).step()


def matrices(model: Any) -> list[Tensor]:
    """A' and B of each adapter as the trainer holds them, float64: the scale is in the second one."""
    found = []
    for module in model.get_base_model():
        if hasattr(module, "lora_A"):
            first, second = (getattr(module, name)["default"].weight.detach().T.clone() for name in ("lora_A", "lora_B"))
            found += [first, module.scaling["default"] * second]
    return found


def real(matrix: Tensor) -> Tensor:
    """The numbers that these integers stand for."""
    return matrix.to(torch.float64) * 2.0**-BITS.weight_bits


@pytest.mark.parametrize("targets", [["0", "2", "4"], ["0", "4"], ["2"]], ids=str)
@pytest.mark.parametrize("loss", ["cross_entropy", "square"])
def test_the_first_step_is_autograd_s(loss: str, targets: list[str], tmp_path: Path) -> None:
    model = adapted(target_modules=targets)
    layers = tuple(int(name) // 2 + 1 for name in targets)
    run = prepare(config(loss, layers=layers), tmp_path / "run", dataset(), model)
    result = run.train(ROWS)
    before = matrices(model)
    rate = run.config.settings_for(WIDTHS).learning_rates[0]
    assert abs(rate - RATE) < 2.0**-10
    stepped(model, loss, rate)
    after, unit = matrices(model), 2.0**-BITS.weight_bits
    for theirs, began, ours, start in zip(after, before, result.end, result.start, strict=True):
        assert abs(real(start) - began).max() <= unit
        change, expected = real(ours - start) / rate, (theirs - began) / rate
        assert abs(expected).max() > 8 * ERROR
        torch.testing.assert_close(change, expected, atol=ERROR, rtol=0)


def test_what_is_trained_and_frozen_together_is_the_model(tmp_path: Path) -> None:
    """Before the step and after it, on rows that it has not seen."""
    model = adapted(seed=2)
    run = prepare(config(), tmp_path / "run", dataset(), model)
    result, unit = run.train(ROWS), 2.0**-BITS.weight_bits
    x = torch.from_numpy(dataset().x_test)
    method = run.config.settings_for(WIDTHS).lora
    assert method

    def outputs(trained: list[Tensor]) -> Tensor:
        frozen, adapters = ([real(matrix) for matrix in some] for some in (result.frozen, trained))
        return from_matrices(merged(frozen, adapters, method))(x)

    torch.testing.assert_close(outputs(result.start), model(x), atol=1e-9, rtol=0)
    stepped(model, "cross_entropy", run.config.settings_for(WIDTHS).learning_rates[0])
    torch.testing.assert_close(outputs(result.end), model(x), atol=ERROR, rtol=0)
    for matrix, layer in zip(result.frozen, (m for m in model.get_base_model() if hasattr(m, "base_layer")), strict=True):
        assert abs(real(matrix)[:-1] - layer.base_layer.weight.T).max() <= unit


REFUSED = {
    "another scale": (lambda: adapted(lora_alpha=2), {}, "scales its adapters by 1, but"),
    "rank-stabilised": (lambda: adapted(use_rslora=True), {}, "scales its adapters by 2.1"),
    "different scales": (lambda: adapted(alpha_pattern={"0": 5}), {}, "different scales"),
    "another rank": (lambda: adapted(r=1, lora_alpha=1.5), {}, "not the layers and ranks"),
    "fewer layers": (lambda: adapted(target_modules=["0"]), {}, "not the layers and ranks"),
    "other layers": (lambda: adapted(target_modules=["0"]), {"layers": (2,)}, "not the layers and ranks"),
    "DoRA": (lambda: adapted(use_dora=True), {}, "must be plain LoRA"),
    "a bias in the adapter": (lambda: adapted(lora_bias=True), {}, "must be plain LoRA"),
    "a layer trained whole": (lambda: adapted(target_modules=["0"], modules_to_save=["4"]), {"layers": (1,)}, "expected there"),
    "IA3": (
        lambda: peft.get_peft_model(network(), peft.IA3Config(target_modules=["0"], feedforward_modules=[])),
        {},
        "one LoRA adapter",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_an_adapter_that_is_another_is_refused(what: str, tmp_path: Path) -> None:
    """In one sentence, and nothing is written."""
    model, lora, words = REFUSED[what]
    with pytest.raises(TrainingError, match=words):
        prepare(config(**lora), tmp_path / "run", dataset(), model())
    assert not (tmp_path / "run").exists()


def test_merged_and_doubled_adapters_are_refused(tmp_path: Path) -> None:
    """A merged one is in the frozen weights already."""
    together, two = adapted(), adapted()
    together.merge_adapter()
    two.add_adapter("more", peft.LoraConfig(r=2, lora_alpha=3, target_modules=["0", "2", "4"]))
    for model, words in ((together, "must be plain LoRA"), (two, "one LoRA adapter")):
        with pytest.raises(TrainingError, match=words):
            prepare(config(), tmp_path / "run", dataset(), model)


def test_a_peft_model_needs_a_section_lora(tmp_path: Path) -> None:
    plain = replace(config(), lora=None, training=replace(config().training, method="sgd"))
    with pytest.raises(TrainingError, match=r"or with \[lora\] a PeftModel"):
        prepare(plain, tmp_path / "run", dataset(), adapted())
