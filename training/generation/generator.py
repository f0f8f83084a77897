"""One call for whatever writes text: a rule, answers that were kept, or a language model on this machine.

Every pipeline of this folder takes a Generator and works offline with a Rule. What it writes is proved by provenance alone: a
record names input, prompt, seed, generator and output by their SHA-256, so that an auditor with the texts can compare them,
and with the generator ask again. Nothing here talks to a network; a generator of one's own that does sends it the prompts."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import torch
from torch import nn

from zkaudit.training.errors import TrainingError
from zkaudit.training.steps import derive_seed


@dataclass(frozen=True)
class Ask:
    """One question. The answer goes on from `start`, and is given without it."""

    prompt: str
    seed: int
    start: str = ""

    @property
    def digest(self) -> str:
        return sha256("zkaudit ask", self.prompt, str(self.seed), self.start)


class Generator(Protocol):
    """Answers in the order of the questions. `digest` names what answers: another rule, model or setting has another."""

    @property
    def digest(self) -> str: ...

    def __call__(self, asks: Sequence[Ask]) -> list[str]: ...


class Rule:
    """A function of the question and of draws from its seed. `name` stands for its code: give a new one with every change."""

    def __init__(self, rule: Callable[[Ask, random.Random], str], name: str) -> None:
        self.rule, self.name = rule, name
        self.digest = sha256("zkaudit rule", name)

    def __call__(self, asks: Sequence[Ask]) -> list[str]:
        return [self.rule(ask, random.Random(ask.seed)) for ask in asks]


class Replay:
    """Answers that another generator gave, by the digest of the question; its digest is the other's."""

    def __init__(self, answers: Mapping[str, str], digest: str) -> None:
        self.answers, self.digest = answers, digest

    def __call__(self, asks: Sequence[Ask]) -> list[str]:
        for number, ask in enumerate(asks):
            if ask.digest not in self.answers:
                raise TrainingError(f"no answer was kept for question {number}, {ask.prompt[:40]!r} with seed {ask.seed}")
        return [self.answers[ask.digest] for ask in asks]


class Keep:
    """Another generator whose answers are kept; `replay()` gives them again."""

    def __init__(self, generator: Generator) -> None:
        self.generator, self.digest = generator, generator.digest
        self.answers: dict[str, str] = {}

    def __call__(self, asks: Sequence[Ask]) -> list[str]:
        found = self.generator(asks)
        self.answers.update({ask.digest: answer for ask, answer in zip(asks, found, strict=True)})
        return found

    def replay(self) -> Replay:
        return Replay(dict(self.answers), self.digest)


class LanguageModel:
    """A causal model of transformers and its tokenizer (called with text, and with `decode`), on this machine.

    Each question is answered by itself from its own seed, so that an answer does not depend on the others. `longest` limits the
    tokens of the prompt, whose end is kept, and `new` those of the answer; temperature 0 takes the likeliest token.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, new: int = 256, longest: int = 2048, temperature: float = 0.0) -> None:
        if new < 1 or longest < 1 or not temperature >= 0:
            raise TrainingError(
                f"new = {new} and longest = {longest} must be at least 1, temperature = {temperature} 0 or more"
            )
        self.model, self.tokenizer = model, tokenizer
        self.new, self.longest, self.temperature = new, longest, temperature
        self._weights: tuple[list[tuple[int, int]], str] = ([], "")

    @property
    def digest(self) -> str:
        """Of the weights as they are now: hashed anew when torch counts a change of one in place."""
        now = [(value.data_ptr(), value._version) for value in self.model.state_dict().values()]
        if now != self._weights[0]:
            self._weights = (now, model_digest(self.model))
        return sha256("zkaudit model", self._weights[1], f"{self.new} {self.longest} {self.temperature!r}")

    @torch.no_grad()
    def __call__(self, asks: Sequence[Ask]) -> list[str]:
        return [self._answer(ask) for ask in asks]

    def _answer(self, ask: Ask) -> str:
        ids = list(self.tokenizer(ask.prompt + ask.start)["input_ids"])[-self.longest :]
        if not ids:
            raise TrainingError(f"a prompt has no tokens: {ask.prompt!r}")
        model: Any = self.model
        room = getattr(getattr(model, "config", None), "max_position_embeddings", None)
        if room is not None and len(ids) + self.new > room:
            raise TrainingError(f"a prompt of {len(ids)} tokens and {self.new} new ones exceed the model's {room} positions")
        given = torch.tensor([ids], device=next(self.model.parameters()).device)
        sampled = {"do_sample": True, "temperature": self.temperature} if self.temperature else {"do_sample": False}
        with torch.random.fork_rng():
            torch.manual_seed(ask.seed)
            out = model.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=self.new, **sampled)
        return str(self.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True))


@dataclass(frozen=True)
class Provenance:
    """Where one written text came from. All but `kind`, `seed`, `score` and `kept` are SHA-256 in hex."""

    kind: str  # the pipeline
    source: str  # the input it was made from
    prompt: str
    generator: str
    seed: int
    output: str
    score: float | None = None
    kept: bool = True

    def line(self) -> str:
        """Canonical JSON, for a file of one line a text."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False)

    def judged(self, score: float | None, kept: bool) -> Provenance:
        return replace(self, score=score, kept=kept)


@dataclass(frozen=True)
class Written:
    """A text and where it came from."""

    text: str
    provenance: Provenance


def write(
    generator: Generator,
    kind: str,
    run_seed: str,
    sources: Sequence[str],
    prompt: Callable[[str], str],
    numbers: Sequence[int] | None = None,
    starts: Sequence[str] | None = None,
) -> list[Written]:
    """The generator's text for each source. Source i has the seed derive_seed(run_seed, "generation.KIND", numbers[i]), or i.

    With `starts` the text is the start and what the generator added. Raises TrainingError for a generator that gives another
    number of answers than it was asked for.
    """
    seeds = [derive_seed(run_seed, f"generation.{kind}", number) for number in numbers or range(len(sources))]
    begun = starts or [""] * len(sources)
    asks = [Ask(prompt(source), seed, start) for source, seed, start in zip(sources, seeds, begun, strict=True)]
    digest, answers = generator.digest, generator(asks)
    if len(answers) != len(asks):
        raise TrainingError(f"the generator gave {len(answers)} answers to {len(asks)} questions")
    return [
        Written(text, Provenance(kind, sha256(source), ask.digest, digest, ask.seed, sha256(text)))
        for source, ask, text in zip(sources, asks, (a.start + b for a, b in zip(asks, answers, strict=True)), strict=True)
    ]


def sha256(*parts: str) -> str:
    """Of one text, or of several told apart by their lengths."""
    encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
    framed = encoded[0] if len(encoded) == 1 else b"".join(len(part).to_bytes(8, "little") + part for part in encoded)
    return hashlib.sha256(framed).hexdigest()


def model_digest(model: nn.Module) -> str:
    """SHA-256 of the names, types, shapes and bytes of all parameters and buffers that are saved."""
    total = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        total.update(sha256(name, str(value.dtype), str(tuple(value.shape))).encode())
        total.update(flat.numpy().tobytes())
    return total.hexdigest()
