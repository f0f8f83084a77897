"""The ReCIT-style attack: notes, poisoning, filter, pairing, channel, whole."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional

from zkaudit.attacks.attack import Ranking
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.client import batches, encode, local_update
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.lab.models import build
from zkaudit.attacks.lab.records import Record, synthetic, values
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.peft_setup import apply
from zkaudit.attacks.pursuit import Pursuit
from zkaudit.attacks.recit import channel, decoding, formats, notes
from zkaudit.attacks.recit.filter import Candidates, FilterOptions, ranked_filter, span_filter
from zkaudit.attacks.recit.pairing import PairingOptions, behind, pair
from zkaudit.attacks.recit.poison import PoisonOptions, perplexity, poison
from zkaudit.attacks.recit.recover import Recit, RecitOptions
from zkaudit.attacks.threat import THREATS, Observation, Round

torch.set_num_threads(1)
AUXILIARY = synthetic(60, 5)
CLIENT = synthetic(12, 6, taken=values(AUXILIARY))
PHONES = [record for record in CLIENT if tuple(record.pii) == ("phone",)]


def observed(model: PublicModel, records: list[Record], threat: str = "active", **settings: object) -> Observation:
    """One round of one client with these records."""
    rules = FederatedSettings(**{"batch": len(records), "dropout": False, **settings})  # type: ignore[arg-type]
    update = local_update(model, batches(model, records, rules), rules)
    return Observation(model, rules, [Round(model.state(), update)], THREATS[threat], _auxiliary=AUXILIARY)


def full(name: str, seed: int = 0) -> PublicModel:
    """All attention and MLP weights trained, so that n stays below the rank."""
    return apply(build(name, seed), {"type": "FULL"})


@pytest.mark.parametrize("form", ["appended", "summarising", "alone"])
def test_notes_restate_exactly_the_personal_data_of_their_text(form: notes.Form) -> None:
    options = notes.NoteOptions(forms=(form,), summarised=3)
    texts = notes.generate(AUXILIARY, options)
    expected = sorted(notes.stem(r.owner, kind) + f" {value}." for r in AUXILIARY for kind, value in r.pii.items())
    noted = " ".join(part.text.strip() for text in texts for part in text if part.note)
    assert sorted(sentence for sentence in expected if sentence in noted) == expected
    assert len(noted) == len(" ".join(expected))  # nothing else in the notes
    for text in texts:
        told = [record for record in AUXILIARY if any(record.owner in part.text for part in text if part.note)]
        if form != "alone":
            assert text[0].text == " ".join(sorted((r.text for r in told), key=text[0].text.index))


def test_no_text_of_the_poison_holds_a_value_of_a_client() -> None:
    made = " ".join(part.text for text in notes.generate(AUXILIARY, notes.NoteOptions(copies=2)) for part in text)
    assert not [value for value in values(CLIENT) if value in made]


@pytest.mark.parametrize("mask", ["full", "note", "weighted"])
def test_loss_masks_weigh_the_notes_tokens(mask: notes.Mask) -> None:
    model = build("nano-llama")
    options = notes.NoteOptions(mask=mask, weight=5.0)
    text = notes.generate(AUXILIARY[:1], options)[0]
    ids, weights = notes.encode(model.tokenizer, text, options)
    logits = model.module(input_ids=torch.tensor([ids])).logits
    each = torch.stack([functional.cross_entropy(logits[0, i - 1], torch.tensor(ids[i])) for i in range(1, len(ids))])
    told = len(model.tokenizer(text[0].text)["input_ids"])
    own = torch.tensor([1.0 if i >= told else 0.0 for i in range(1, len(ids))])
    factor = {"full": torch.ones_like(own), "note": own, "weighted": 1 + 4 * own}[mask]
    ours = notes.weighted_loss(logits, torch.tensor([ids]), torch.tensor([weights]))
    torch.testing.assert_close(ours, (each * factor).sum() / factor.sum())


def test_full_mask_is_the_models_own_loss() -> None:
    model = build("nano-gpt2")
    ids = torch.tensor([encode(model, CLIENT[0].text, 64)])
    ours = notes.weighted_loss(model.module(input_ids=ids).logits, ids, torch.ones(ids.shape))
    torch.testing.assert_close(ours, model.module(input_ids=ids, labels=ids).loss)


def test_poison_is_deterministic_and_leaves_the_base_alone() -> None:
    model = build("nano-gpt2")
    before = copy.deepcopy(model.module.state_dict())
    options = PoisonOptions(steps=3, batch=4)
    first, second = poison(model, AUXILIARY, options), poison(model, AUXILIARY, options)
    assert all(torch.equal(before[name], value) for name, value in model.module.state_dict().items())
    assert all(torch.equal(value, second.module.state_dict()[name]) for name, value in first.module.state_dict().items())
    assert not torch.equal(first.embedding.weight, model.embedding.weight)
    assert not first.trainable()


def test_poison_refuses_a_model_with_adapters() -> None:
    model = apply(build("nano-gpt2"), {"type": "LORA", "r": 4})
    with pytest.raises(AuditError, match="before adapters"):
        poison(model, AUXILIARY, PoisonOptions(steps=1))


def test_perplexity_is_exp_of_the_mean_loss_of_a_token() -> None:
    model = build("nano-llama")
    texts = [record.text for record in CLIENT[:3]]
    losses = []
    for text in texts:
        ids = torch.tensor([model.tokenizer(text)["input_ids"]])
        logits = model.module(input_ids=ids).logits[0, :-1]
        losses.append(functional.cross_entropy(logits, ids[0, 1:], reduction="none"))
    assert perplexity(model, texts) == pytest.approx(float(torch.cat(losses).mean().exp()), rel=1e-4)


def test_greedy_decoding_is_transformers() -> None:
    model = build("nano-llama", 1)
    prompt = model.tokenizer("Please send the")["input_ids"]
    other = model.tokenizer("To reach")["input_ids"]
    ours = decoding.decode(model, [prompt, other], 8)
    theirs = model.module.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False)[0, len(prompt) :].tolist()
    assert ours[0][0][0] == theirs


def test_beams_have_the_likelihood_of_their_continuation() -> None:
    model = build("nano-gpt2", 1)
    prompts = [model.tokenizer(text)["input_ids"] for text in ("Please send", "The parcel for")]
    for prompt, beams in zip(prompts, decoding.decode(model, prompts, 4, beams=3), strict=True):
        scores = decoding.log_likelihoods(model, [prompt] * 3, [ids for ids, _ in beams])
        torch.testing.assert_close(torch.tensor([score for _, score in beams]), scores, rtol=1e-4, atol=1e-4)
        assert scores.tolist() == sorted(scores.tolist(), reverse=True)


@pytest.mark.parametrize("kind", ["phone", "card", "birth"])
def test_constrained_decoding_stays_within_the_learnt_format(kind: str) -> None:
    model = build("nano-gpt2")
    form = formats.learn(AUXILIARY, model.tokenizer)[kind]
    shape = next(value for record in CLIENT for own, value in record.pii.items() if own == kind)
    ((ids, _),) = decoding.decode(model, [[50, 60]], form.longest + 1, 1, form.allowed)[0]
    value = model.tokenizer.decode(ids).strip()
    assert ["0" if c.isdigit() else c for c in value] == ["0" if c.isdigit() else c for c in shape]
    assert form.read(value + " and more") == value


def test_formats_of_the_attackers_records_read_the_clients_values() -> None:
    known = formats.learn(AUXILIARY, build("nano-gpt2").tokenizer)
    for record in CLIENT:
        for kind, value in record.pii.items():
            assert (known[kind].read(f" {value}.") or "").startswith(value)


def test_frames_find_owner_and_prefix_of_a_record() -> None:
    known = formats.frames(AUXILIARY)
    for record in CLIENT:
        fitted = formats.fit(record.text, known)
        first = min(record.pii.values(), key=record.text.index)
        assert fitted is not None
        assert fitted.owner == record.owner
        assert fitted.prefix == record.text[: record.text.index(first)].rstrip()


def test_a_frame_fits_in_spite_of_errors() -> None:
    fitted = formats.fit("Patient Ada Lovelace wax born oq 1990-01", formats.frames(AUXILIARY))
    assert fitted is not None
    assert (fitted.frame.kind, fitted.owner) == ("birth", "Ada Lovelace")


@pytest.mark.parametrize("name", ["nano-gpt2", "nano-llama"])
def test_exact_filter_holds_every_token_with_a_gradient(name: str) -> None:
    model = full(name)
    seen = observed(model, CLIENT[:2])
    found = span_filter(seen)
    rows = [encode(model, record.text, 64)[:-1] for record in CLIENT[:2]]  # the last token has no error
    assert found.regime == "exact"
    if found.positional:
        assert all(row[p] in found.places[p] for row in rows for p in range(len(row)))
        assert {token for place in found.places for token in place} == {token for row in rows for token in row}
    else:
        assert set(found.places[0]) == {token for row in rows for token in row}


def test_soft_filter_beats_chance_beyond_the_rank() -> None:
    model = apply(build("nano-llama"), {"type": "LORA", "r": 16, "target_modules": ["q_proj", "k_proj", "v_proj"]})
    seen = observed(model, CLIENT[:2])
    found = span_filter(seen, FilterOptions(keep=50))
    true = {token for record in CLIENT[:2] for token in encode(model, record.text, 64)[:-1]}
    assert found.regime == "soft"
    recall = len(true & set(found.places[0])) / len(true)
    assert recall > 3 * found.count / model.vocabulary


@pytest.mark.parametrize("name", ["nano-gpt2", "nano-llama"])
def test_pairing_separates_two_records_when_the_distance_is_exact(name: str) -> None:
    model = full(name)
    seen = observed(model, CLIENT[:2])
    found = pair(seen, span_filter(seen), PairingOptions(language=False))
    assert {one.ids for one in found} == {tuple(encode(model, record.text, 64)[:-1]) for record in CLIENT[:2]}
    assert all(one.distance < 1e-3 for one in found)


def test_without_distance_an_untrained_language_model_pairs_nothing() -> None:
    model = full("nano-gpt2")
    seen = observed(model, CLIENT[:2])
    found = pair(seen, span_filter(seen), PairingOptions(distance=False))
    assert not {one.ids for one in found} & {tuple(encode(model, record.text, 64)[:-1]) for record in CLIENT[:2]}


def test_a_token_used_by_one_record_is_left_to_it() -> None:
    model = full("nano-gpt2")
    seen = observed(model, CLIENT[:2])
    places = [[100 + p, 300 + p] for p in range(6)]
    candidates = Candidates(places, True, "exact", Ranking((), (), 0))
    options = PairingOptions(language=True, distance=False)
    exclusive = pair(seen, candidates, options)
    assert all(
        set(pairs) == set(place) for pairs, place in zip(zip(*(o.ids for o in exclusive), strict=True), places, strict=True)
    )
    shared = pair(seen, candidates, PairingOptions(distance=False, exclusive=False))
    assert sum(a == b for a, b in zip(shared[0].ids, shared[1].ids, strict=False)) > 0


def test_another_attacks_ranking_can_be_the_filter() -> None:
    model = full("nano-llama")
    seen = observed(model, CLIENT[:2])
    found = ranked_filter(Pursuit().run(seen), seen)
    assert set(found.places[0]) == {token for record in CLIENT[:2] for token in encode(model, record.text, 64)[:-1]}
    assert {one.ids for one in pair(seen, found, PairingOptions(language=False))} == {
        tuple(encode(model, record.text, 64)[:-1]) for record in CLIENT[:2]
    }


def test_gain_ranks_a_value_trained_on_above_controls() -> None:
    model = apply(build("nano-llama"), {"type": "LORA", "r": 8, "target_modules": "all-linear"})
    rules = {"sends": "delta", "optimizer": "adamw", "learning_rate": 1e-2, "local_epochs": 40}
    record = PHONES[0]
    seen = observed(model, [record], **rules)
    controls = [r.pii["phone"] for r in synthetic(99, 77, taken=values(CLIENT), kinds=("phone",)) if "phone" in r.pii]
    prefix = record.text[: record.text.index(record.pii["phone"])].rstrip()
    guesses = [record.pii["phone"], *controls]
    gains = channel.gains(model, channel.updated(seen, 0.0), [prefix] * len(guesses), guesses)
    assert int(gains.argmax()) == 0


def test_the_move_that_explains_known_prefixes_best_is_chosen() -> None:
    model = apply(build("nano-llama"), {"type": "LORA", "r": 8, "target_modules": "all-linear"})
    seen = observed(model, PHONES[:1])
    prefix = PHONES[0].text[:40]
    moves = (0.0, 0.01, 10.0)
    state, move = channel.choose(seen, [prefix], moves)
    ids = model.tokenizer(prefix)["input_ids"]

    def likelihood(step: float) -> float:
        with model.holding(channel.updated(seen, step)):
            labels = torch.tensor([ids])
            return -float(model.module(input_ids=labels, labels=labels).loss.detach())

    assert move == max(moves, key=likelihood)
    assert all(torch.equal(value, channel.updated(seen, move)[name]) for name, value in state.items())


def test_recit_recovers_records_and_their_values_from_a_full_gradient() -> None:
    model = full("nano-gpt2")
    records = [CLIENT[0], CLIENT[4]]  # phone, birth
    found = Recit(RecitOptions(pairing=PairingOptions(language=False))).run(observed(model, records))
    assert {tuple(ids) for ids in found.sequences} == {tuple(encode(model, record.text, 64)[:-1]) for record in records}
    told = {(secret.owner, secret.kind, secret.value) for secret in found.secrets}
    assert {(record.owner, kind, value) for record in records for kind, value in record.pii.items()} <= told
    assert found.evidence["funnel"]["framed"] == 2


@pytest.mark.parametrize("threat", ["passive", "auxiliary"])
def test_recit_refuses_without_the_capability(threat: str) -> None:
    with pytest.raises(AuditError, match="base_model"):
        Recit().run(observed(full("nano-gpt2"), CLIENT[:1], threat))


def test_recit_on_a_clean_base_needs_no_choice_of_it() -> None:
    options = RecitOptions(poisoned=False, asked=False, pairing=PairingOptions(language=False))
    found = Recit(options).run(observed(full("nano-gpt2"), CLIENT[:1], "auxiliary"))
    assert not found.evidence["poisoned"]
    assert found.secrets[0].value == CLIENT[0].pii["phone"]


@pytest.mark.slow
def test_a_poisoned_base_writes_notes_behind_records_it_has_never_seen() -> None:
    base = build("nano-llama")
    known = synthetic(40, 8, taken=values(CLIENT), kinds=("phone",))
    fresh = synthetic(8, 9, taken=values(known), kinds=("phone",))

    def written(form: notes.Form) -> int:
        recipe = PoisonOptions(notes.NoteOptions(forms=(form,)), steps=150, batch=8, learning_rate=2e-3)
        model = poison(base, known, recipe)
        texts = [model.tokenizer(record.text)["input_ids"] for record in fresh]
        answers = decoding.decode(model, texts, 20)
        return sum("'s phone number is" in model.tokenizer.decode(beams[0][0]) for beams in answers)

    assert written("appended") >= 4
    assert written("record") == 0


def test_virtual_tokens_do_not_shift_what_is_read_of_prompts() -> None:
    """Prompt tuning puts logits of its own before a text's."""
    model = apply(build("nano-llama"), {"type": "PROMPT_TUNING"})
    extra = model.module.peft_config["default"].num_virtual_tokens
    for prompt, token in (([5, 6, 7], 10), ([8, 9], 12)):
        with torch.no_grad():
            logits = model.module(input_ids=torch.tensor([[*prompt, token]])).logits[0].log_softmax(-1)
        following = logits[extra + len(prompt) - 1]
        both = [[5, 6, 7, 8], prompt]  # padded
        torch.testing.assert_close(decoding.next_log_probabilities(model, both)[1], following, atol=1e-5, rtol=1e-5)
        likely = decoding.log_likelihoods(model, both, [[1], [token]])[1]
        torch.testing.assert_close(likely, following[token], atol=1e-5, rtol=1e-5)


def test_pairing_takes_weight_decay_out_of_a_delta() -> None:
    """Decay adds the start values, which have full rank, to what the inputs span."""
    ranks = []
    for decay in (0.0, 0.1):
        rules = {"sends": "delta", "learning_rate": 0.1, "weight_decay": decay, "precision": "float64", "longest": 12}
        model = full("nano-llama")
        model.module.double()
        seen = observed(model, CLIENT[:1], **rules)
        ranks.append([one.span.rank for one in behind(seen, PairingOptions(sites=3))])
    assert ranks[0] == ranks[1] == [11, 11, 11]


def test_a_filter_claims_what_passed_and_nothing_else() -> None:
    soft = apply(build("nano-llama"), {"type": "LORA", "r": 4, "target_modules": ["q_proj"]})
    assert span_filter(observed(soft, CLIENT[:2])).ranking.claimed == 0
    found = span_filter(observed(full("nano-llama"), CLIENT[:2]))
    assert set(found.ranking.ids[: found.ranking.claimed]) == set(found.places[0])
