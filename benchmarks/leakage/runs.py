"""Runs of one small client whose batches are chosen in different ways, recorded step by step, with what a server saw of them.

The client is nano-llama with LoRA on q, k and v, of a rank at which uniform batches are neither safe nor lost; it trains by SGD
on its private records. `WAYS` has who chooses: fields of a step's record, and the token ids of the rows that it names."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leakage.cases import Case, Setting, adapted, lora, values
from zkaudit.attacks.federated.rounds import Simulation
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.lab.records import Record, synthetic
from zkaudit.attacks.metrics import Scorer
from zkaudit.attacks.model import PublicModel, causal_batch
from zkaudit.attacks.threat import Round
from zkaudit.attacks.update import Update
from zkaudit.training.batch.colm import CoLMOptions, CoLMSelector
from zkaudit.training.batch.hard_batch import HardBatchSampler
from zkaudit.training.batch.last_layer import example_losses
from zkaudit.training.batch.length_buckets import ODDS, Decomposition, LengthBucketSampler
from zkaudit.training.batch.packing import PackedSampler, packed
from zkaudit.training.batch.uds import UDSOptions, UDSSelector
from zkaudit.training.batch.uniform import UniformSampler
from zkaudit.training.batch.view_batch import ViewBatchSampler
from zkaudit.training.step_file import StepWriter
from zkaudit.training.steps import StepRecord

RECORDS, LONGEST, BATCH, STEPS, RATE = 64, 24, 8, 24, 0.05
VIEWS, LEFT_OUT = 4, 6  # a view leaves out one token of so many
CAPACITY = 2 * LONGEST
LOW, HIGH, TOKENS = 3, 4, BATCH * LONGEST  # pieces of 8 and 16 tokens
DELTA, EPOCHS = 0.5, 3
RANK = 2
SETTING = Setting("nano-llama", lora(RANK))
CLIENT = f"nano-llama, LoRA r = {RANK} on q, k and v, {RECORDS} records of at most {LONGEST} tokens, {BATCH} rows a batch, SGD"

Rows = list[list[int]]


@dataclass
class Step:
    """What is trained on: fields of the record, and the token ids behind each of its `ids`."""

    fields: dict[str, Any]
    rows: Rows
    packed: bool = False
    after: dict[str, Any] = field(default_factory=dict)  # fields that follow from the loss

    def loss(self, model: PublicModel) -> Tensor:
        """Mean over tokens; with weights, over examples."""
        if self.packed:
            bins = self.fields["bins"]
            joined = [[row for row, each in zip(self.rows, bins, strict=True) if each == b] for b in range(max(bins) + 1)]
            found: Tensor = model.module(**packed(joined, CAPACITY, model.tokenizer.pad_token_id)).loss
            return found
        batch = causal_batch(self.rows, model.tokenizer.pad_token_id)
        if not (weights := self.fields.get("weights")):
            return model.loss(batch)
        logits = model.module(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        shares = torch.tensor(weights)
        return (example_losses(logits, batch.labels) * shares).sum() / shares.sum()


class Way:
    """Who chooses. `rules`, `columns` and `selector` are the header's."""

    selector = ""

    def __init__(self, texts: Rows, seed: str) -> None:
        self.texts, self.seed = texts, seed
        self.rules: dict[str, dict[str, Any]] = {}
        self.columns: dict[str, NDArray[np.int64]] = {}

    @property
    def count(self) -> int:
        """Rows that ids are of."""
        return len(self.texts)

    @abstractmethod
    def step(self, model: PublicModel, number: int) -> Step:
        """The step's batch; steps are asked for in order."""

    def learn(self, step: Step, loss: float) -> None:
        """Take the loss of the last step."""


class Uniform(Way):
    def __init__(self, texts: Rows, seed: str, batch: int = BATCH) -> None:
        super().__init__([text[:LONGEST] for text in texts], seed)
        self.sampler = UniformSampler(len(texts), batch, run_seed=seed, steps=STEPS)
        self.rules = {"uniform": {"batch": batch}}

    def step(self, model: PublicModel, number: int) -> Step:
        fields = self.sampler.fields(number)
        return Step(fields, [self.texts[row] for row in fields["ids"]])


class HardBatch(Way):
    def __init__(self, texts: Rows, seed: str) -> None:
        super().__init__([text[:LONGEST] for text in texts], seed)
        self.sampler = HardBatchSampler(len(texts), BATCH, EPOCHS, DELTA, run_seed=seed)
        self.rules = {"hard-batch": {"batch": BATCH, "epochs": EPOCHS, "delta": DELTA}}

    def step(self, model: PublicModel, number: int) -> Step:
        fields = self.sampler.fields(number)
        return Step(fields, [self.texts[row] for row in fields["ids"]])

    def learn(self, step: Step, loss: float) -> None:
        step.after = {"scores": self.sampler.report(loss)}


class ViewBatch(Way):
    """A view leaves out one token of LEFT_OUT, drawn by the view's seed."""

    def __init__(self, texts: Rows, seed: str) -> None:
        super().__init__([text[:LONGEST] for text in texts], seed)
        self.sampler = ViewBatchSampler(len(texts), BATCH, VIEWS, run_seed=seed, steps=STEPS)
        self.rules = {"view-batch": {"batch": BATCH, "views": VIEWS}}

    def step(self, model: PublicModel, number: int) -> Step:
        fields = self.sampler.fields(number)
        return Step(fields, [self.view(row, seed) for row, seed in zip(fields["ids"], fields["view_seeds"], strict=True)])

    def view(self, row: int, seed: int) -> list[int]:
        text = self.texts[row]
        order = torch.randperm(len(text), generator=torch.Generator().manual_seed(seed)).tolist()
        return [token for token, place in zip(text, order, strict=True) if place >= len(text) // LEFT_OUT]


class LengthBuckets(Way):
    """Pieces of whole records, in batches of TOKENS tokens; `drawn` as they come, 12 a batch, without buckets."""

    def __init__(self, texts: Rows, seed: str, drawn: bool = False) -> None:
        super().__init__(texts, seed)
        self.cut = Decomposition([len(text) for text in texts], LOW, HIGH)
        self.columns = {"length": self.cut.lengths, "record": self.cut.documents}
        self.sampler: UniformSampler | LengthBucketSampler
        if drawn:
            batch = TOKENS // (1 << HIGH)
            self.sampler, self.rules = (
                UniformSampler(self.count, batch, run_seed=seed, steps=STEPS),
                {"uniform": {"batch": batch}},
            )
            return
        self.sampler = LengthBucketSampler(self.cut.lengths, TOKENS, cycles=1, run_seed=seed, steps=STEPS)
        self.rules = {"length-buckets": {"tokens": TOKENS, "odds": list(ODDS[:2]), "cycles": 1}}

    @property
    def count(self) -> int:
        return len(self.cut.pieces)

    def step(self, model: PublicModel, number: int) -> Step:
        fields, rows = self.sampler.fields(number), []
        for piece in (self.cut.pieces[row] for row in fields["ids"]):
            rows.append(self.texts[piece.document][piece.start : piece.start + (1 << piece.exponent) + 1])
        return Step(fields, rows)


class Packing(Way):
    """BATCH bins; `apart` trains on the same records, one a row."""

    def __init__(self, texts: Rows, seed: str, apart: bool = False) -> None:
        super().__init__([text[:LONGEST] for text in texts], seed)
        self.apart = apart
        lengths = [len(text) for text in self.texts]
        self.columns = {"length": np.array(lengths, np.int64)}
        self.sampler = PackedSampler(lengths, CAPACITY, BATCH, run_seed=seed, steps=STEPS)
        self.rules = {"packing": {"capacity": CAPACITY, "batch": BATCH}}

    def step(self, model: PublicModel, number: int) -> Step:
        fields = self.sampler.fields(number)
        return Step(fields, [self.texts[row] for row in fields["ids"]], packed=not self.apart)


class Selected(Uniform):
    """What a selector keeps of uniform batches."""

    def candidates(self, number: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
        fields = self.sampler.fields(number)
        batch = causal_batch([self.texts[row] for row in fields["ids"]], 0)
        return fields, {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": batch.labels}

    def kept(self, fields: Mapping[str, Any], chosen: Any) -> Step:
        return Step({**fields, **chosen.fields(fields["ids"])}, [self.texts[row] for row in chosen.ids])


class UDS(Selected):
    selector = "uds"

    def __init__(self, texts: Rows, seed: str, keep: int = 2) -> None:
        super().__init__(texts, seed)
        self.keep, self.chooser = keep, None
        self.rules["uds"] = {"keep": keep}

    def step(self, model: PublicModel, number: int) -> Step:
        self.chooser = self.chooser or UDSSelector(UDSOptions(self.keep, LONGEST, model.vocabulary), run_seed=self.seed)
        fields, batch = self.candidates(number)
        return self.kept(fields, self.chooser.select(model.module, batch, fields["ids"], batch["attention_mask"]))


class CoLM(Selected):
    """One record of six is of a small source, whose records are all kept."""

    selector = "colm"

    def __init__(self, texts: Rows, seed: str, keep: int = 4) -> None:
        super().__init__(texts, seed)
        self.columns = {"source": np.array([row % 6 == 0 for row in range(len(texts))], np.int64)}
        self.chooser = CoLMSelector(CoLMOptions(keep, small=(1,)), run_seed=seed)
        self.rules["colm"] = {"keep": keep, "small": [1], "weighted": True}

    def step(self, model: PublicModel, number: int) -> Step:
        fields, batch = self.candidates(number)
        sources = [int(self.columns["source"][row]) for row in fields["ids"]]
        return self.kept(fields, self.chooser.select(model.module, batch, fields["ids"], sources))


WAYS = {
    "uniform": Uniform,
    "uniform 2": partial(Uniform, batch=2),
    "uniform 4": partial(Uniform, batch=4),
    "uniform pieces": partial(LengthBuckets, drawn=True),
    "hard-batch": HardBatch,
    "hard-batch, one visit": HardBatch,
    "view-batch": ViewBatch,
    "length-buckets": LengthBuckets,
    "packing": Packing,
    "packing, one a row": partial(Packing, apart=True),
    "uds": UDS,
    "colm": CoLM,
}


def trained(name: str, draw: int, folder: Path) -> Case:
    """One run of STEPS steps with its records in `folder`; every visit that its last batch had is what the server attacks."""
    model = adapted(SETTING, draw)
    records = synthetic(RECORDS, 80_000 + draw, values(synthetic(64, 70_000 + draw)))
    texts = [model.tokenizer(record.text)["input_ids"] for record in records]
    way: Way = WAYS[name](texts, f"draw {draw}")
    steps, rounds = list[Step](), list[Round]()
    with StepWriter(folder, f"draw {draw}", way.count, way.rules, columns=way.columns, selector=way.selector) as writer:
        for number in range(STEPS):
            step, start = way.step(model, number), model.state()
            gradient, loss = gradient_of(step, model)
            way.learn(step, loss)
            steps.append(step)
            rounds.append(Round(start, Update("gradient", gradient)))
            writer.write(StepRecord(number, learning_rate=RATE, **step.fields, **step.after))
            model.assign({name: value - RATE * gradient[name] for name, value in start.items()})
    same = [place for place, step in enumerate(steps) if step.fields["ids"] == steps[-1].fields["ids"]]
    if name.endswith("one visit"):
        same = same[-1:]
    return _case(model, [rounds[place] for place in same], steps[-1], records, way)


def gradient_of(step: Step, model: PublicModel) -> tuple[dict[str, Tensor], float]:
    """Of what is trained, and the loss."""
    model.module.zero_grad(set_to_none=True)
    loss = step.loss(model)
    loss.backward()
    return {name: p.grad.detach().clone() for name, p in model.trainable().items() if p.grad is not None}, float(loss.detach())


def _case(model: PublicModel, rounds: Sequence[Round], step: Step, records: Sequence[Record], way: Way) -> Case:
    """The observation, in which a batch has as many rows as the record names."""
    owner = way.columns.get("record", np.arange(way.count))
    truth = [records[int(owner[row])] for row in step.fields["ids"]]
    settings = FederatedSettings(
        batch=len(step.rows), longest=LONGEST, dropout=False, learning_rate=RATE, rounds=len(rounds), same_batch=len(rounds) > 1
    )
    run = Simulation(model, settings, rounds, model.state(), [truth], [])
    inputs = [row[:-1] for row in step.rows]  # the last token has no part in any input that a loss depends on
    scorer = Scorer(model.tokenizer, truth, inputs, model.vocabulary)
    return Case(run, len({token for row in inputs for token in row}), scorer, model.vocabulary)
