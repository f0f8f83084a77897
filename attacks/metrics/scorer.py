"""The scorer: it alone has the truth. It turns an attack's recovery into metrics with intervals, for one batch or several.

A score's dictionary is {"metrics": {name: {"value", "low", "high"}}, "pii": {kind: {name: {...}, "records": count}},
"counts": {...}, "evidence": {...}}. The interval of one batch is a bootstrap over its tokens or records, that of several is
one over batches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zkaudit.attacks.attack import Ranking, Recovery
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.lab.records import Record
from zkaudit.attacks.metrics.bootstrap import Interval, Sample, difference, interval, mean_of, together
from zkaudit.attacks.metrics.pii import linked, stands_in_normalised, value_metrics
from zkaudit.attacks.metrics.text import Line, as_words, match, sequence_metrics, without_last
from zkaudit.attacks.metrics.tokens import token_metrics
from zkaudit.attacks.model import PublicModel

Key = tuple[str, str]  # (kind of personal data or "", metric)


@dataclass(frozen=True)
class ScoreOptions:
    """How to score: `context` is the ROUGE-L recall of a record's text without its values from which it counts as recovered."""

    leave_out_last: bool = False  # the last token of a causal record, which has no part in any input
    rouge_on_tokens: bool = False  # words of ROUGE are token ids, not words of the decoded text
    context: float = 0.8


@dataclass(frozen=True)
class Score:
    """What one recovery is worth: a sample for each metric."""

    attack: str
    samples: Mapping[Key, Sample]
    counts: Mapping[str, Any]
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def value(self, metric: str, kind: str = "") -> float:
        """A metric's value; of personal data with the `kind`."""
        return self.samples[kind, metric].value

    def to_dict(self) -> dict[str, Any]:
        """Values with intervals, for JSON: see the module."""
        return combine([self])

    def to_json(self) -> dict[str, Any]:
        """All of it as plain data, from which `from_json` makes the same score again."""
        samples = [[*key, list(sample.parts), list(sample.wholes)] for key, sample in self.samples.items()]
        return {"attack": self.attack, "samples": samples, "counts": dict(self.counts), "evidence": dict(self.evidence)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Score:
        """From `to_json`'s."""
        samples = {(kind, name): Sample(parts, wholes) for kind, name, parts, wholes in content["samples"]}
        return cls(content["attack"], samples, content["counts"], content["evidence"])


class Scorer:
    """`records` are the batch's, `encoded` their token ids as the client fed them to the model."""

    def __init__(
        self,
        tokenizer: Any,
        records: Sequence[Record],
        encoded: Sequence[Sequence[int]],
        vocabulary: int,
        options: ScoreOptions = ScoreOptions(),
    ) -> None:
        if not records or len(records) != len(encoded):
            raise AuditError(f"a scorer needs records and as many encodings; it got {len(records)} and {len(encoded)}")
        self._tokenizer, self._records, self._vocabulary, self._options = tokenizer, list(records), vocabulary, options
        self._special = set(tokenizer.all_special_ids)
        self._true = [self._ordinary(ids) for ids in encoded]
        self._tokens = {token for ids in self._true for token in ids}
        texts = [self._decode(ids) for ids in self._true]
        self._values = [  # what the client trained on: a value that was cut off cannot leak
            {kind: value for kind, value in record.pii.items() if stands_in_normalised(kind, value, text)}
            for record, text in zip(records, texts, strict=True)
        ]

    @classmethod
    def of(cls, model: PublicModel, records: Sequence[Record], longest: int, options: ScoreOptions = ScoreOptions()) -> Scorer:
        """A scorer for records that clients of this model train on, cut at `longest` tokens."""
        encoded = [model.tokenizer(record.text)["input_ids"][:longest] for record in records]
        return cls(model.tokenizer, records, encoded, model.vocabulary, options)

    def score(self, recovery: Recovery) -> Score:
        """All metrics of a recovery. An attack that ranks no tokens claims those of its sequences."""
        sequences, assigned = self._assigned(recovery)
        ranking = recovery.tokens if recovery.tokens is not None else _ranking_of(sequences)
        texts = [self._decode(ids) for ids in sequences]
        pairs = [
            self._pair(None if index is None else sequences[index], true)
            for index, true in zip(assigned, self._true, strict=True)
        ]
        own = ["" if index is None else texts[index] for index in assigned]
        metrics = token_metrics(ranking, self._tokens, self._vocabulary, self._special) | sequence_metrics(pairs)
        samples: dict[Key, Sample] = {
            ("", name): sample for name, sample in (metrics | self._records_won(own, recovery)).items()
        }
        truth = self._truth_by_kind()
        by_kind = {kind: value_metrics(kind, found, recovery.secrets, texts) for kind, found in truth.items()}
        samples |= {(kind, name): sample for kind, parts in by_kind.items() for name, sample in parts.items()}
        for name in ("exact", "normalised", "linkage"):
            parts = [part for metrics_of_kind in by_kind.values() for part in metrics_of_kind[name].parts]
            samples["", f"pii_{name}"] = mean_of(parts)
        counts = {
            "batches": 1,
            "records": len(self._records),
            "tokens": sum(map(len, self._true)),
            "distinct_tokens": len(self._tokens),
            "pii": {kind: len(found) for kind, found in truth.items()},
            "guesses": dict(Counter(secret.kind for secret in recovery.secrets)),
        }
        return Score(recovery.attack, samples, counts, self.evidence(recovery))

    def matched(self, recovery: Recovery) -> list[tuple[str, str]]:
        """The text of each record beside that of the recovered sequence that was assigned to it; none without sequences."""
        sequences, assigned = self._assigned(recovery)
        if not sequences:
            return []
        found = ["" if index is None else self._decode(sequences[index]) for index in assigned]
        return list(zip(map(self._decode, self._true), found, strict=True))

    def evidence(self, recovery: Recovery) -> dict[str, Any]:
        """The recovery's evidence; its histogram of distances gets the true tokens' counts, single tokens' distances go."""
        kept = {name: value for name, value in recovery.evidence.items() if name != "distance_by_token"}
        distances, histogram = recovery.evidence.get("distance_by_token"), kept.get("distances")
        if distances is not None and histogram is not None:
            own = np.asarray(distances, float)[sorted(self._tokens)]
            counted = np.histogram(own, bins=np.asarray(histogram["edges"], float))[0]
            kept["distances"] = {**histogram, "true": counted.tolist()}
        return kept

    def _assigned(self, recovery: Recovery) -> tuple[list[tuple[int, ...]], list[int | None]]:
        sequences = [ids for ids in map(self._ordinary, recovery.sequences) if ids]
        return sequences, match(list(map(self._text, sequences)), list(map(self._text, self._true)))

    def _ordinary(self, ids: Sequence[int]) -> tuple[int, ...]:
        return tuple(int(token) for token in ids if int(token) not in self._special)

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids)))

    def _text(self, ids: Sequence[int]) -> str:
        return as_words(ids) if self._options.rouge_on_tokens else self._decode(ids)

    def _pair(self, found: tuple[int, ...] | None, true: tuple[int, ...]) -> tuple[Line | None, Line]:
        if self._options.leave_out_last:
            cut, true = without_last(found or (), true)
            found = None if found is None else cut
        return None if found is None else Line(found, self._text(found)), Line(true, self._text(true))

    def _truth_by_kind(self) -> dict[str, list[tuple[str, str]]]:
        truth: dict[str, list[tuple[str, str]]] = {}
        for record, values in zip(self._records, self._values, strict=True):
            for kind, value in values.items():
                truth.setdefault(kind, []).append((record.owner, value))
        return truth

    def _records_won(self, own: Sequence[str], recovery: Recovery) -> dict[str, Sample]:
        """A record is won if its context was recovered and, in its own sequence or as a guess for its owner, every value."""
        from rouge_score.rouge_scorer import RougeScorer  # slow to load, and needed for texts only

        rouge = RougeScorer(["rougeL"])
        known, won, with_values = [], [], []
        for record, true, values, text in zip(self._records, self._true, self._values, own, strict=True):
            theirs, ours = (_without(values, t) for t in (self._decode(true), text))
            known.append(rouge.score(theirs, ours)["rougeL"].recall >= self._options.context)
            right = all(
                stands_in_normalised(kind, value, text) or linked(kind, record.owner, value, recovery.secrets)
                for kind, value in values.items()
            )
            won.append(float(bool(values) and known[-1] and right))
            with_values.append(float(bool(values)))
        return {"context_recovered": mean_of(known), "record_success": Sample(won, with_values)}


def combine(scores: Sequence[Score], seed: int = 0) -> dict[str, Any]:
    """Scores of several observations of one setting as one dictionary; units of the bootstrap are the observations."""
    if not scores:
        raise AuditError("there are no scores to combine")
    intervals = {key: interval(together(samples), seed) for key, samples in _by_key(scores).items()}
    pii = sum((Counter(score.counts["pii"]) for score in scores), Counter())
    guesses = sum((Counter(score.counts["guesses"]) for score in scores), Counter())
    numbers = {
        name: sum(score.counts[name] for score in scores) for name in ("batches", "records", "tokens", "distinct_tokens")
    }
    counts = numbers | {"pii": dict(pii), "guesses": dict(guesses)}
    result = _nested(intervals)
    for kind, count in pii.items():
        result["pii"][kind]["records"] = count
    return {**result, "counts": counts, "evidence": dict(scores[0].evidence)}


def gain(scores: Score | Sequence[Score], controls: Score | Sequence[Score], seed: int = 0) -> dict[str, Any]:
    """How much better than a control (language model only, random): differences with intervals, {"metrics", "pii"}.

    Score i and control i are of the same observation, if there are several; then the bootstrap draws them in pairs.
    """
    ours, theirs = ([x] if isinstance(x, Score) else list(x) for x in (scores, controls))
    if not ours or len(ours) != len(theirs):
        raise AuditError(f"a gain takes as many controls as scores, at least one; it got {len(theirs)} and {len(ours)}")
    a, b = _by_key(ours), _by_key(theirs)
    differences: dict[Key, Interval] = {}
    for key in a.keys() & b.keys() - {("", "token_chance")}:
        one, other = together(a[key]), together(b[key])
        paired = len(one.parts) == len(other.parts) and list(one.wholes) == list(other.wholes)
        differences[key] = difference(one, other, paired or len(ours) > 1, seed)
    return _nested({key: differences[key] for key in a if key in differences})


def _by_key(scores: Sequence[Score]) -> dict[Key, list[Sample]]:
    keys = dict.fromkeys(key for score in scores for key in score.samples)
    return {key: [score.samples.get(key, Sample([], [])) for score in scores] for key in keys}


def _nested(intervals: Mapping[Key, Interval]) -> dict[str, Any]:
    result: dict[str, Any] = {"metrics": {}, "pii": {}}
    for (kind, name), found in intervals.items():
        place = result["pii"].setdefault(kind, {}) if kind else result["metrics"]
        place[name] = found.to_dict()
    return result


def _ranking_of(sequences: Sequence[Sequence[int]]) -> Ranking:
    ids = list(dict.fromkeys(token for ids in sequences for token in ids))
    return Ranking(ids, [1.0] * len(ids), len(ids))


def _without(values: Mapping[str, str], text: str) -> str:
    """A text without a record's values: what an attacker needs to know whose they are and what they are about."""
    for value in values.values():
        text = text.replace(value, " ")
    return text
