"""Block pruning: impacts are those of leaving a block out, and a dropped block is gone."""

import copy
from typing import Any

import pytest
import torch
from streamed_models import batch, gpt2, llama
from torch import Tensor, nn

from zkaudit.training.errors import TrainingError
from zkaudit.training.models.block_pruning import Skip, drop_blocks, rank_blocks


class Residual(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.inner, self.scale = nn.Linear(4, 4), scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.inner(x).tanh()


def residual(scales: tuple[float, ...] = (0.5, 0.01, 0.0, 0.1, 0.0)) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), *map(Residual, scales), nn.Linear(4, 2)).double()


X = torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
NAMES = [str(i) for i in range(1, 6)]


def output(model: nn.Module) -> Tensor:
    return model(X)


def test_an_impact_is_the_outputs_change_without_the_block() -> None:
    model = residual().requires_grad_(False)
    whole = model(X)
    found = {ranked.name: ranked.impact for ranked in rank_blocks(model, NAMES, output)}
    for name in NAMES:
        without = nn.Sequential(*[module for i, module in enumerate(model) if str(i) != name])
        assert found[name] == pytest.approx(float((without(X) - whole).norm() / whole.norm()), abs=1e-12)


def test_the_least_impact_is_first_and_of_equal_ones_the_earlier() -> None:
    ranked = rank_blocks(residual(), NAMES, output)
    assert [block.name for block in ranked] == ["3", "5", "2", "4", "1"]
    assert [block.name for block in rank_blocks(residual(), NAMES[::-1], output)][:2] == ["5", "3"]  # in the order given


def test_ranking_changes_nothing() -> None:
    model = residual()
    before, state = model(X), copy.deepcopy(model.state_dict())
    rank_blocks(model, NAMES, output)
    assert torch.equal(model(X), before)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_dropped_blocks_are_gone_and_what_is_left_is_as_it_was() -> None:
    model = residual()
    without = nn.Sequential(*[module for i, module in enumerate(model) if i not in (2, 4)])
    assert drop_blocks(model, ["2", "4"]) == 2 * (16 + 4)
    assert torch.equal(model(X), without(X))
    assert {key for key in model.state_dict() if key.startswith(("2.", "4."))} == set()


def test_a_block_of_no_effect_can_be_dropped_for_nothing() -> None:
    model = residual()
    before = model(X)
    drop_blocks(model, ["3", "5"])
    assert torch.equal(model(X), before)


def test_a_replacement_stands_where_the_block_stood() -> None:
    model, projection = residual(), nn.Linear(4, 4, bias=False).double()
    drop_blocks(model, ["2", "3"], {"3": projection})
    assert model[3] is projection
    assert isinstance(model[2], Skip)
    model(X).sum().backward()
    assert projection.weight.grad is not None


@pytest.mark.parametrize(("make", "path"), [(llama, "model.layers"), (gpt2, "transformer.h")])
def test_layers_of_transformers_are_dropped_as_if_the_model_had_fewer(make: Any, path: str) -> None:
    torch.manual_seed(0)
    model = make(**({"n_layer": 3} if make is gpt2 else {"num_hidden_layers": 3})).eval()
    rows = batch("right")

    def logits(net: Any) -> Tensor:
        return net(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"], use_cache=False).logits

    names = [f"{path}.{i}" for i in range(3)]
    ranked = rank_blocks(model, names, logits)
    assert {block.name for block in ranked} == set(names)
    shorter = copy.deepcopy(model)
    layers = shorter.get_submodule(path)
    del layers[1]
    shorter.config.num_hidden_layers = 2
    drop_blocks(model, [names[1]])
    torch.testing.assert_close(logits(model), logits(shorter))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: rank_blocks(residual(), ["9"], output), "none of the model's modules"),
        (lambda: rank_blocks(residual(), ["0"], output), "changes the shape"),
        (lambda: drop_blocks(residual(), ["1", "1"]), "named twice"),
        (lambda: drop_blocks(residual(), ["1", "1.inner"]), "lies in another"),
        (lambda: drop_blocks(residual(), ["1"], {"2": nn.Identity()}), "which is not dropped"),
        (lambda: rank_blocks(residual(), NAMES, lambda m: 0 * m(X)), "output is 0"),
        (lambda: rank_blocks(nn.ModuleDict({"a": nn.Linear(3, 3)}), ["a"], lambda m: X), "did not run"),
    ],
)
def test_what_cannot_be_pruned_is_named(make: object, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        make()
