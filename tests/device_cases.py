"""Attacks and defences on tiny models, wherever they are put, and what came of them as plain data.

Models, tokenizer and records are made here, of nothing but torch and transformers, so that a machine with a GPU and little else
can run them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from zkaudit.attacks import peft_setup
from zkaudit.attacks.attack import Attack, Ranking, Recovery
from zkaudit.attacks.catalogue import ATTACKS, ORACLES
from zkaudit.attacks.defences import catalogue, parse
from zkaudit.attacks.defences.defence import Defence
from zkaudit.attacks.defences.sweep import Case, sweep
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.rounds import Simulation, simulate
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.imprint import imprint
from zkaudit.attacks.lab.records import Record
from zkaudit.attacks.matching.dlg import DLG
from zkaudit.attacks.matching.lamp import LAMP
from zkaudit.attacks.matching.tag import TAG
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.pursuit import Pursuit
from zkaudit.attacks.span_test import StaticSpanTest
from zkaudit.attacks.threat import THREATS

Put = Callable[[PublicModel], PublicModel]  # a base model where it is to be computed with

FIRST = ("Ada", "Bela", "Carl", "Dora", "Emil", "Fina", "Gerd", "Hilda", "Ivan", "Jana", "Karl", "Lena", "Nora", "Otto")
LAST = ("Abel", "Brandt", "Conrad", "Dietz", "Engel", "Falk", "Gruber", "Haas")
TEXTS = (
    "{name} signed up for the newsletter and left the phone number {value} for questions.",
    "To reach {name} call {value} during office hours.",
)
WIDTH, VOCABULARY = 64, 600
SETTINGS = FederatedSettings(batch=1, longest=10, warm_up_steps=1, dropout=False, learning_rate=0.1)
FEW_STEPS: Mapping[str, Attack] = {  # of gradient matching: enough to run all of its code
    "dlg": DLG(steps=4),
    "tag": TAG(steps=4),
    "lamp": LAMP(steps=6, every=3, tries=4, restarts=1),
}
ALIKE = ("bf16", "fp16", "int8", "clip", "rank", "batch", "accumulation", "freeze_embeddings")  # to others, for a device
LORA = {"type": "LORA", "r": 8, "target_modules": ["q_proj", "k_proj", "v_proj"]}


def records(count: int, first: int = 0) -> list[Record]:
    """Different ones for different places in an endless row."""
    made = []
    for number in range(first, first + count):
        name = f"{FIRST[number % len(FIRST)]} {LAST[number // len(FIRST) % len(LAST)]}"
        value = f"{200 + number * 37 % 700}-{100 + number * 53 % 900}-{1000 + number * 7919 % 9000}"
        made.append(Record(TEXTS[number % 2].format(name=name, value=value), name, {"phone": value}, number % 2))
    return made


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    names = {name: f"<{name}>" for name in ("pad", "eos", "unk", "cls", "sep", "mask")}
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(names.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([*(record.text for record in records(128)), __doc__ or ""] * 2, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, **{f"{name}_token": token for name, token in names.items()})


def llama() -> PublicModel:
    own = tokenizer()
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=64,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=own.pad_token_id,
        eos_token_id=own.eos_token_id,
        bos_token_id=own.eos_token_id,
    )
    return _frozen(LlamaForCausalLM, config, "causal_lm")


def gpt2(classifies: bool = False) -> PublicModel:
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=64,
        n_embd=WIDTH,
        n_layer=2,
        n_head=2,
        pad_token_id=tokenizer().pad_token_id,
        eos_token_id=tokenizer().eos_token_id,
    )
    kind = GPT2ForSequenceClassification if classifies else GPT2LMHeadModel
    return _frozen(kind, config, "sequence_classification" if classifies else "causal_lm")


def bert() -> PublicModel:
    config = BertConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=64,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        pad_token_id=tokenizer().pad_token_id,
    )
    return _frozen(BertForMaskedLM, config, "masked_lm")


def _frozen(kind: Any, config: Any, task: Any) -> PublicModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = kind(config)
    return PublicModel(module.requires_grad_(False).eval(), tokenizer(), task)


@dataclass(frozen=True)
class Setting:
    """A base model, the adapters in it, the federation's rules, and what is run on it (all of the catalogue if empty)."""

    base: Callable[[], PublicModel]
    peft: Mapping[str, Any]
    federated: FederatedSettings = SETTINGS
    attacks: tuple[str, ...] = ("span_test", "pursuit", "record_pursuit", "dager", "dlg")


SETTINGS_BY_NAME: Mapping[str, Setting] = {
    "llama, LoRA": Setting(llama, LORA, attacks=()),
    "GPT-2, LoRA, three rounds": Setting(
        gpt2, {"type": "LORA", "r": 8}, replace(SETTINGS, rounds=3, same_batch=True, sends="delta")
    ),
    "GPT-2 classifier, cohort": Setting(
        lambda: gpt2(True), {"type": "LORA", "r": 4, "modules_to_save": ["score"]}, replace(SETTINGS, cohort=2)
    ),
    "BERT, all weights": Setting(bert, {"type": "FULL"}, replace(SETTINGS, longest=5), ("token_set", "pursuit", "dager")),
    "llama, AdaLoRA": Setting(llama, {"type": "ADALORA", "target_r": 4}, replace(SETTINGS, sends="delta")),
    "llama, prefix": Setting(llama, {"type": "PREFIX_TUNING"}, replace(SETTINGS, warm_up_steps=0)),
    "llama, listed tokens": Setting(
        llama, {**LORA, "trainable_token_indices": [30, 31, 32, 33, 40, 41, 42, 50, 60]}, attacks=("token_set",)
    ),
    "GPT-2, imprinted": Setting(
        gpt2, {"type": "BOTTLENECK", "size": 48}, replace(SETTINGS, warm_up_steps=0), ("imprint", "span_test", "lamp")
    ),
}


def observed(setting: Setting, put: Put) -> Simulation:
    """The federation of a setting, its model put where it should be."""
    model = peft_setup.apply(put(setting.base()), setting.peft)
    if setting.peft["type"] == "BOTTLENECK":
        model = imprint(model, [record.text for record in records(40, 500)])
    federated = setting.federated
    each = federated.records * (1 if federated.same_batch else federated.rounds)
    clients = [records(each, 10 * client) for client in range(federated.cohort)]
    return simulate(model, clients, federated, public=records(federated.warm_up_steps * federated.batch, 900))


def attacked(name: str, put: Put) -> dict[str, dict[str, Any]]:
    """What each attack of a setting makes of it: claimed tokens, sequences, or why it does not apply."""
    setting = SETTINGS_BY_NAME[name]
    run = observed(setting, put)
    seen = run.observation(THREATS["active"], auxiliary=records(40, 500))
    pairs = [pair for b in run.batches[-1] for pair in zip(b.input_ids, b.attention_mask, strict=True)]
    truth = [ids[kept > 0].tolist()[:-1] for ids, kept in pairs]
    attacks: dict[str, Attack] = {name: FEW_STEPS.get(name) or entry.make(0) for name, entry in ATTACKS.items()}
    attacks |= {name: make(truth) for name, make in ORACLES.items()}
    return {name: _told(attacks[name], seen) for name in setting.attacks or attacks}


def _told(attack: Attack, seen: Any) -> dict[str, Any]:
    try:
        recovery = attack.run(seen)
    except AuditError as error:
        return {"refused": str(error)}
    tensors = [where for where, value in _leaves(vars(recovery), "") if isinstance(value, Tensor)]
    ranking = recovery.tokens or Ranking((), (), 0)
    return {
        "claimed": sorted(ranking.ids[: ranking.claimed]),
        "ranked": len(ranking.ids),
        "sequences": [list(map(int, ids)) for ids in recovery.sequences],
        "secrets": [secret.value for secret in recovery.secrets],
        "tensors": tensors,
    }


def _leaves(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """All that a recovery holds, with its place in it."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{where}.{key}")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from _leaves(item, f"{where}[]")
    elif hasattr(value, "__dataclass_fields__"):
        yield from _leaves(vars(value), where)
    else:
        yield where, value


def defended(put: Put) -> dict[str, dict[str, Any]]:
    """A sweep over an example of each defence, with its cost in utility."""
    kinds = [kind for kind in catalogue() if kind.name not in ("none", *ALIKE)]
    plain = FederatedSettings(batch=2, longest=8, warm_up_steps=1, dropout=False, learning_rate=0.1)

    def build(defence: Defence, seed: int) -> Case:
        peft = defence.peft({**LORA, "lora_alpha": 8}, 2)
        rules = defence.settings(plain)
        clients = [records(rules.records, 40 * client + 7 * seed) for client in range(rules.cohort)]
        return Case(peft_setup.apply(put(llama()), peft), clients, plain, records(4, 700), records(2 * rules.batch, 900))

    def score(recovery: Recovery, run: Simulation) -> float:
        true = {int(token) for batch in run.batches[-1] for token in batch.input_ids.flatten().tolist()}
        return len(true & set(recovery.tokens.ids[: len(true)])) / len(true) if recovery.tokens else 0.0

    defences = [parse(kind.example) for kind in kinds]
    attackers = {"static": StaticSpanTest(), "adaptive": Pursuit()}
    return {result.defence: result.to_dict() for result in sweep(defences, build, attackers, score, (0,), utility_steps=2)}
