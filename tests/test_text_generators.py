"""Generators: the same question has the same answer, whatever else is asked; provenance names all that went in."""

import hashlib
import json
import random
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from zkaudit.training.errors import TrainingError
from zkaudit.training.generation.generator import Ask, Keep, LanguageModel, Replay, Rule, model_digest, sha256, write
from zkaudit.training.steps import derive_seed


def shuffled(ask: Ask, draws: random.Random) -> str:
    words = ask.prompt.split()
    return " ".join(sorted(words, key=lambda _: draws.random()))


class Characters:
    """A tokenizer of characters below 128."""

    def __call__(self, text: str) -> dict[str, Any]:
        return {"input_ids": [ord(c) for c in text]}

    def decode(self, ids: torch.Tensor, skip_special_tokens: bool = True) -> str:
        return "".join(chr(i) for i in ids.tolist() if i > 0 or not skip_special_tokens)


def model(seed: int = 0) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64, "vocab_size": 128}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).eval()


def test_a_rule_answers_each_question_from_its_seed_alone() -> None:
    rule = Rule(shuffled, "shuffled 1")
    asks = [Ask("a b c d e f g", seed) for seed in range(5)]
    assert rule(asks) == [rule([ask])[0] for ask in asks]
    assert len(set(rule(asks))) > 1
    assert rule.digest != Rule(shuffled, "shuffled 2").digest


def test_kept_answers_can_be_replayed_and_others_are_missed() -> None:
    keep = Keep(Rule(shuffled, "shuffled"))
    asks = [Ask("a b c d", seed, "start") for seed in range(4)]
    given = keep(asks)
    replay = keep.replay()
    assert replay(asks[::-1]) == given[::-1]
    assert replay.digest == keep.digest
    for other in (Ask("a b c d", 9, "start"), Ask("a b c", 0, "start"), Ask("a b c d", 0, "")):
        with pytest.raises(TrainingError, match="no answer was kept for question 1"):
            replay([asks[0], other])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_language_model_answers_as_transformers_does_and_whatever_else_is_asked(temperature: float) -> None:
    net = model()
    writer = LanguageModel(net, Characters(), new=8, temperature=temperature)
    asks = [Ask("hello", 1), Ask("hi", 2, " there"), Ask("hello", 3)]
    torch.manual_seed(1)
    given = torch.tensor([[ord(c) for c in "hello"]])
    options = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    expected = net.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=8, **options)[0, 5:]
    before = torch.random.get_rng_state()
    found = writer(asks)
    assert torch.equal(before, torch.random.get_rng_state())
    assert found[0] == Characters().decode(expected)
    assert found == [writer([ask])[0] for ask in asks]
    assert (found[0] == found[2]) == (temperature == 0)


def test_a_models_digest_changes_with_any_weight_and_with_its_settings() -> None:
    net = model()
    first, same = LanguageModel(net, Characters()), LanguageModel(model(), Characters())
    assert first.digest == same.digest
    assert first.digest != LanguageModel(net, Characters(), temperature=0.5).digest
    before, written = model_digest(net), first.digest
    assert first.digest == written
    with torch.no_grad():
        net.transformer.wte.weight[7, 3] += 1e-3
    assert model_digest(net) != before
    assert first.digest == LanguageModel(net, Characters()).digest != written  # also where it was asked before


def test_a_training_step_changes_a_models_digest() -> None:
    net = model()
    writer = LanguageModel(net, Characters())
    before = writer.digest
    optimizer = torch.optim.AdamW(net.parameters(), 0.01)
    ids = torch.randint(1, 100, (2, 8), generator=torch.Generator().manual_seed(0))
    net(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    assert writer.digest != before
    assert writer.digest == LanguageModel(net, Characters()).digest


def test_a_prompt_that_leaves_no_room_is_refused() -> None:
    with pytest.raises(TrainingError, match="60 tokens and 8 new ones exceed the model's 64 positions"):
        LanguageModel(model(), Characters(), new=8)([Ask("x" * 60, 0)])
    assert LanguageModel(model(), Characters(), new=8, longest=56)([Ask("x" * 60, 0)]) != [""]


def test_provenance_names_all_that_went_in() -> None:
    rule = Rule(lambda ask, _: ask.prompt.upper(), "upper")
    found = write(rule, "test", "run", ["one", "two"], lambda text: f"say {text}", numbers=[4, 7], starts=["", "> "])
    assert [each.text for each in found] == ["SAY ONE", "> SAY TWO"]
    for number, (source, each) in zip((4, 7), zip(("one", "two"), found, strict=True), strict=True):
        line = json.loads(each.provenance.line())
        assert line["source"] == hashlib.sha256(source.encode()).hexdigest()
        assert line["output"] == hashlib.sha256(each.text.encode()).hexdigest()
        assert line["seed"] == derive_seed("run", "generation.test", number)
        assert line["generator"] == rule.digest
    assert found[0].provenance.prompt == Ask("say one", found[0].provenance.seed).digest


def test_parts_of_a_hash_cannot_run_into_each_other() -> None:
    assert sha256("ab", "c") != sha256("a", "bc")
    assert sha256("abc") == hashlib.sha256(b"abc").hexdigest()


def test_a_generator_that_loses_answers_is_refused() -> None:
    class Short:
        digest = "0"

        def __call__(self, asks: list[Ask]) -> list[str]:
            return ["x"] * (len(asks) - 1)

    with pytest.raises(TrainingError, match="1 answers to 2 questions"):
        write(Short(), "test", "run", ["a", "b"], str)


@pytest.mark.parametrize("options", [{"new": 0}, {"longest": 0}, {"temperature": -1.0}])
def test_bad_options_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match=next(iter(options))):
        LanguageModel(model(), Characters(), **options)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(TrainingError, match="no tokens"):
        LanguageModel(model(), Characters())([Ask("", 0)])
    assert isinstance(Keep(Rule(shuffled, "a")).replay(), Replay)
