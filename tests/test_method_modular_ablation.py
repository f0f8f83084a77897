"""Merged proxies: averages of the right units with the right weights, exact for linear models, and no common start refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from zkaudit.training.errors import TrainingError
from zkaudit.training.models.modular_ablation import MergeProxy


def state(*numbers: float) -> dict[str, Tensor]:
    return {"w": torch.tensor(numbers, dtype=torch.float64)}


PARTS = {"law": state(1.0, 2.0), "code": [state(1.2, 2.2), state(1.4, 2.0), state(1.0, 2.4)], "news": state(0.8, 1.8)}


def test_micro_averages_units_and_macro_averages_parts() -> None:
    micro, macro = MergeProxy(PARTS), MergeProxy(PARTS, "macro")
    law, code = PARTS["law"]["w"], torch.stack([unit["w"] for unit in PARTS["code"]])
    torch.testing.assert_close(micro.merged(["code", "law"])["w"], (law + code.sum(0)) / 4)
    torch.testing.assert_close(macro.merged(["law", "code"])["w"], (law + code.mean(0)) / 2)
    torch.testing.assert_close(macro.merged(["code"])["w"], micro.merged(["code"])["w"])


def test_for_one_gradient_step_the_proxy_is_the_model_of_the_union() -> None:
    """The mean of units' gradients is the gradient of their union, so one step from a shared start merges exactly."""
    torch.manual_seed(0)
    start, data = torch.randn(4, dtype=torch.float64), torch.randn(3, 20, 4, dtype=torch.float64)
    labels = torch.randn(3, 20, dtype=torch.float64)

    def stepped(x: Tensor, y: Tensor) -> Tensor:
        return start - 0.01 * 2 * x.T @ (x @ start - y) / len(y)

    proxy = MergeProxy({str(u): {"w": stepped(data[u], labels[u])} for u in range(3)})
    union = stepped(torch.cat([data[0], data[2]]), torch.cat([labels[0], labels[2]]))
    torch.testing.assert_close(proxy.merged(["0", "2"])["w"], union)


def test_subsets_are_ranked_by_their_loss_then_by_name() -> None:
    proxy = MergeProxy(PARTS)
    ranked = proxy.rank(proxy.subsets(2), lambda merged: float(merged["w"][0]))
    assert [entry.subset for entry in ranked] == [("law", "news"), ("code", "news"), ("code", "law")]
    tied = proxy.rank(reversed(proxy.subsets(2)), lambda merged: 1.0)
    assert [entry.subset for entry in tied] == [("code", "law"), ("code", "news"), ("law", "news")]


def test_models_without_a_common_start_are_refused() -> None:
    torch.manual_seed(0)
    parts = {name: {"w": torch.randn(200)} for name in "abc"}
    with pytest.raises(TrainingError, match=r"part 'b' is 1.* of its length .* do not share a seed model"):
        MergeProxy(parts)
    assert MergeProxy(parts, widest=2.0).subsets(3) == [("a", "b", "c")]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: MergeProxy({"a": state(1.0)}), "at least two parts"),
        (lambda: MergeProxy(PARTS, "nano"), "weighting = 'nano'"),
        (lambda: MergeProxy({"a": state(1.0), "b": []}), "part 'b' has no model"),
        (lambda: MergeProxy(PARTS).merged([]), "names parts once each"),
        (lambda: MergeProxy(PARTS).merged(["law", "law"]), "names parts once each"),
        (lambda: MergeProxy(PARTS).merged(["art"]), "no part is called 'art'; there are law, code, news"),
        (lambda: MergeProxy({"a": state(1.0), "b": {"v": torch.ones(1)}}).merged("ab"), "do not both have"),
    ],
)
def test_bad_subsets_are_named(make: object, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        make()
