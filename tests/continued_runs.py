"""Small models and runs for tests of training methods: a run that is stopped, saved, loaded elsewhere and continued."""

import io
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def small_net(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.LayerNorm(16), nn.Linear(16, 14)).to(dtype)


def small_batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    draw = (torch.randn(32, width, generator=generator, dtype=torch.float64) for width in (12, 14))
    return next(draw), next(draw)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    """One update on each of the batches first..last-1."""
    for i in range(first, last):
        x, y = small_batch(i)
        optimizer.zero_grad()
        ((model(x.to(next(model.parameters()).dtype)) - y) ** 2).mean().backward()
        optimizer.step()


def run_and_resumed_run(build: Callable[[], tuple[nn.Module, torch.optim.Optimizer, list[Any]]], steps: int) -> tuple[Any, Any]:
    """States after 2 x `steps` updates: of one run, and of one that goes on in new objects from the first half's states."""
    model, optimizer, extras = build()
    train(model, optimizer, 0, steps)
    file = io.BytesIO()
    torch.save([part.state_dict() for part in (model, optimizer, *extras)], file)
    train(model, optimizer, steps, 2 * steps)
    resumed_model, resumed_optimizer, resumed_extras = build()
    file.seek(0)
    for part, state in zip((resumed_model, resumed_optimizer, *resumed_extras), torch.load(file), strict=True):
        part.load_state_dict(state)
    train(resumed_model, resumed_optimizer, steps, 2 * steps)
    return (model.state_dict(), optimizer.state_dict()), (resumed_model.state_dict(), resumed_optimizer.state_dict())


def assert_same(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def tiny_llama(seed: int = 0) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM  # heavy, and few tests need it

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=32,
            tie_word_embeddings=True,
        )
    )
