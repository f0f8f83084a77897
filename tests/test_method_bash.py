"""BASH: nothing changes at beta 0, own tokens come from the mixed context, and the truth stays the target."""

from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from streamed_models import batch, gpt2, llama
from torch import nn

from zkaudit.training.errors import TrainingError
from zkaudit.training.objectives.bash import Bash, BashOptions, beta_at

RECORDS = [5, 9, 2]


@pytest.fixture(params=[llama, gpt2], scope="module")
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return request.param().double()


def test_beta_0_is_ordinary_training_bit_for_bit(model: nn.Module) -> None:
    rows = batch("right")
    made = Bash(BashOptions(beta=0.0), "a").contexts(model, rows, RECORDS, round=0)
    assert made.keys() == rows.keys()
    assert all(torch.equal(made[name], rows[name]) for name in rows)


@pytest.mark.parametrize("beta", [0.3, 0.8])
def test_own_tokens_are_the_likeliest_after_the_mixed_context(model: Any, beta: float) -> None:
    rows = batch("right")
    made = Bash(BashOptions(beta), "a").contexts(model, rows, RECORDS, round=1)
    chosen, _ = Bash(BashOptions(beta), "a")._draws(rows["labels"], RECORDS, 1, beta)
    logits = model.eval()(input_ids=made["input_ids"], attention_mask=made["attention_mask"]).logits  # whole, without a cache
    own = torch.cat([rows["input_ids"][:, :1], logits[:, :-1].argmax(-1)], 1)
    chosen[:, 0] = False
    expected = torch.where(chosen, own, rows["input_ids"])
    assert torch.equal(made["input_ids"], expected)
    assert not torch.equal(made["input_ids"], rows["input_ids"])


def test_prompts_padding_and_labels_stay(model: nn.Module) -> None:
    rows = batch("right")
    made = Bash(BashOptions(0.9), "a").contexts(model, rows, RECORDS, round=1)
    outside = rows["labels"] == -100
    assert torch.equal(made["input_ids"][outside], rows["input_ids"][outside])
    assert torch.equal(made["input_ids"][:, 0], rows["input_ids"][:, 0])
    assert torch.equal(made["labels"], rows["labels"])
    assert torch.equal(made["attention_mask"], rows["attention_mask"])


def test_beta_1_is_the_models_own_text_token_by_token(model: Any) -> None:
    rows = {"input_ids": torch.tensor([[3, 4, 5, 6, 7, 8, 9, 10]]), "labels": torch.tensor([[-100, -100, 5, 6, 7, 8, 9, 10]])}
    made = Bash(BashOptions(1.0, allow_all_own=True), "a").contexts(model, rows, [0], round=0)
    expected = model.eval().generate(
        rows["input_ids"][:, :2], attention_mask=torch.ones(1, 2), max_new_tokens=6, min_new_tokens=6, do_sample=False,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    assert torch.equal(made["input_ids"], expected)


def test_a_record_has_the_same_context_in_another_batch(model: nn.Module) -> None:
    rows, bash = batch("right"), Bash(BashOptions(0.5, temperature=1.0), "a")
    made = bash.contexts(model, rows, RECORDS, round=3)["input_ids"]
    order = [2, 0]
    other = bash.contexts(model, {name: value[order] for name, value in rows.items()}, [RECORDS[i] for i in order], round=3)
    assert torch.equal(other["input_ids"], made[order])
    assert not torch.equal(bash.contexts(model, rows, RECORDS, round=4)["input_ids"], made)
    assert not torch.equal(Bash(bash.options, "b").contexts(model, rows, RECORDS, round=3)["input_ids"], made)


def test_as_many_tokens_are_own_as_beta_says() -> None:
    labels = torch.zeros(400, 50, dtype=torch.int64)
    chosen, points = Bash(BashOptions(), "a")._draws(labels, range(400), 0, 0.2)
    share = float(chosen.double().mean())
    assert abs(share - 0.2) < 5 * (0.2 * 0.8 / chosen.numel()) ** 0.5
    assert abs(float(points.mean()) - 0.5) < 0.01


def test_drawn_tokens_follow_the_models_distribution() -> None:
    logits = torch.tensor([0.3, -1.0, 2.0, 0.0], dtype=torch.float64)
    points = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for temperature in (0.5, 1.0, 3.0):
        found = Bash(BashOptions(temperature=temperature), "a")._token(logits.expand(len(points), 4), points)
        expected = len(points) * (logits / temperature).softmax(0)
        assert chisquare(found.bincount(minlength=4).numpy(), expected.numpy()).pvalue > 1e-3


def test_the_likeliest_of_equal_tokens_is_the_lower() -> None:
    logits = torch.tensor([[1.0, 2.0, 2.0, 0.0]])
    assert Bash(BashOptions(), "a")._token(logits, torch.zeros(1)).tolist() == [1]


def test_the_model_is_left_in_its_modes(model: nn.Module) -> None:
    model.train()
    frozen = next(module for module in model.modules() if module is not model)
    frozen.eval()
    modes = [module.training for module in model.modules()]
    Bash(BashOptions(0.5), "a").contexts(model, batch("right"), RECORDS, round=0)
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())


def test_beta_rises_from_0_to_its_value() -> None:
    assert [beta_at(done, 5, 0.2) for done in range(5)] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert beta_at(0, 1, 0.2) == 0


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: BashOptions(1.0), "leaves nothing of the truth"),
        (lambda: BashOptions(-0.1), "beta = -0.1"),
        (lambda: BashOptions(temperature=-1), "temperature = -1"),
        (lambda: beta_at(5, 5, 0.2), "round 5 is none of 5"),
        (lambda: Bash(BashOptions(), "a").contexts(gpt2(), batch("left"), RECORDS, 0), "padded on the left"),
        (lambda: Bash(BashOptions(), "a").contexts(gpt2(), batch("right"), [1], 0), "1 record numbers"),
    ],
)
def test_what_cannot_be_used_is_named(make: object, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        make()
