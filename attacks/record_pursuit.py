"""Whole records by pursuit: a tree of texts is grown token by token, and what each token explains of the update is taken away.

Tokens come from `Pursuit`. A module behind the first block sees x(t_1 ... t_p), a function of the text so far. Its rows in the
update are again a sparse combination, now of the vectors of the true texts, so the same pursuit applies where only extensions
of texts found so far are candidates: some hundreds, not V^p. All such modules with the same input are stacked, and different
inputs (deeper blocks) add their log p-values. The public model's own probability of the next token, raised to a power, decides
between extensions that the update cannot tell apart. Each record is one path: no text branches once there are as many as there
are records.

So records come back beyond the rank too, while the positions behind an update stay below about the width of the model. It is a
search without way back, and records that begin alike or a model that cannot write make it fail before that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from zkaudit.attacks.attack import Progress, Recovery, silent
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.evidence import rows_of
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.pursuit import Pursuit
from zkaudit.attacks.sites import Dependence, Site, activations
from zkaudit.attacks.spans import fisher
from zkaudit.attacks.sparse import EXPLAINED, Part, PursuitOptions, compressed, log_p_values
from zkaudit.attacks.threat import Capability, Observation

BLOCK = 512  # texts in one forward pass
FOILS = 128
APART = 4  # the least number of dimensions for each token that is set apart
CONTEXTS, LONG = 16, 12  # random ones, and their length, over which a token's vector is averaged


@dataclass(frozen=True)
class RecordPursuitOptions:
    """`language`: power of the model's probability of a token; `false_hits`: expected ones from which a text has ended."""

    language: float = 2.0
    false_hits: float = 0.05
    tokens: PursuitOptions = field(default_factory=PursuitOptions)


class RecordPursuit:
    """Records beyond the rank, for causal models. Evidence: how much of the update the texts explain."""

    name = "record_pursuit"
    needs = Capability.UPDATE

    def __init__(self, options: RecordPursuitOptions = RecordPursuitOptions()) -> None:
        self.options = options

    def run(self, observation: Observation, progress: Progress = silent) -> Recovery:
        """AuditError if no trained module sees single tokens, or none sees texts."""
        found = Pursuit(self.options.tokens).run(observation, lambda what, share: progress(what, share / 2))
        assert found.tokens is not None
        with observation.model.holding(observation.last.start):
            return self._grown(observation, found, progress)

    def _grown(self, observation: Observation, found: Recovery, progress: Progress) -> Recovery:
        alphabet = _Alphabet(found)
        grown: list[tuple[float, list[list[int]]]] = []
        for apart in (True, False):
            tree = _Tree(observation, alphabet, self.options)
            if apart and not tree.set_tokens_apart():
                continue
            texts = tree.grow(alphabet, lambda what, share: progress(what, (1 + share) / 2)) if alphabet.tokens else []
            grown.append((tree.left, texts))
            if tree.left < EXPLAINED:
                break
        left, texts = min(grown)
        evidence = {name: value for name, value in found.evidence.items() if name != "singular_values"}  # pursuit shows them
        return replace(found, attack=self.name, sequences=texts, evidence={**evidence, "unexplained_by_texts": left})


class _Alphabet:
    """The tokens that may stand at a position: those picked for it where picks have positions, all picked ones elsewhere."""

    def __init__(self, found: Recovery) -> None:
        picks = found.evidence["picks"][: found.evidence["claimed_picks"]]
        self.tokens = list(dict.fromkeys(token for token, _ in picks))
        self._at: dict[int, list[int]] = {}
        for token, position in picks:
            self._at.setdefault(position, []).append(token)

    def at(self, position: int) -> list[int]:
        """Candidates, maybe none."""
        return self.tokens if -1 in self._at else self._at.get(position, [])


class _Tree:
    """The texts so far, and what the picks have left of the rows at each site."""

    def __init__(self, observation: Observation, alphabet: _Alphabet, options: RecordPursuitOptions) -> None:
        self.model, self.options, self.found = observation.model, options, alphabet.tokens
        self.generator = torch.Generator().manual_seed(0)
        self.longest = observation.federated.longest
        self.records = observation.federated.records * observation.federated.cohort
        pieces = [p for p in rows_of(observation, Dependence.PREFIX) if p.group.taps[0].space == "input"]
        if not pieces:
            raise AuditError("record pursuit needs a trained module behind the first block of a causal model; there is none")
        self.sites = [piece.group.site for piece in pieces]
        nothing = [piece.rows.new_empty(0, piece.rows.shape[1], dtype=torch.float32) for piece in pieces]
        self.parts = [Part(none, compressed(p.rows), options.tokens.floor) for none, p in zip(nothing, pieces, strict=True)]

    def set_tokens_apart(self) -> bool:
        """Take away what each token's vector is whatever stands before it: what is left tells texts apart.

        It costs a dimension for each token, so it is not done, and False, where those are many.
        """
        if not self.found or APART * len(self.found) > min(part.residual.shape[1] for part in self.parts):
            return False
        before = torch.tensor(self.found)[torch.randint(len(self.found), (CONTEXTS, LONG), generator=self.generator)].tolist()
        texts = [[*context, token] for token in self.found for context in before]
        for index, seen in enumerate(last_inputs(self.model, self.sites, texts)):
            means = torch.nn.functional.normalize(seen.view(len(self.found), CONTEXTS, -1).mean(1), dim=1)
            part = self.parts[index].with_atoms(means)
            part.take(range(len(means)))
            self.parts[index] = part
        return True

    @property
    def left(self) -> float:
        return max(part.left for part in self.parts)

    def grow(self, alphabet: _Alphabet, progress: Progress) -> list[list[int]]:
        """Texts made of these tokens, as many as there are records at most."""
        open_: list[list[int]] = [[]]
        ended: list[list[int]] = []
        for position in range(self.longest):
            tokens = alphabet.at(position)
            extended = self._extend(open_, tokens, self.records - len(ended)) if tokens else []
            kept = {tuple(text[:-1]) for text in extended}
            ended += [text for text in open_ if text and tuple(text) not in kept]
            open_ = extended
            progress("pursuing records", (position + 1) / self.longest)
            if not open_ or len(ended) >= self.records or self.left < EXPLAINED:
                break
        return sorted(ended + open_, key=len, reverse=True)[: self.records]  # what broke off early was the likeliest error

    def _extend(self, texts: list[list[int]], tokens: Sequence[int], most: int) -> list[list[int]]:
        """The extensions by one token that explain most, and take away what they explain."""
        candidates = [[*text, token] for text in texts for token in tokens]
        inputs = last_inputs(self.model, self.sites, candidates + self._foils(len(candidates[0])))
        parts = [part.with_atoms(seen) for part, seen in zip(self.parts, inputs, strict=True)]
        likely = self.options.language * self._likely(texts, tokens)
        closed = torch.zeros(len(candidates), dtype=torch.bool)
        limit = math.log(self.options.false_hits / len(candidates))
        chosen: list[int] = []
        while len(chosen) < most:
            log_p = fisher([_log_p(part, len(candidates)) for part in parts])
            best = int((log_p - likely).masked_fill(closed, math.inf).argmin())
            if closed[best] or log_p[best] > limit:
                break
            chosen.append(best)
            closed[best] = True
            if len(texts) >= most:  # as many texts as records: each goes on once
                own = best // len(tokens) * len(tokens)
                closed[own : own + len(tokens)] = True
            for part in parts:
                part.take([best])
        self.parts = parts
        return [candidates[i] for i in chosen]

    def _foils(self, length: int) -> list[list[int]]:
        """Texts of random tokens, half of them ending in one that was found: what the null is fitted to."""
        ids = torch.randint(self.model.vocabulary, (FOILS, length), generator=self.generator)
        found = torch.tensor(self.found)[torch.randint(len(self.found), (FOILS, length), generator=self.generator)]
        ids[: FOILS // 2] = found[: FOILS // 2]
        return [[int(token) for token in row] for row in ids]

    @torch.no_grad()
    def _likely(self, texts: list[list[int]], tokens: Sequence[int]) -> Tensor:
        """log p of each token after each text, (texts * tokens,); nothing is known of first tokens, or from a classifier."""
        if not texts[0] or self.model.task != "causal_lm":
            return torch.zeros(len(texts) * len(tokens), dtype=torch.float64)
        ids = torch.tensor(texts, device=self.model.device)
        self.model.module.eval()
        logits = self.model.module(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -1]
        likely: Tensor = logits.double().log_softmax(-1)[:, list(tokens)].reshape(-1).cpu()
        return likely


def last_inputs(model: PublicModel, sites: Sequence[Site], texts: Sequence[Sequence[int]]) -> list[Tensor]:
    """What each site sees at the last token of each text (all of one length): a unit (len(texts), d) for each site."""
    ids = torch.tensor(texts, device=model.device)
    blocks = [[a[:, -1] for a in activations(model, sites, ids[i : i + BLOCK])] for i in range(0, len(ids), BLOCK)]
    return [torch.nn.functional.normalize(torch.cat(parts).float(), dim=1) for parts in zip(*blocks, strict=True)]


def _log_p(part: Part, candidates: int) -> Tensor:
    """Of the candidates, which stand before the foils that the null is fitted to."""
    score, rank = part.scores()
    return log_p_values(score[:candidates], rank, score[candidates:], part.atoms.shape[1] - len(part.taken))
