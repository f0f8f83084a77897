"""Cases: a laboratory model with adapters, private records, the update that a server sees of them, and a scorer."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from zkaudit.attacks import peft_setup
from zkaudit.attacks.attack import Attack, Ranking, Recovery
from zkaudit.attacks.defences import NONE, Defence
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.rounds import Simulation, simulate
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.lab.models import build
from zkaudit.attacks.lab.records import Record, synthetic, values
from zkaudit.attacks.metrics import Score, Scorer
from zkaudit.attacks.model import PublicModel, Task

QKV = ("q_proj", "k_proj", "v_proj")
LONGEST = 40  # tokens of a record, about what the longest templates have
MOST_RECORDS = 64
CLOSE = 0.95  # of the inputs that a case should have: close enough
STILL = FederatedSettings(dropout=False)
WARM_UP = FederatedSettings(batch=8, longest=LONGEST, warm_up_steps=4, learning_rate=0.1, dropout=False)


def lora(rank: int, *targets: str, **options: Any) -> dict[str, Any]:
    """A LoRA configuration; of Llama's q, k and v if no targets are named."""
    return {"type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": list(targets or QKV), **options}


@dataclass(frozen=True)
class Setting:
    """`tokens` is how many different inputs there should be behind the update at most: the batch is made to that size.

    Without it the batch is that of `federated`. `started` says whether the model was trained a little before (LoRA's B).
    """

    model: str
    peft: Mapping[str, Any]
    tokens: int | None = None
    federated: FederatedSettings = STILL
    started: bool = True
    task: Task | None = None
    defence: Defence = NONE
    double: bool = False  # the model in float64


@dataclass(frozen=True)
class Case:
    """What happened, how many different `inputs` are behind it, and the scorer that knows the truth."""

    run: Simulation
    inputs: int
    scorer: Scorer
    vocabulary: int

    @property
    def chance(self) -> float:
        """Recall at n of a random ranking, about."""
        return self.inputs / self.vocabulary

    def attack(self, attack: Attack, **known: Any) -> tuple[Recovery, Score]:
        """Its recovery and its score; nothing recovered where it does not apply."""
        try:
            recovery = attack.run(self.run.observation(attack.needs, **known))
        except AuditError:
            recovery = Recovery(attack.name, Ranking((), (), 0))
        return recovery, self.scorer.score(recovery)


@cache
def base(name: str, task: Task | None = None) -> PublicModel:
    """A model with random weights; copied before anything is done to it."""
    return build(name, 0, task)


def adapted(setting: Setting, seed: int, start: PublicModel | None = None) -> PublicModel:
    """The model of a setting, from `start` or from random weights; with adapters as after the warm-up if it is started."""
    start = start or base(setting.model, setting.task)
    own = PublicModel(copy.deepcopy(start.module), start.tokenizer, start.task)
    own = peft_setup.apply(own, setting.peft, seed)
    if setting.started:
        public = synthetic(WARM_UP.batch * (WARM_UP.warm_up_steps + 1), 70_000 + seed)
        simulate(own, [public[: WARM_UP.batch]], WARM_UP, seed=seed, public=public[WARM_UP.batch :])
    if setting.double:
        own.module.double()
    return own


def case(setting: Setting, seed: int, start: PublicModel | None = None) -> Case:
    """One observation."""
    model = adapted(setting, seed, start)
    records = synthetic(MOST_RECORDS, 80_000 + seed, values(synthetic(64, 70_000 + seed)))
    federated = setting.federated
    if setting.tokens is not None:
        batch, longest = fitting(model, records, setting.tokens)
        federated = replace(federated, batch=batch, longest=longest)
    federated = setting.defence.settings(federated)
    run = simulate(model, [records], federated, seed=seed, train=setting.defence.update)
    return Case(run, distinct(model, run.truth[-1], federated.longest), scorer(run), model.vocabulary)


def scorer(run: Simulation) -> Scorer:
    """Scores without a causal record's last token, which has no part in any input that a loss depends on."""
    encoded = [inputs(run.model, record, run.settings.longest) for record in run.truth[-1]]
    return Scorer(run.model.tokenizer, run.truth[-1], encoded, run.model.vocabulary)


def inputs(model: PublicModel, record: Record, longest: int) -> list[int]:
    """The tokens of a record that can leave a trace in an update."""
    ids: list[int] = model.tokenizer(record.text)["input_ids"][:longest]
    return ids[:-1] if model.task == "causal_lm" else ids


def distinct(model: PublicModel, records: list[Record], longest: int) -> int:
    """Different inputs of the first layer: tokens, with their position where the model adds it to the embedding."""
    rotary = model.config.model_type == "llama"
    rows = [inputs(model, record, longest) for record in records]
    return len({(token, 0 if rotary else place) for row in rows for place, token in enumerate(row)})


def fitting(model: PublicModel, records: list[Record], most: int) -> tuple[int, int]:
    """Records in a batch and tokens a record for up to `most` different inputs: the fewest records that come close to it."""
    rotary = model.config.model_type == "llama"
    rows = [inputs(model, record, LONGEST) for record in records]
    best = (0.0, -1, 3)
    for longest in (3, 4, 5, 6, 8, 10, 12, 14, 16, 18, 20, 24, 28, 32, 36, LONGEST):
        seen: set[tuple[int, int]] = set()
        for count, row in enumerate(rows, 1):
            seen |= {(token, 0 if rotary else place) for place, token in enumerate(row[: longest - 1])}
            if len(seen) > most:
                break
            best = max(best, (min(len(seen) / most, CLOSE), -count, longest))
    return -best[1], best[2]
