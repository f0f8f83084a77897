"""Gradient matching: distances against numpy, gradients against autograd, and what the attacks recover of tiny records."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from transformers import GPT2ForSequenceClassification

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.rounds import Simulation, simulate
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.lab.models import build
from zkaudit.attacks.lab.records import Record, synthetic
from zkaudit.attacks.matching.classes import head, label
from zkaudit.attacks.matching.distance import cosine, squared, squared_and_absolute
from zkaudit.attacks.matching.dlg import DLG
from zkaudit.attacks.matching.lamp import LAMP
from zkaudit.attacks.matching.moves import moved
from zkaudit.attacks.matching.search import Match, Matching, Trace
from zkaudit.attacks.matching.tag import TAG
from zkaudit.attacks.matching.target import target
from zkaudit.attacks.model import IGNORED, PublicModel, Task
from zkaudit.attacks.peft_setup import apply
from zkaudit.attacks.threat import Observation, Round
from zkaudit.attacks.update import Update

RECORDS = synthetic(12, 5)
LORA = {"nano-gpt2": ["c_attn"], "nano-llama": ["q_proj", "v_proj"], "micro-bert": ["query", "value"]}
SHORT = FederatedSettings(batch=1, longest=5, dropout=False)


def adapted(name: str, peft: dict | None = None, task: Task | None = None) -> PublicModel:
    base = build(name, 3, task)
    if task == "sequence_classification" and name == "nano-gpt2":
        torch.manual_seed(3)
        base = PublicModel(GPT2ForSequenceClassification(base.config).requires_grad_(False).eval(), base.tokenizer, task)
    return apply(base, peft or {"type": "LORA", "r": 8, "target_modules": LORA[name]}, seed=1)


def observed(
    model: PublicModel, settings: FederatedSettings, records: Sequence[Record] = RECORDS
) -> tuple[Simulation, Observation]:
    clients = [records[n * 4 :] for n in range(settings.cohort)]
    world = simulate(model, clients, settings)
    return world, world.observation(tokens=sum(batch.tokens() for batch in world.batches[0]))


def truth(world: Simulation) -> list[list[int]]:
    rows = [pair for batch in world.batches[0] for pair in zip(batch.input_ids, batch.attention_mask, strict=True)]
    return [row[mask.bool()].tolist() for row, mask in rows]


def padded(rows: Sequence[Sequence[int]], pad: int) -> torch.Tensor:
    return torch.tensor([[*row, *[pad] * (max(map(len, rows)) - len(row))] for row in rows])


def match_of(world: Simulation, observation: Observation, attack: Matching, **options) -> Match:
    """The attack's problem, with the true lengths (and classes): what its constructor may be told."""
    goal = target(observation.model, observation.rounds[0], observation.federated)
    lengths = tuple(map(len, truth(world)))
    return dataclasses.replace(attack, lengths=lengths, **options)._match(observation, [goal])


def token_recall(found: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]]) -> float:
    true = {token for row in wanted for token in row}
    return len(true & {token for row in found for token in row}) / len(true)


# What is measured.


def test_distances_are_what_numpy_computes():
    generator = torch.Generator().manual_seed(0)
    found, seen = ([torch.randn(shape, generator=generator) for shape in ((3, 4), (5,))] for _ in range(2))
    a, b = ([x.double().numpy().ravel() for x in side] for side in (found, seen))
    difference = np.concatenate(a) - np.concatenate(b)
    assert float(squared(found, seen)) == pytest.approx(np.dot(difference, difference), rel=1e-5)
    expected = np.dot(difference, difference) + 0.3 * np.abs(difference).sum()
    assert float(squared_and_absolute(0.3)(found, seen)) == pytest.approx(expected, rel=1e-5)
    angles = [1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(a, b, strict=True)]
    assert float(cosine(found, seen)) == pytest.approx(np.mean(angles), rel=1e-5)


def test_cosine_leaves_out_tensors_that_were_not_observed():
    x, y, zero = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0]), torch.zeros(2)
    assert float(cosine([x, x], [y, zero])) == float(cosine([x], [y])) == 1.0


SETTINGS = {
    "one record": SHORT,
    "records of different lengths": FederatedSettings(batch=3, longest=40, dropout=False),
    "accumulated batches": FederatedSettings(batch=2, accumulation=2, longest=30, dropout=False),
    "a cohort": FederatedSettings(batch=2, cohort=2, longest=30, dropout=False),
    "a step of SGD": FederatedSettings(sends="delta", weight_decay=0.1, batch=2, longest=8, dropout=False),
}
MODELS = {
    "full GPT-2, tied embedding": ("nano-gpt2", {"type": "FULL"}, None),
    "LoRA on Llama": ("nano-llama", None, None),
    "prompt tuning": ("nano-gpt2", {"type": "PROMPT_TUNING", "num_virtual_tokens": 4}, None),
    "prefix tuning": ("nano-llama", {"type": "PREFIX_TUNING", "num_virtual_tokens": 4}, None),
    "IA3": ("nano-llama", {"type": "IA3", "target_modules": ["k_proj", "v_proj"], "feedforward_modules": []}, None),
    "BitFit": ("nano-gpt2", {"type": "BITFIT"}, None),
    "AdaLoRA": ("nano-gpt2", {"type": "ADALORA", "target_modules": ["c_attn"], "total_step": 10}, None),
    "bottleneck adapters": ("nano-gpt2", {"type": "BOTTLENECK"}, None),
    "BERT classifier": ("micro-bert", None, "sequence_classification"),
    "GPT-2 classifier": ("nano-gpt2", {"type": "FULL"}, "sequence_classification"),
}


def gap_at_truth(model: PublicModel, settings: FederatedSettings) -> float:
    """The relative distance of the true records' gradient from the client's."""
    world, observation = observed(model, settings)
    classes = [int(x) for batch in world.batches[0] for x in batch.labels] if model.task == "sequence_classification" else None
    match = match_of(world, observation, DLG(labels="nearest", classes=classes))
    ids = padded(truth(world), model.tokenizer.pad_token_id)
    size = sum(float(g.square().sum()) for g in match.targets[0].gradient.values())
    return match.value(match.problem.dummy(ids)) / size


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_true_records_have_the_clients_gradient_under_all_settings(settings):
    assert gap_at_truth(adapted("nano-gpt2"), settings) < 1e-6


@pytest.mark.parametrize(("name", "peft", "task"), MODELS.values(), ids=MODELS)
def test_true_records_have_the_clients_gradient_in_all_models(name, peft, task):
    assert gap_at_truth(adapted(name, peft, task), FederatedSettings(batch=2, longest=30, dropout=False)) < 1e-6


def test_true_records_with_the_true_masks_have_a_masked_language_models_gradient():
    world, observation = observed(adapted("micro-bert"), FederatedSettings(batch=2, longest=30, dropout=False))
    (batch,) = world.batches[0]
    match = match_of(world, observation, DLG(labels="nearest"))
    hidden = batch.labels != IGNORED
    match = dataclasses.replace(match, problem=dataclasses.replace(match.problem, hidden=hidden))
    size = sum(float(g.square().sum()) for g in match.targets[0].gradient.values())
    assert match.value(match.problem.dummy(batch.labels.where(hidden, batch.input_ids))) < 1e-6 * size


def test_other_records_have_another_gradient():
    model = adapted("nano-gpt2")
    world, observation = observed(model, SHORT)
    match = match_of(world, observation, DLG(labels="nearest"))
    other = torch.tensor(truth(world)).roll(1, 1)
    assert match.value(match.problem.dummy(other)) > 1e-3 * sum(
        float(g.square().sum()) for g in match.targets[0].gradient.values()
    )


def test_slope_is_the_derivative_of_the_distance():
    model = adapted("nano-llama")
    model.module.double()
    world, observation = observed(model, dataclasses.replace(SHORT, precision="float64"))
    for attack in (DLG(labels="soft"), LAMP()):
        match = match_of(world, observation, attack)
        dummy = match.problem.dummy(torch.tensor([[70, 80, 90, 100, 110]]))
        dummy.vectors = (dummy.vectors + 0.01).requires_grad_(True)
        match.slope(dummy)
        direction = torch.randn(dummy.vectors.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        places = [dummy.vectors.detach() + step * direction for step in (1e-4, -1e-4)]
        ahead, behind = (match.value(dataclasses.replace(dummy, vectors=place)) for place in places)
        assert float((dummy.vectors.grad * direction).sum()) == pytest.approx((ahead - behind) / 2e-4, rel=1e-2)


# Labels of classifiers.


def test_sign_rule_reads_the_label_of_a_trained_head():
    for wanted in (0, 1):
        model = adapted("micro-bert", {"type": "FULL"}, "sequence_classification")
        record = dataclasses.replace(RECORDS[0], label=wanted)
        _, observation = observed(model, SHORT, [record])
        weight, bias = head(observation.rounds[0].update.tensors, 2)
        assert label(weight, bias) == wanted


def test_sign_rule_without_a_bias_needs_three_classes():
    generator = torch.Generator().manual_seed(0)
    logits, hidden = torch.randn(5, generator=generator, requires_grad=True), torch.randn(7, generator=generator)
    (errors,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, torch.tensor(3)), logits)
    assert label(torch.outer(errors, hidden), None) == 3
    assert label(torch.outer(torch.tensor([0.4, -0.4]), hidden), None) is None


# Discrete moves.


def test_moves_are_permutations_that_leave_padding():
    generator = torch.Generator().manual_seed(0)
    lengths = (1, 5, 3)
    for _ in range(200):
        order = moved(lengths, generator)
        live = torch.arange(5) < torch.tensor(lengths)[:, None]
        places = torch.arange(15).view(3, 5)
        assert sorted(order[live].tolist()) == places[live].tolist()
        assert torch.equal(order[~live], places[~live])


def test_word_order_is_judged_by_the_models_own_loss():
    model = adapted("nano-llama")
    world, observation = observed(model, FederatedSettings(batch=2, longest=30, dropout=False))
    match = match_of(world, observation, LAMP()).exact()
    dummy = match.problem.dummy(padded(truth(world), model.tokenizer.pad_token_id))
    scores = [LAMP(perplexity_weight=weight)._score(match, dummy) for weight in (0.0, 2.0)]
    assert scores[1] - scores[0] == pytest.approx(2 * float(model.loss(world.batches[0][0]).detach()), rel=1e-5)


def test_discrete_moves_find_the_order_of_shuffled_true_tokens():
    model = adapted("nano-gpt2")
    world, observation = observed(model, SHORT)
    attack = LAMP(tries=80, perplexity_weight=0.0)
    match = match_of(world, observation, attack).exact()
    ids = torch.tensor(truth(world))
    dummy = match.problem.dummy(ids[:, [3, 0, 4, 2, 1]])
    before, trace = match.value(dummy), Trace()
    attack.reorder(match, dummy, torch.Generator().manual_seed(0), trace)
    assert match.value(dummy) < 0.01 * before
    assert torch.equal(match.problem.tokens(dummy.vectors), ids)
    assert 0 < trace.accepted <= trace.tried == 80


# What is recovered.


def test_dlg_recovers_a_short_record_from_a_full_gradient():
    world, observation = observed(adapted("nano-gpt2", {"type": "FULL"}), SHORT)
    found = DLG(steps=100).run(observation)
    assert token_recall(found.sequences, truth(world)) >= 0.8  # chance: 5 of 2000
    assert set(found.tokens.ids) == {token for row in found.sequences for token in row}
    losses = found.evidence["batches"][0]["loss"]
    assert len(losses) <= 100
    assert losses[-1] < 0.05 * losses[0]


def test_lamp_recovers_a_short_record_from_lora_on_llama():
    world, observation = observed(adapted("nano-llama"), FederatedSettings(batch=1, longest=4, dropout=False))
    found = LAMP(steps=80, restarts=1, candidates=4, tries=5).run(observation)
    assert token_recall(found.sequences, truth(world)) >= 0.5  # chance: 4 of 2000


def test_lamp_recovers_a_classifiers_record_from_lora_on_bert():
    world, observation = observed(adapted("micro-bert", None, "sequence_classification"), SHORT)
    found = LAMP(steps=60, restarts=1, candidates=4, tries=5).run(observation)
    assert token_recall(found.sequences, truth(world)) >= 0.8  # chance: 5 of 4000


def test_lamp_recovers_a_masked_record_and_its_mask_from_lora_on_bert():
    world, observation = observed(adapted("micro-bert"), SHORT)
    (batch,) = world.batches[0]
    found = LAMP(steps=80, restarts=1, candidates=8, tries=5).run(observation)
    assert token_recall(found.sequences, batch.labels.where(batch.labels != IGNORED, batch.input_ids).tolist()) >= 0.8
    assert "which tokens the client masked is guessed" in found.evidence["caveats"]


def test_lbfgs_lowers_the_distance():
    _, observation = observed(adapted("nano-gpt2"), SHORT)
    losses = DLG(steps=3, candidates=1, optimizer="lbfgs").run(observation).evidence["batches"][0]["loss"]
    assert losses[0] > losses[1] > losses[2]


def test_a_step_of_sgd_with_decay_is_as_good_as_its_gradient():
    sent = FederatedSettings(sends="delta", weight_decay=0.5, batch=1, longest=4, dropout=False)
    plain = FederatedSettings(batch=1, longest=4, dropout=False)
    (_, delta), (world, gradient) = (observed(adapted("nano-gpt2"), settings) for settings in (sent, plain))
    attack = DLG(steps=40, labels="soft")
    by_delta, by_gradient = attack.run(delta), attack.run(gradient)
    assert by_delta.sequences == by_gradient.sequences
    assert token_recall(by_delta.sequences, truth(world)) >= 0.5


def test_several_local_steps_are_matched_and_said_to_be_approximate():
    settings = FederatedSettings(sends="delta", local_steps=2, local_epochs=2, batch=1, longest=4, dropout=False)
    _, observation = observed(adapted("nano-gpt2"), settings)
    found = DLG(steps=2, candidates=1).run(observation)
    assert found.evidence["caveats"] == ["4 local steps are taken for one step with their mean gradient"]
    assert [len(row) for row in found.sequences] == [4, 4]


@pytest.mark.parametrize(("same", "expected"), [(True, 1), (False, 3)])
def test_rounds_of_one_batch_are_matched_together_and_others_apart(same, expected):
    _, observation = observed(adapted("nano-gpt2"), dataclasses.replace(SHORT, rounds=3, same_batch=same))
    found = DLG(steps=2, candidates=2).run(observation)
    assert len(found.sequences) == len(found.evidence["batches"]) == expected


def test_guessed_lengths_are_said():
    _, observation = observed(adapted("nano-gpt2"), SHORT)
    attack = DLG(steps=1, candidates=1)
    unknown = dataclasses.replace(observation, tokens=None)
    assert attack.run(observation).evidence["caveats"] == []
    assert attack.run(unknown).evidence["caveats"] == ["the records are taken to have 5 tokens each"]
    assert dataclasses.replace(attack, lengths=[5]).run(unknown).evidence["caveats"] == []


def test_a_seed_decides_everything():
    _, observation = observed(adapted("nano-gpt2"), SHORT)
    runs = [LAMP(steps=3, every=2, tries=2, candidates=2, restarts=1, seed=seed).run(observation) for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_the_model_is_left_as_it_was():
    model = adapted("nano-gpt2")
    _, observation = observed(model, dataclasses.replace(SHORT, rounds=2))
    model.module.train()
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    LAMP(steps=2, every=1, tries=2, restarts=1, candidates=2).run(observation)
    assert model.module.training
    assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())
    assert all(parameter.grad is None for parameter in model.module.parameters())


def test_progress_goes_from_nothing_to_all():
    _, observation = observed(adapted("nano-gpt2"), dataclasses.replace(SHORT, rounds=2))
    seen: list[float] = []
    LAMP(steps=3, restarts=2, candidates=1, tries=1).run(observation, lambda _what, fraction: seen.append(fraction))
    assert seen == sorted(seen)
    assert len(seen) == 12
    assert seen[-1] == pytest.approx(1.0)


@pytest.mark.slow
def test_lamp_recovers_more_tokens_than_tag_and_tag_than_dlg():
    """The published ordering, as a mean over LoRA on a language model and on a classifier."""
    models = [adapted("nano-gpt2"), adapted("micro-bert", None, "sequence_classification")]
    attacks = [LAMP(steps=150, restarts=1, tries=10), TAG(steps=150), DLG(steps=150)]
    recalls = []
    for model, seed in itertools.product(models, range(3)):
        world, observation = observed(model, SHORT, synthetic(12, 20 + seed)[seed:])
        recalls.append([token_recall(attack.run(observation).sequences, truth(world)) for attack in attacks])
    lamp, tag, dlg = np.mean(recalls, axis=0)
    assert lamp >= tag >= dlg
    assert lamp >= 0.8


# What is refused.


def altered(observation: Observation, value: float) -> Observation:
    """All entries of the update replaced."""
    tensors = {name: torch.full_like(tensor, value) for name, tensor in observation.rounds[0].update.tensors.items()}
    return dataclasses.replace(observation, rounds=[Round(observation.rounds[0].start, Update("gradient", tensors))])


@pytest.mark.parametrize(("value", "said"), [(float("nan"), "NaN"), (0.0, "zero in all tensors")])
def test_updates_without_a_gradient_are_refused(value, said):
    _, observation = observed(adapted("nano-gpt2"), SHORT)
    with pytest.raises(AuditError, match=said):
        DLG().run(altered(observation, value))


@pytest.mark.parametrize("lengths", [[5, 5], [0], []])
def test_lengths_that_do_not_fit_the_records_are_refused(lengths):
    _, observation = observed(adapted("nano-gpt2"), SHORT)
    with pytest.raises(AuditError, match="a length"):
        DLG(lengths=lengths).run(observation)
