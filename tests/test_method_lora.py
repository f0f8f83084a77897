"""LoRA: peft's layers, with the rest trainable in place when asked for."""

import sys

import pytest
import torch
from continued_runs import small_net, tiny_llama

from zkaudit.training.errors import TrainingError
from zkaudit.training.low_rank.lora import lora


def test_the_start_is_the_model_as_it_was_and_only_factors_train() -> None:
    net = small_net()
    x = torch.randn(3, 12, dtype=torch.float64)
    before = net(x)
    adapted = lora(net, 4, targets=["0"])
    torch.testing.assert_close(adapted(x), before, rtol=0, atol=0)
    trained = [p.shape for p in adapted.parameters() if p.requires_grad]
    assert sorted(trained) == [(4, 12), (16, 4)]


def test_the_scale_is_alpha_over_r() -> None:
    net = small_net()
    adapted = lora(net, 4, alpha=6, targets=["0"])
    layer = adapted.get_submodule("base_model.model.0")
    torch.nn.init.ones_(layer.lora_B["default"].weight)
    x = torch.randn(3, 12, dtype=torch.float64)
    factors = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    torch.testing.assert_close(layer(x), layer.get_base_layer()(x) + 6 / 4 * x @ factors.T.double())


def test_with_rest_embeddings_norms_and_head_train_without_a_copy() -> None:
    model = tiny_llama()
    norm = model.model.norm.weight
    adapted = lora(model, 4, rest=True)
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert any(p is norm for p in adapted.parameters())
    assert norm.requires_grad
    assert any("embed_tokens" in name for name in trained)
    assert not any("base_layer.weight" in name for name in trained)
    assert sum("lora_A" in name for name in trained) == 14


def test_targets_that_are_not_there_are_one_sentence() -> None:
    with pytest.raises(TrainingError, match="cannot adapt targets"):
        lora(small_net(), 4, targets=["attention"])


def test_a_rank_below_one_is_refused() -> None:
    with pytest.raises(TrainingError, match="rank is 0"):
        lora(small_net(), 0)


def test_without_peft_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(TrainingError, match="pip install peft"):
        lora(small_net(), 4)
