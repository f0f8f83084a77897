"""The loop for all methods: it is the plain loop, and what it writes is what an audit reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR
from transformers import GPT2Config, GPT2LMHeadModel

from zkaudit.attacks.federated.saved import load_round
from zkaudit.attacks.model import PublicModel
from zkaudit.training.errors import TrainingError
from zkaudit.training.loop import train


def model(seed: int = 0) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    config = GPT2Config(
        n_layer=1, n_head=2, n_embd=16, vocab_size=40, n_positions=16, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    )
    return GPT2LMHeadModel(config)


def batches(count: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    tokens = [torch.randint(0, 40, (2, 8), generator=generator) for _ in range(count)]
    return [{"input_ids": batch, "labels": batch} for batch in tokens]


def test_it_is_the_plain_loop() -> None:
    ours, plain = model(), model()
    optimizer = torch.optim.AdamW(ours.parameters(), lr=1e-2)
    losses = train(ours, batches(4), optimizer, StepLR(optimizer, 1, 0.5), accumulation=2, largest_norm=0.5)
    twin = torch.optim.AdamW(plain.parameters(), lr=1e-2)
    plain.train()
    for step in range(2):
        for batch in batches(4)[2 * step : 2 * step + 2]:
            (plain(**batch).loss / 2).backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        twin.step()
        twin.zero_grad()
        twin.param_groups[0]["lr"] *= 0.5
    assert len(losses) == 2
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))


def test_an_audit_reads_what_is_written(tmp_path: Path) -> None:
    trained = model()
    before = {name: value.clone() for name, value in trained.named_parameters()}
    path = tmp_path / "out" / "update.safetensors"
    train(trained, batches(2), torch.optim.SGD(trained.parameters(), lr=0.1), update=path)
    read = load_round(PublicModel(model(), None), path.with_name("update-start.safetensors"), path)
    assert read.update.kind == "delta"
    for name, value in read.update.tensors.items():
        assert torch.equal(value, dict(trained.named_parameters())[name] - before[name])
    assert path.stat().st_mode & 0o777 == 0o600


def test_frozen_tensors_are_no_part_of_an_update(tmp_path: Path) -> None:
    trained = model()
    trained.transformer.wte.weight.requires_grad_(False)
    train(trained, batches(1), torch.optim.SGD(trained.parameters(), lr=0.1), update=tmp_path / "u.safetensors")
    from safetensors import safe_open

    with safe_open(tmp_path / "u.safetensors", "pt") as file:
        assert "transformer.wte.weight" not in file.keys()  # noqa: SIM118
        assert file.metadata() == {"kind": "delta"}


def test_contexts_are_left_even_if_training_fails() -> None:
    states: list[str] = []

    @contextmanager
    def watched() -> Iterator[None]:
        states.append("in")
        try:
            yield
        finally:
            states.append("out")

    def broken(module: nn.Module, batch: Any) -> Tensor:
        return torch.tensor(float("nan"), requires_grad=True)

    trained = model()
    with pytest.raises(TrainingError, match="the loss of step 0 is nan"):
        train(trained, batches(1), torch.optim.SGD(trained.parameters(), lr=0.1), loss=broken, contexts=[watched()])
    assert states == ["in", "out"]


def test_leftover_batches_and_bad_accumulation_are_named(tmp_path: Path) -> None:
    trained = model()
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    with pytest.raises(TrainingError, match="1 batches are left over"):
        train(trained, batches(3), optimizer, accumulation=2, update=tmp_path / "u.safetensors")
    assert not list(tmp_path.iterdir())
    with pytest.raises(TrainingError, match="accumulation is 0"):
        train(trained, batches(1), optimizer, accumulation=0)
