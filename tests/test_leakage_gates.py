"""The gates of the leakage benchmark, on the smallest models: numbers are those of its tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from defended import LORA, adapted
from observations import GPT2, STILL, Seen, claims, precision, recall, recall_at_n, seen

from zkaudit.attacks.attack import Attack
from zkaudit.attacks.controls import LanguageModelOnly, RandomTokens
from zkaudit.attacks.dager import Dager
from zkaudit.attacks.defences import parse
from zkaudit.attacks.defences.dp_sgd import norms
from zkaudit.attacks.defences.examples import Engine, per_example
from zkaudit.attacks.defences.sweep import Case, observe
from zkaudit.attacks.federated.client import batches
from zkaudit.attacks.federated.rounds import Simulation, simulate
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.lab.models import build, train_language
from zkaudit.attacks.lab.records import synthetic
from zkaudit.attacks.metrics import Score, Scorer, interval, mean_of
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.peft_setup import apply
from zkaudit.attacks.pursuit import Pursuit
from zkaudit.attacks.span_test import SpanTest, StaticSpanTest
from zkaudit.attacks.token_set import TokenSet

ROOT = Path(__file__).parent.parent
SEEDS = (0, 1, 2)
K = 24  # of LoRA, rank 8, on q, k and v
STARTED = {"gpt2": lambda: adapted(GPT2, name="nano-gpt2"), "llama": lambda: adapted()}


def scored(run: Simulation, attack: Attack) -> Score:
    """Without a causal record's last token."""
    texts = [run.model.tokenizer(record.text)["input_ids"][: run.settings.longest - 1] for record in run.truth[-1]]
    scorer = Scorer(run.model.tokenizer, run.truth[-1], texts, run.model.vocabulary)
    return scorer.score(attack.run(run.observation()))


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_1_the_full_gradient_gives_whole_records_below_the_width(precision: str) -> None:
    model = apply(build("nano-gpt2"), {"type": "FULL"})
    if precision == "float64":
        model.module.double()
    settings = FederatedSettings(batch=3, longest=26, dropout=False, precision=precision)  # 75 inputs, 0.6 of the width
    run = simulate(model, [synthetic(3, 11)], settings)
    score = scored(run, Dager())
    assert score.value("token_f1") >= 0.99
    assert score.value("exact_match") == 1.0


@pytest.mark.parametrize(("kind", "count"), [("gpt2", 16), ("llama", K)])
def test_3_lora_at_its_rank_is_exact(kind: str, count: int) -> None:
    one = seen(count, STARTED[kind]())
    assert claims(SpanTest().run(one.observation)) == claims(Pursuit().run(one.observation)) == one.tokens


@pytest.mark.parametrize("kind", list(STARTED))
def test_3_lora_below_its_rank_leaves_a_wide_gap_of_distances(kind: str) -> None:
    one = seen(12, STARTED[kind]())
    recovery = SpanTest().run(one.observation)
    distance = np.array(recovery.evidence["distance_by_token"])
    true = np.isin(np.arange(len(distance)), list(one.tokens))
    assert distance[true].max() < 1e-4
    assert distance[~true].min() > 0.3


def in_first_round(count: int) -> Seen:
    return seen(count, apply(build("nano-llama"), {**LORA, "r": 16, "target_modules": ["v_proj"]}))


def test_5_while_b_is_zero_only_b_has_a_gradient_and_tells_up_to_rank_less_two() -> None:
    within, beyond = in_first_round(14), in_first_round(16)
    assert all(bool(value.any()) == ("lora_B" in name) for name, value in within.tensors.items() if "layers.0" in name)
    found = SpanTest().run(within.observation)
    assert recall(within, found) == precision(within, found) == 1.0
    assert not claims(SpanTest().run(beyond.observation))


def test_5_one_below_the_rank_a_fixed_threshold_has_as_many_false_hits_as_beta_says() -> None:
    """The law by simulation: a random direction's distance to a space of one dimension less is one of its coordinates."""
    one = in_first_round(15)
    size = one.observation.model.vocabulary
    false = len(claims(StaticSpanTest(1e-3).run(one.observation)) - one.tokens)
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(1_000_000, 16, generator=generator), dim=1)
    expected = size * float((directions[:, 0].abs() < 1e-3).double().mean())
    assert 3 < expected < 10
    assert abs(false - expected) <= 4 * expected**0.5


@pytest.mark.parametrize("count", [30, 100, 160])
def test_7_a_trained_embedding_gives_the_token_set_at_any_size(count: int) -> None:
    one = seen(count, adapted({**LORA, "modules_to_save": ["embed_tokens"]}))
    recovery = TokenSet().run(one.observation)
    assert recall(one, recovery) == precision(one, recovery) == 1.0


def defended(text: str, seed: int) -> Simulation:
    model = adapted({**LORA, "r": 16}, seed)
    records = synthetic(4, 30 + seed)
    settings = FederatedSettings(batch=4, longest=5, dropout=False)  # 16 inputs at most, K = 48
    if "C" in text:
        gradients = per_example(model, batches(model, records, settings)[0], Engine("loop"))
        text = text.replace("C", str(float(norms(gradients).median())))
    return observe(Case(model, [records], settings), parse(text), seed)


def test_11_clipping_alone_protects_nothing_and_noise_of_the_size_of_an_example_does() -> None:
    recalls: dict[str, list[float]] = {"none": [], "clip:C": [], "dp_sgd:1:C": []}
    for text, found in recalls.items():
        for run in (defended(text, seed) for seed in SEEDS):
            found += [scored(run, attack).value("recall_at_n") for attack in (SpanTest(), Pursuit())]
    assert recalls["none"] == recalls["clip:C"] == [1.0] * 2 * len(SEEDS)
    assert np.mean(recalls["dp_sgd:1:C"]) <= 0.1


@pytest.fixture(scope="module")
def trained() -> PublicModel:
    """A model that has seen the records' format, and none of their values."""
    model = build("nano-llama")
    train_language(model, [record.text for record in synthetic(300, 61_000)], steps=25)
    return apply(model, {**LORA, "r": 32})


def test_15_what_is_recovered_is_not_what_a_language_model_writes_by_itself(trained: PublicModel) -> None:
    settings = FederatedSettings(batch=2, longest=20, dropout=False, warm_up_steps=2, learning_rate=0.1)
    gain = []
    for seed in SEEDS:
        run = simulate(trained, [synthetic(2, 40 + seed)], settings, seed=seed, public=synthetic(4, 50 + seed))
        attack, control, drawn = (scored(run, one) for one in (Dager(), LanguageModelOnly(seed), RandomTokens(seed)))
        gain.append(attack.value("rouge1") - control.value("rouge1"))
        assert drawn.value("recall_at_n") <= 4 * drawn.value("token_chance")
        assert control.value("pii_exact") == 0.0
    assert interval(mean_of(gain)).low > 0.1


def ranked(attack: Attack, observations: list[Seen]) -> list[float]:
    return [recall_at_n(one, attack.run(one.observation)) for one in observations]


@pytest.mark.parametrize(("factor", "least"), [(2, 0.5), (4, 0.25)])
def test_4_beyond_the_rank_ranking_falls_and_stays_far_above_chance(factor: int, least: float) -> None:
    observations = [seen(factor * K, seed=seed) for seed in SEEDS]
    recalls = ranked(SpanTest(), observations)
    chance = factor * K / observations[0].observation.model.vocabulary
    assert interval(mean_of(recalls)).low > max(least, 3 * chance)
    assert interval(mean_of(recalls)).high < 1
    assert not any(claims(StaticSpanTest().run(one.observation)) for one in observations)


def low_precision(kind: str) -> FederatedSettings:
    return replace(STILL, precision=kind)


HIDDEN = {
    "bfloat16": (LORA, low_precision("bfloat16")),
    "int8": (LORA, low_precision("int8")),
    "dropout": ({**LORA, "lora_dropout": 0.1}, FederatedSettings(batch=1)),
}


@pytest.mark.parametrize("kind", list(HIDDEN))
def test_9_what_stops_a_threshold_does_not_stop_a_ranking(kind: str) -> None:
    peft, settings = HIDDEN[kind]
    observations = [seen(K // 2, adapted(peft, seed), settings, seed) for seed in SEEDS]
    static = [recall(one, StaticSpanTest().run(one.observation)) for one in observations]
    assert np.mean(static) <= 0.2
    assert np.mean(ranked(SpanTest(), observations)) >= 0.95
    assert np.mean(ranked(Pursuit(), observations)) >= 0.95


@pytest.mark.parametrize("attack", [SpanTest(), Pursuit()])
def test_10_a_step_of_adamw_ranks_above_chance_and_below_one_of_sgd(attack: Attack) -> None:
    sgd = FederatedSettings("delta", batch=1, dropout=False)
    adamw = replace(sgd, optimizer="adamw", learning_rate=1e-3)
    plain, signs = ([seen(2 * K, settings=settings, seed=seed) for seed in SEEDS] for settings in (sgd, adamw))
    chance = 2 * K / plain[0].observation.model.vocabulary
    recalls = ranked(attack, signs)
    assert interval(mean_of(recalls)).low > 3 * chance
    assert np.mean(recalls) < np.mean(ranked(attack, plain)) - 0.1


@pytest.mark.slow
def test_the_benchmark_runs_prints_and_goes_on_where_it_was(tmp_path: Path) -> None:
    results = tmp_path / "attacks.json"
    command = [sys.executable, str(ROOT / "benchmarks/attacks.py"), "--quick", "--seeds", "1", "--jobs", "1"]

    def run(tests: str) -> subprocess.CompletedProcess[str]:
        call = [*command, "--tests", tests, "--json", str(results)]
        return subprocess.run(call, capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"})

    first = run("5")
    assert first.returncode == 0, first.stderr
    assert "5. first round, B = 0 (hard gate)" in first.stdout
    kept = json.loads(results.read_text())
    both = run("5,7")
    assert both.returncode == 0, both.stderr
    assert "[1/1] 7" in both.stderr  # 5 was there
    again = json.loads(results.read_text())
    assert again.items() > kept.items()
    assert all(row["outcome"] != "miss" for part in again.values() for row in part["rows"])
    assert all(part["seconds"] > 0 and part["peak_bytes"] >= 0 for part in again.values())
