"""What a run writes down of each step, hash-chained, and the seeds that its choices are drawn from.

    derive_seed(run_seed, component, step) = first 64 bits of SHA-256(tag, run_seed, component, step)
    hash_0 = SHA-256(tag, header),   hash_{t+1} = SHA-256(tag, record_t),   record_t names hash_t as `prev_hash`

A record and a header have one encoding each: JSON with sorted keys, no spaces, ASCII. Whoever holds the last hash, the head of
the chain, holds every record. The run's seed is fixed before the data are opened, so that nobody can try seeds until the
batches please them; each component (the sampler, an objective) draws from a stream of its own and can be replayed
(replay.py)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from zkaudit.training.errors import TrainingError

FORMAT = "zkaudit-steps"
VERSION = 1
MOST_BRACKETS = 2048  # of a line; a record has a dozen, and a seed may hold some
LARGEST_INTEGER = (1 << 64) - 1  # of ids, counts and seeds; scores lie within it too

Canonical = TypeVar("Canonical", "StepRecord", "RunHeader")


def derive_seed(run_seed: str, component: str, step: int) -> int:
    """The seed of a component ("sampler", "view 3") at a step or other count: 0 <= seed < 2^64.

    TrainingError for a negative step, and for text that no file can hold (a lone surrogate).
    """
    if step < 0:
        raise TrainingError(f"step = {step} must not be negative: there is no seed for it")
    try:
        parts = [run_seed.encode(), component.encode(), str(step).encode()]
    except UnicodeEncodeError:
        raise TrainingError("a run's seed and a component's name must be text without lone surrogates") from None
    return int.from_bytes(_hash(b"zkaudit seed", *parts)[:8], "little")


@dataclass(frozen=True)
class StepRecord:
    """One update. Absent things are empty, None or 0; TrainingError where a field cannot be what it says.

    ids are the rows that were trained on, in the order used; a row may stand there more than once (views). Empty weights are
    equal ones.
    """

    step: int
    ids: tuple[int, ...]
    epoch: int = 0  # or cycle, or round: whatever the sampler counts
    candidate_ids: tuple[int, ...] = ()  # what a selector chose from
    weights: tuple[float, ...] = ()  # one for each of ids
    view_ids: tuple[int, ...] = ()  # which view of its row each of ids is
    view_seeds: tuple[int, ...] = ()  # of the augmentation of each
    bins: tuple[int, ...] = ()  # which sequence of a packed batch each of ids lies in
    seq_len: int = 0
    n_tokens: int = 0
    objective_id: str = ""
    objective_seed: int | None = None
    mixture: Mapping[str, float] = field(default_factory=dict)  # share of each source
    learning_rate: float = 0.0
    selector: str = ""
    selector_state: str = ""  # digest of what the selector remembered before the step, hex
    scores: tuple[tuple[int, ...], ...] = ()  # the integers by which it was chosen, here or at later steps
    prev_hash: str = ""

    def __post_init__(self) -> None:
        for name in ("step", "epoch", "seq_len", "n_tokens"):
            _integer(name, getattr(self, name))
        for name in ("ids", "candidate_ids", "view_ids", "view_seeds", "bins"):
            for value in _tuple(name, getattr(self, name)):
                _integer(name, value)
        for row in _tuple("scores", self.scores):
            for value in _tuple("scores", row):
                _integer("scores", value, -LARGEST_INTEGER)
        for value in (*_tuple("weights", self.weights), *_mapping("mixture", self.mixture).values(), self.learning_rate):
            if type(value) is not float or not 0 <= value < math.inf:
                raise TrainingError(f"{value!r} is neither a weight, a share nor a rate: it must be a float of 0 or more")
        for name in ("objective_id", "selector", "selector_state", "prev_hash"):
            _text(name, getattr(self, name))
        if self.objective_seed is not None:
            _integer("objective_seed", self.objective_seed)
        if not self.ids:
            raise TrainingError("ids are empty: a step trains on one row at least")
        for name in ("weights", "view_ids", "view_seeds", "bins"):
            if (found := len(getattr(self, name))) not in (0, len(self.ids)):
                raise TrainingError(f"{name} has {found} entries for {len(self.ids)} ids")
        if self.weights and not any(self.weights):
            raise TrainingError("weights are all 0: the step would train on nothing")
        if self.candidate_ids and (strange := set(self.ids) - set(self.candidate_ids)):
            raise TrainingError(f"ids has row {min(strange)}, which is not among candidate_ids")

    def encoded(self) -> bytes:
        """Canonical JSON."""
        return _encoded({f.name: getattr(self, f.name) for f in fields(self)})

    def digest(self) -> str:
        """The link of the chain after this record, hex."""
        return _hash(b"zkaudit step record", self.encoded()).hex()


@dataclass(frozen=True)
class RunHeader:
    """What all steps share. `rules` names what decides for the run, method by method, with its options (replay.py).

    columns: name -> digest of a public integer for each row ("length", "source"); data: a digest of the data set, hex.
    """

    run_seed: str
    rows: int
    rules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    selector: str = ""  # the name that records must give; it decides by a rule of that name, or is taken at its word
    data: str = ""

    def __post_init__(self) -> None:
        _integer("rows", self.rows, 1)
        for name in ("run_seed", "selector", "data"):
            _text(name, getattr(self, name))
        for name, options in _mapping("rules", self.rules).items():
            _mapping(f"rules {name}", options)
        for digest in _mapping("columns", self.columns).values():
            _text("columns", digest)

    def encoded(self) -> bytes:
        """Canonical JSON."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return _encoded({"format": FORMAT, "version": VERSION, **values})

    def digest(self) -> str:
        """Where the chain begins, hex."""
        return _hash(b"zkaudit step header", self.encoded()).hex()


def parse_record(line: bytes) -> StepRecord:
    """The record with exactly these bytes; TrainingError says what is wrong with them."""
    return _parsed(StepRecord, line, {})


def parse_header(line: bytes) -> RunHeader:
    """The header with exactly these bytes; TrainingError says what is wrong with them."""
    return _parsed(RunHeader, line, {"format": FORMAT, "version": VERSION})


def _parsed(kind: type[Canonical], line: bytes, constants: Mapping[str, object]) -> Canonical:
    if line.count(b"[") + line.count(b"{") > MOST_BRACKETS:  # a parser's recursion may be allowed more than its stack holds
        raise TrainingError("not JSON: it nests too deeply")
    try:
        values = json.loads(line.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise TrainingError(f"not JSON: {str(error)[:100]}") from None
    if not isinstance(values, dict):
        raise TrainingError("not a JSON object")
    wanted = {f.name for f in fields(kind)} | set(constants)
    if strange := wanted ^ set(values):
        raise TrainingError(f"field {min(strange)[:40]!r} is {'missing' if min(strange) in wanted else 'unknown'}")
    for name, value in constants.items():
        if values.pop(name) != value:
            raise TrainingError(f"its {name} is not {value}, the one this program knows")
    if kind is StepRecord:  # a header's lists are options, compared as they are
        values = {name: _frozen(value) for name, value in values.items()}
    parsed = kind(**values)
    if parsed.encoded() != line:
        raise TrainingError("not in canonical form")
    return parsed


def _frozen(value: Any) -> Any:
    return tuple(_frozen(each) for each in value) if isinstance(value, list) else value


def _encoded(values: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise TrainingError(f"a run's records hold numbers, text and lists of them alone: {error}") from None


def _hash(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "little") + part for part in parts)).digest()


def _integer(name: str, value: object, low: int = 0) -> None:
    if type(value) is not int or not low <= value <= LARGEST_INTEGER:
        raise TrainingError(f"{name} holds {str(value)[:40]}: it must be an integer from {low} to {LARGEST_INTEGER}")


def _tuple(name: str, value: object) -> Sequence[Any]:
    if not isinstance(value, tuple):
        raise TrainingError(f"{name} is {str(value)[:40]}: it must be a tuple (a list, in a file)")
    return value


def _mapping(name: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TrainingError(f"{name} is {str(value)[:40]}: it must map names to values")
    return value


def _text(name: str, value: object) -> None:
    if not isinstance(value, str) or len(value) > 1024 or any("\ud800" <= character <= "\udfff" for character in value):
        raise TrainingError(f"{name} is {str(value)[:40]!a}: it must be text of at most 1024 characters")
