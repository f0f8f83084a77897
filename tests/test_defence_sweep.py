"""Defences under a static and an adaptive attacker, what they cost, and which of them none beats."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from defended import LORA, ONE_RECORD, adapted
from hypothesis import given
from hypothesis import strategies as st

from zkaudit.attacks.attack import Progress, Ranking, Recovery, silent
from zkaudit.attacks.defences import NONE, Defence, parse
from zkaudit.attacks.defences.dp_sgd import Accounting
from zkaudit.attacks.defences.pareto import front
from zkaudit.attacks.defences.projection import adapted_taps
from zkaudit.attacks.defences.sweep import Case, DefenceResult, observe, static_only, sweep
from zkaudit.attacks.defences.utility import Measure, Utility, measure, utility
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.rounds import Simulation
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.lab.records import synthetic
from zkaudit.attacks.sites import Dependence, token_activations
from zkaudit.attacks.spans import subspace
from zkaudit.attacks.taps import groups
from zkaudit.attacks.threat import Capability, Observation

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Distances:
    """Tokens by their distance to the span of LoRA's A; only those within `threshold` are claimed."""

    threshold: float | None = None
    name: str = "distances"
    needs: Capability = Capability.UPDATE

    def run(self, observation: Observation, progress: Progress = silent) -> Recovery:
        model = observation.model
        known = NONE if observation.defence is None else parse(observation.defence)
        seen = [tap for tap in adapted_taps(model, known) if tap.kind == "LoRA A"]
        of_tokens = [group for group in groups(model, seen) if group.dependence == Dependence.TOKEN]
        if not of_tokens:
            raise AuditError("no LoRA A sees single tokens")
        group = of_tokens[0]
        rows = torch.cat([group.rows(one.update.tensors) for one in observation.rounds])
        most = min(group.capacity * len(observation.rounds), rows.shape[1] - 1)
        span = subspace(rows, None if self.threshold else most)
        distances = span.distances(group.view(token_activations(model, group.site), observation.rounds[0].start))
        order = distances.argsort()
        claimed = int((distances < self.threshold).sum()) if self.threshold else len(order)
        return Recovery(self.name, Ranking(order.tolist(), (-distances[order]).tolist(), claimed))


ATTACKERS = {"static": Distances(1e-3), "adaptive": Distances()}


def recall_at_n(recovery: Recovery, run: Simulation) -> float:
    """Of the distinct tokens of the last round that have a part in the loss."""
    true = set()
    for batch in run.batches[-1]:
        for ids, mask in zip(batch.input_ids.tolist(), batch.attention_mask.sum(1).tolist(), strict=True):
            true |= set(ids[: mask - 1])
    assert recovery.tokens is not None
    return len(true & set(recovery.tokens.ids[: len(true)])) / len(true)


def case(defence: Defence, seed: int, settings: FederatedSettings = ONE_RECORD) -> Case:
    rules = defence.settings(settings)
    count = rules.records * rules.rounds
    records = synthetic(count * rules.cohort, seed)
    clients = [records[i * count : (i + 1) * count] for i in range(rules.cohort)]
    return Case(adapted(defence.peft(LORA, 2), seed), clients, settings, synthetic(8, seed + 100))


def swept(*names: str, settings: FederatedSettings = ONE_RECORD, **options: Any) -> dict[str, DefenceResult]:
    def build(defence: Defence, seed: int) -> Case:
        return case(defence, seed, settings)

    options = {"seeds": SEEDS, **options}
    results = sweep([parse(name) for name in names], build, ATTACKERS, recall_at_n, **options)
    return {result.defence: result for result in results}


def mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


@pytest.fixture(scope="module")
def results() -> dict[str, DefenceResult]:
    texts = "bf16 int8 fp8_e4m3 sign dropout:0.1 noise:0.1 noise:3 top_k:0.01 clip:0.01 dp_sgd:1:0.01 galore:20 layers:later"
    return swept(*texts.split(), accounting=Accounting(0.01, 1000))


def test_without_a_defence_every_token_is_found(results: dict[str, DefenceResult]) -> None:
    assert results["none"].static == results["none"].adaptive == (1.0,) * len(SEEDS)
    assert mean(results["none"].chance) < 0.05


@pytest.mark.parametrize("name", ["bf16", "int8", "fp8_e4m3", "dropout:0.1", "noise:0.1"])
def test_small_disturbances_stop_only_the_static_attacker(results: dict[str, DefenceResult], name: str) -> None:
    assert mean(results[name].static) <= 0.2
    assert mean(results[name].adaptive) >= 0.95
    assert results[name].static_only


def test_clipping_alone_protects_nothing(results: dict[str, DefenceResult]) -> None:
    assert results["clip:0.01"].static == results["clip:0.01"].adaptive == (1.0,) * len(SEEDS)
    assert results["clip:0.01"].epsilon == math.inf
    assert not results["clip:0.01"].static_only


def test_dp_sgd_at_sigma_one_leaves_chance(results: dict[str, DefenceResult]) -> None:
    result = results["dp_sgd:1:0.01"]
    assert mean(result.adaptive) <= mean(result.chance) + 0.05
    assert result.epsilon is not None
    assert 1 < result.epsilon < 3
    assert result.note == "gradients by opacus"


def test_the_sign_still_ranks_tokens_far_above_chance(results: dict[str, DefenceResult]) -> None:
    assert mean(results["sign"].static) == 0
    assert mean(results["sign"].adaptive) > mean(results["sign"].chance) + 0.4


def test_strong_noise_and_sparsity_cost_the_adaptive_attacker_too(results: dict[str, DefenceResult]) -> None:
    for name in ("noise:3", "top_k:0.01"):
        assert mean(results[name].adaptive) < 0.7
        assert not results[name].static_only


def test_a_known_projector_hides_nothing_while_the_rank_suffices(results: dict[str, DefenceResult]) -> None:
    """n = 15 inputs of a projection to R^20; a static attacker does not know that there is one."""
    assert mean(results["galore:20"].static) == 0
    assert mean(results["galore:20"].adaptive) == 1.0
    run = observe(case(parse("galore:20"), 0), parse("galore:20"), 0)
    exact = Distances(1e-3).run(run.observation(defence="galore:20"))
    assert exact.tokens is not None
    assert recall_at_n(replace(exact, tokens=replace(exact.tokens, ids=exact.tokens.ids[: exact.tokens.claimed])), run) == 1.0


def test_an_attack_that_does_not_apply_finds_nothing_and_says_so(results: dict[str, DefenceResult]) -> None:
    assert results["layers:later"].adaptive == (0.0,) * len(SEEDS)
    assert "adaptive: no LoRA A sees single tokens" in results["layers:later"].note


def test_rounds_on_the_same_record_average_noise_out() -> None:
    one = swept("noise:1", settings=replace(ONE_RECORD, learning_rate=0.0))["noise:1"]
    rules = replace(ONE_RECORD, learning_rate=0.0, rounds=9, same_batch=True)
    many = []
    for seed in SEEDS:
        run = observe(case(parse("noise:1"), seed, rules), parse("noise:1"), seed)
        total = {name: sum(one.update.tensors[name] for one in run.rounds) for name in run.rounds[0].update.tensors}
        averaged = replace(run, rounds=[replace(run.rounds[0], update=replace(run.rounds[0].update, tensors=total))])
        many.append(recall_at_n(Distances().run(averaged.observation()), run))
    assert mean(many) > mean(one.adaptive)


def test_a_larger_cohort_leaks_less_but_above_chance() -> None:
    found = swept("secure_aggregation:4", "secure_aggregation:12", seeds=(0, 1))
    few, many = found["secure_aggregation:4"], found["secure_aggregation:12"]
    assert 1 > mean(few.adaptive) > mean(many.adaptive) > mean(many.chance) + 0.1


def test_a_sweep_goes_on_where_it_stopped() -> None:
    built: list[str] = []
    stored: list[DefenceResult] = []

    def build(defence: Defence, seed: int) -> Case:
        built.append(defence.name)
        return case(defence, seed)

    whole = sweep([parse("int8"), parse("sign")], build, ATTACKERS, recall_at_n, (0,), store=stored.append)
    assert [result.defence for result in whole] == ["none", "int8", "sign"]
    assert stored == whole
    built.clear()
    done = {result.defence: result for result in stored[:2]}
    stored.clear()
    again = sweep([parse("int8"), parse("sign")], build, ATTACKERS, recall_at_n, (0,), done=done, store=stored.append)
    assert built == ["sign"]
    assert again == whole
    assert [result.defence for result in stored] == ["sign"]


def test_results_survive_json() -> None:
    (plain, clipped) = swept("clip:1", seeds=(0,), utility_steps=1, accounting=Accounting(0.1, 10)).values()
    assert clipped.epsilon == math.inf
    for result in (plain, clipped):
        text = json.dumps(result.to_dict(), allow_nan=False)
        assert DefenceResult.from_dict(json.loads(text)) == result


def test_a_win_is_static_only_if_the_adaptive_attacker_loses_nothing() -> None:
    def result(static: float, adaptive: float) -> DefenceResult:
        return DefenceResult("x", (static,), (adaptive,), (0.0,))

    assert static_only(result(1, 1), result(0, 0.95))
    assert not static_only(result(1, 1), result(0, 0.5))  # both fall
    assert not static_only(result(1, 1), result(1, 1))  # neither does
    assert not static_only(result(0, 0.8), result(0, 0.8))  # there was nothing to win


def test_a_sweep_without_both_attackers_or_seeds_is_refused() -> None:
    with pytest.raises(AuditError, match="static and an adaptive"):
        sweep([], case, {"static": Distances()}, recall_at_n)
    with pytest.raises(AuditError, match="at least one seed"):
        sweep([], case, ATTACKERS, recall_at_n, seeds=())


TRAINING = FederatedSettings(optimizer="adamw", learning_rate=5e-3, batch=4, longest=16)


def test_utility_is_all_without_a_defence_and_none_under_drowning_noise() -> None:
    model = adapted()
    before = model.state()
    train, test = synthetic(16, 1), synthetic(12, 2)
    plain = utility(model, train, test, TRAINING, NONE, 5)
    drowned = utility(model, train, test, TRAINING, parse("dp_sgd:1000"), 5, undefended=plain.undefended)
    assert plain.undefended.loss < plain.untrained.loss - 0.05
    assert plain.retained == 1.0
    assert drowned.retained < 0.5
    assert all(torch.equal(before[name], value) for name, value in model.state().items())


def test_the_loss_of_a_test_set_is_that_of_all_its_tokens() -> None:
    """Oracle: transformers' loss on one record at a time, weighted by its tokens; 20 records are more than a batch."""
    model = adapted()
    records = synthetic(20, 3)
    total = count = 0.0
    for record in records:
        ids = torch.tensor([model.tokenizer(record.text)["input_ids"][:16]])
        total += model.module(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    found = measure(model, records, TRAINING)
    assert found.loss == pytest.approx(total / count, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(total / count), rel=1e-4)


def test_a_classifiers_accuracy_is_the_share_of_right_classes() -> None:
    config = {"type": "LORA", "r": 4, "target_modules": ["query"]}
    model = adapted(config, name="micro-bert", task="sequence_classification")
    records = synthetic(18, 4)
    right = 0
    for record in records:
        ids = torch.tensor([model.tokenizer(record.text)["input_ids"][:16]])
        right += int(model.module(input_ids=ids).logits.argmax()) == record.label
    assert measure(model, records, TRAINING).accuracy == right / len(records)


def test_masked_models_and_prompts_have_a_utility() -> None:
    for name, config in (
        ("micro-bert", {"type": "LORA", "r": 4, "target_modules": ["query"]}),
        ("nano-gpt2", {"type": "PROMPT_TUNING", "num_virtual_tokens": 4}),
    ):
        found = utility(adapted(config, name=name), synthetic(8, 1), synthetic(4, 2), TRAINING, parse("int8"), 1)
        assert math.isfinite(found.defended.loss)


def test_a_diverged_training_is_worse_than_any_other() -> None:
    lost = Utility(Measure(3.0, 0.1), Measure(2.0, 0.2), Measure(math.inf, 0.0))
    assert lost.retained == -math.inf
    assert lost.defended.perplexity == math.inf
    assert Utility.from_dict(json.loads(json.dumps(lost.to_dict(), allow_nan=False))) == lost


def test_too_few_records_for_a_cohort_are_refused() -> None:
    with pytest.raises(AuditError, match="4 clients need"):
        utility(
            adapted(), synthetic(3, 1), synthetic(1, 2), TRAINING, parse("secure_aggregation:4"), 1, undefended=Measure(1, 0)
        )
    with pytest.raises(AuditError, match="test records"):
        measure(adapted(), [], TRAINING)


points = st.lists(st.tuples(st.integers(0, 5).map(float), st.integers(0, 5).map(float)), min_size=1, max_size=12)


@given(points)
def test_the_front_is_what_no_point_beats(given_points: list[tuple[float, float]]) -> None:
    chosen = front(given_points)
    best = [point for point, on in zip(given_points, chosen, strict=True) if on]
    for one, on in zip(given_points, chosen, strict=True):
        beaten = any((a > one[0] and b <= one[1]) or (a >= one[0] and b < one[1]) for a, b in best)
        assert beaten != on


def test_nan_has_no_place_on_a_front() -> None:
    with pytest.raises(AuditError, match="NaN"):
        front([(1.0, math.nan)])
