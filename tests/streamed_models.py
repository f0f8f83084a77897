"""Small models of every kind that StreamBP supports, batches for them, and autograd's gradients to compare with."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

transformers = pytest.importorskip("transformers")

WORDS, LENGTH = 40, 23
SIZES = dict(
    vocab_size=WORDS, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=512, bos_token_id=0, eos_token_id=1, pad_token_id=None,
)  # fmt: skip


def llama(**changes: Any) -> nn.Module:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES | {"num_key_value_heads": 2} | changes))


def qwen2(**changes: Any) -> nn.Module:
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SIZES | {"num_key_value_heads": 4} | changes))


def qwen3(**changes: Any) -> nn.Module:
    return transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(**SIZES | {"num_key_value_heads": 1, "head_dim": 16} | changes)
    )


def gpt2(**changes: Any) -> nn.Module:
    sizes = dict(vocab_size=WORDS, n_embd=32, n_layer=2, n_head=4, n_positions=256, bos_token_id=0, eos_token_id=1)
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**sizes | dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0) | changes)
    )


MODELS: dict[str, Callable[..., nn.Module]] = {"llama": llama, "qwen2": qwen2, "qwen3": qwen3, "gpt2": gpt2}


class _Norm(nn.Module):
    """Root-mean-square norm in the type of its input: that of transformers rounds to float32 whatever it is given."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self.eps = norm.weight, norm.variance_epsilon

    def forward(self, hidden: Tensor) -> Tensor:
        return nn.functional.rms_norm(hidden, hidden.shape[-1:], self.weight, self.eps)


def in_float64(model: nn.Module) -> nn.Module:
    model.double()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__.endswith("RMSNorm"):
                setattr(parent, name, _Norm(child))
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():  # norms and biases that are not all ones and zeros
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return model.train()


def batch(padding: str, length: int = LENGTH, seed: int = 0) -> dict[str, Tensor]:
    ids = torch.randint(0, WORDS, (3, length), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    if padding == "right":
        mask[0, length - 6 :], mask[2, length // 2 :] = 0, 0
    if padding == "left":
        mask[0, :6], mask[2, :1] = 0, 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[1, : length // 2] = -100  # a prompt
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def plain_loss(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """The next-token loss by hand from whole logits, in their type: transformers' own rounds to float32."""
    logits = model(**{name: value for name, value in inputs.items() if name != "labels"}, use_cache=False).logits
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), inputs["labels"][:, 1:].flatten(), ignore_index=-100)


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    return found


def assert_same(expected: dict[str, Tensor], found: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    assert expected.keys() == found.keys()
    scale = max(gradient.norm() for gradient in expected.values())
    for name, gradient in expected.items():
        # keys' biases have gradient zero in theory, so rounding is measured against the largest gradient there
        assert (found[name] - gradient).norm() <= tolerance * max(gradient.norm(), 1e-3 * scale), name
