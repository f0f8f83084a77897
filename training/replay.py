"""Replay: every choice of a run that follows from seed, public columns and records is made again and compared.

The header's `rules` say who decides: at most one sampler, which gives each step its rows, or, where a selector follows, its
candidates. A rule computes fields of a record (`expected`) from the run so far and from what the record declares, such as the
scores of its candidates; then it learns of the record (`after`), such as a loss that later choices depend on.

Seeds of objectives and views follow from the run's seed alone and are always checked. What no rule decides (rates, mixtures,
scores, weights without a selector's rule) is bound by the chain and taken at its word; the report lists it. That the run's seed
was fixed before the data were known is not shown by the records: give the seed that was published, and the head of the chain,
without which records could be missing at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from zkaudit.training.errors import TrainingError
from zkaudit.training.step_file import StepFile
from zkaudit.training.steps import RunHeader, StepRecord, derive_seed

RULES = {  # rule -> module with a function `rule(run, options)`
    "exact": "batch.exact",
    "uniform": "batch.uniform",
    "view-batch": "batch.view_batch",
    "length-buckets": "batch.length_buckets",
    "packing": "batch.packing",
    "hard-batch": "batch.hard_batch",
    "uds": "batch.uds",
    "colm": "batch.colm",
    "sft-phases": "batch.phased",
    "mixture": "mixture.sampler",
}

EMPTY: tuple[object, ...] = ((), "", None, 0, {})  # what a field holds that says nothing


class Rule(Protocol):
    """Who decides fields of records; see above. Values are of the record's own types."""

    selects: bool  # whether it chooses among candidates, rather than giving them

    def expected(self, record: StepRecord) -> Mapping[str, Any]:
        """Field -> value that the record must have. Lacking if the record has not got what the choice is made by."""

    def after(self, record: StepRecord) -> None:
        """Learn of the record, which was as expected."""


class Lacking(TrainingError):
    """A record without what a choice is made by: the field, and what it should hold, in words."""

    def __init__(self, field: str, wanted: str) -> None:
        super().__init__(f"{field}: {wanted}")
        self.field, self.wanted = field, wanted


class Run(NamedTuple):
    """What a rule is made from, beside its options."""

    header: RunHeader
    columns: Mapping[str, NDArray[np.int64]]

    def column(self, name: str) -> NDArray[np.int64]:
        if name not in self.columns:
            raise TrainingError(f"the run has no column {name!r}, which its rules need")
        return self.columns[name]


@dataclass(frozen=True)
class Difference:
    """The first thing that is not as it should be: `line` of the file, `step`, field, what was expected, what was found."""

    line: int
    step: int
    field: str
    expected: object
    found: object
    by: str  # the rule, "chain" or "seed"

    def sentence(self) -> str:
        there, wanted = _short(self.found), _short(self.expected)
        return f"step {self.step} (line {self.line}): {self.field} is {there}; by {self.by} it should be {wanted}"


@dataclass(frozen=True)
class Replayed:
    """`difference` is None if all is as it should be; fields by name, those recomputed and those taken at their word."""

    header: RunHeader
    steps: int
    head: str
    difference: Difference | None
    recomputed: tuple[str, ...]
    declared: tuple[str, ...]


def replay(folder: Path, *, seed: str | None = None, head: str | None = None) -> Replayed:
    """Make the choices of the run in `folder` again, up to the first difference.

    seed, head: what was published of the run. TrainingError for files that cannot be read and rules that are not known.
    """
    file = StepFile(folder)
    header, rules = file.header, _rules(file)
    link, count = header.digest(), 0
    recomputed: set[str] = set()
    given: set[str] = set()
    selects = bool(header.selector)

    def found(difference: Difference | None) -> Replayed:
        return Replayed(header, count, link, difference, tuple(sorted(recomputed)), tuple(sorted(given - recomputed)))

    if seed is not None and seed != header.run_seed:
        return found(Difference(1, 0, "run_seed", seed, header.run_seed, "the published seed"))
    for place in file.placed():
        record = place.record
        if fault := place.fault(link):
            return found(Difference(place.line, record.step, *fault, "the chain"))
        decided: list[tuple[str, Mapping[str, Any]]] = [("the run's seed", _seeds(header, record))]
        decided.append(("the header", _by_header(header, rules, record)))
        for name, rule in rules.items():
            try:
                values = rule.expected(record)
            except Lacking as lack:
                there = getattr(record, lack.field)
                return found(Difference(place.line, record.step, lack.field, lack.wanted, there, f"rule {name}"))
            decided.append((f"rule {name}", values if rule.selects else _as_candidates(values, selects)))
        for by, values in decided:
            for name, value in values.items():
                if (there := getattr(record, name)) != value:
                    return found(Difference(place.line, record.step, name, value, there, by))
            recomputed |= {name for name, value in values.items() if value not in EMPTY}
        given |= {name for name, value in vars(record).items() if value not in EMPTY}
        for rule in rules.values():
            rule.after(record)
        link, count = record.digest(), count + 1
    given -= {"step", "prev_hash"}
    if head is not None and head != link:
        return found(Difference(count + 1, max(0, count - 1), "head", head, link, "the published head"))
    return found(None)


def view_seeds(run_seed: str, step: int, count: int) -> tuple[int, ...]:
    """Seeds of the augmentations of a step's `count` places."""
    return tuple(derive_seed(run_seed, f"view {place}", step) for place in range(count))


class Sampling(Protocol):
    """What the rule of a sampler is made from: the fields of a record that follow from the step's number."""

    def fields(self, step: int) -> Mapping[str, Any]: ...


class SamplerRule:
    """A rule for samplers whose choices depend on nothing that happens in the run."""

    selects = False

    def __init__(self, sampler: Sampling) -> None:
        self.sampler = sampler

    def expected(self, record: StepRecord) -> Mapping[str, Any]:
        return self.sampler.fields(record.step)

    def after(self, record: StepRecord) -> None:
        pass


def made(make: Callable[..., Any], rule: str, options: Mapping[str, Any]) -> Any:
    """`make` with the options of a rule as a file has them; TrainingError for names or types that it does not take."""
    try:
        return make(**options)
    except (TypeError, ValueError, OverflowError) as error:
        raise TrainingError(f"rule {rule!r} cannot be made from its options {_short(dict(options))}: {error}") from None


def _rules(file: StepFile) -> dict[str, Rule]:
    run, found = Run(file.header, file.columns), dict[str, Rule]()
    for name, options in file.header.rules.items():
        if name not in RULES:
            raise TrainingError(f"{file.path} names a rule {name[:40]!r}; known are {', '.join(RULES)}")
        found[name] = import_module(f"zkaudit.training.{RULES[name]}").rule(run, options)
    for kind, selects in (("samplers", False), ("selectors", True)):
        if len(several := [name for name, rule in found.items() if rule.selects == selects]) > 1:
            raise TrainingError(f"{file.path} has the {kind} {' and '.join(several)}: one of them can decide")
    for name, rule in found.items():
        if rule.selects and name != file.header.selector:
            raise TrainingError(f"{file.path} has the rule of {name}, but its selector is {file.header.selector!r}")
    return found


def _seeds(header: RunHeader, record: StepRecord) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if record.objective_seed is not None:
        values["objective_seed"] = derive_seed(header.run_seed, f"objective.{record.objective_id}", record.step)
    if record.view_seeds:
        values["view_seeds"] = view_seeds(header.run_seed, record.step, len(record.ids))
    return values


def _by_header(header: RunHeader, rules: Mapping[str, Rule], record: StepRecord) -> dict[str, Any]:
    """A selector must be announced; without one a sampler's rows are those trained on, and all that there are."""
    values: dict[str, Any] = {"selector": header.selector}
    if not header.selector and any(not rule.selects for rule in rules.values()):
        values["candidate_ids"] = ()
    return values


def _as_candidates(values: Mapping[str, Any], selects: bool) -> Mapping[str, Any]:
    """Before a selector, a sampler's rows are candidates, and what it says place by place is of them."""
    if not selects:
        return values
    return {"candidate_ids" if name == "ids" else name: value for name, value in values.items() if name in ("ids", "epoch")}


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 120 else f"{text[:120]}..."
