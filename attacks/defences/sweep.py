"""Every defence under two attackers: one that runs its published procedure unchanged, and one that knows of the defence.

A defence against which only the first one fails protects nothing: it is marked a static-only win. The static attacker stands by
what it claims, the adaptive one by its whole ranking; what a random ranking scores is measured beside them. Each defence sees
the same seeds, so differences are not those of the records.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from zkaudit.attacks.attack import Attack, Progress, Ranking, Recovery, silent
from zkaudit.attacks.defences.defence import NONE, Defence
from zkaudit.attacks.defences.dp_sgd import Accounting
from zkaudit.attacks.defences.examples import choose
from zkaudit.attacks.defences.utility import Measure, Utility, trained, utility
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.rounds import Simulation, simulate
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.lab.records import Record
from zkaudit.attacks.metrics.bootstrap import Interval, interval, mean_of
from zkaudit.attacks.model import PublicModel

MARGIN = 0.1  # of a score: what counts as a fall
ATTACKERS = ("static", "adaptive")


@dataclass(frozen=True)
class Case:
    """What a defence is tried on: the model with the adapters it wants, each client's records, and rules without the defence.

    `test` records are for utility and `public` ones for warm-up steps, if the rules ask for them.
    """

    model: PublicModel
    clients: Sequence[Sequence[Record]]
    settings: FederatedSettings
    test: Sequence[Record] = ()
    public: Sequence[Record] = ()


Build = Callable[[Defence, int], Case]  # for a defence and a seed; a fresh model each time
Score = Callable[[Recovery, Simulation], float]  # the scorer alone sees the simulation's truth


@dataclass(frozen=True)
class DefenceResult:
    """One score for each seed and attacker; `note` holds what went differently (an attack that does not apply, an engine)."""

    defence: str
    static: tuple[float, ...]
    adaptive: tuple[float, ...]
    chance: tuple[float, ...]
    static_only: bool = False
    utility: Utility | None = None
    epsilon: float | None = None
    note: str = ""

    def interval(self, attacker: str) -> Interval:
        """The mean score of "static", "adaptive" or "chance" with its bootstrap interval over seeds."""
        return interval(mean_of(getattr(self, attacker)))

    def to_dict(self) -> dict[str, Any]:
        """For JSON; an infinite epsilon is the text "infinite"."""
        content = dict(vars(self))
        content["utility"] = self.utility.to_dict() if self.utility else None
        if self.epsilon is not None and math.isinf(self.epsilon):
            content["epsilon"] = "infinite"
        return {key: list(value) if isinstance(value, tuple) else value for key, value in content.items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> DefenceResult:
        """From `to_dict`'s, which may have been JSON in between."""
        fields = dict(content)
        for name in (*ATTACKERS, "chance"):
            fields[name] = tuple(fields[name])
        fields["utility"] = Utility.from_dict(fields["utility"]) if fields["utility"] else None
        fields["epsilon"] = math.inf if fields["epsilon"] == "infinite" else fields["epsilon"]
        return cls(**fields)


def sweep(
    defences: Sequence[Defence],
    build: Build,
    attackers: Mapping[str, Attack],
    score: Score,
    seeds: Sequence[int] = (0, 1, 2),
    utility_steps: int = 0,
    accounting: Accounting | None = None,
    done: Mapping[str, DefenceResult] | None = None,
    store: Callable[[DefenceResult], None] | None = None,
    progress: Progress = silent,
) -> list[DefenceResult]:
    """Results, "none" first. Those in `done`, by the defence's name, are not computed again; `store` gets each new one at once.

    Utility is measured on the first seed's case if `utility_steps` is positive, epsilon computed if there is an `accounting`.
    """
    if set(attackers) != set(ATTACKERS):
        raise AuditError(f"a sweep takes a static and an adaptive attacker; it got {', '.join(attackers) or 'none'}")
    if not seeds:
        raise AuditError("a sweep takes at least one seed")
    order = list({defence.name: defence for defence in (NONE, *defences)}.values())
    results: list[DefenceResult] = []
    for number, defence in enumerate(order):
        progress(f"defence {defence.name}", number / len(order))
        result = (done or {}).get(defence.name)
        if result is None:
            result = _one(defence, build, attackers, score, seeds, accounting)
            if utility_steps > 0:
                result = replace(result, utility=_utility(defence, build, seeds[0], utility_steps, results))
            if results:
                result = replace(result, static_only=static_only(results[0], result))
            if store is not None:
                store(result)
        results.append(result)
    progress("defences", 1.0)
    return results


def static_only(undefended: DefenceResult, defended: DefenceResult) -> bool:
    """Whether the static attacker's mean score falls under the defence and the adaptive one's does not."""
    fall = {name: undefended.interval(name).value - defended.interval(name).value for name in ATTACKERS}
    return fall["static"] >= MARGIN > fall["adaptive"]


def _one(
    defence: Defence,
    build: Build,
    attackers: Mapping[str, Attack],
    score: Score,
    seeds: Sequence[int],
    accounting: Accounting | None,
) -> DefenceResult:
    scores: dict[str, list[float]] = {name: [] for name in (*ATTACKERS, "chance")}
    notes: dict[str, None] = {}
    for seed in seeds:
        case = build(defence, seed)
        run = observe(case, defence, seed)
        for name in ATTACKERS:
            recovery, failure = _attack(attackers[name], run, defence if name == "adaptive" else None)
            scores[name].append(score(_claims(recovery) if name == "static" else recovery, run))
            if failure:
                notes[f"{name}: {failure}"] = None
        scores["chance"].append(score(_random(case.model, seed), run))
        if defence.private is not None:
            engine = choose(case.model, run.batches[0][0])
            notes[f"gradients by {engine.name}{': ' if engine.reason else ''}{engine.reason}"] = None
    epsilon = None
    if accounting is not None and defence.private is not None:
        epsilon = accounting.epsilon(defence.private.sigma)
    return DefenceResult(
        defence.name,
        tuple(scores["static"]),
        tuple(scores["adaptive"]),
        tuple(scores["chance"]),
        epsilon=epsilon,
        note="; ".join(notes),
    )


def observe(case: Case, defence: Defence, seed: int) -> Simulation:
    """The federation of a case under a defence."""
    return simulate(
        case.model, case.clients, defence.settings(case.settings), seed=seed, public=case.public, train=defence.update
    )


def _attack(attack: Attack, run: Simulation, known: Defence | None) -> tuple[Recovery, str]:
    """Nothing is recovered where an attack says that it does not apply."""
    try:
        return attack.run(run.observation(attack.needs, known.name if known else None)), ""
    except AuditError as error:
        return Recovery(attack.name, Ranking((), (), 0)), str(error)


def _claims(recovery: Recovery) -> Recovery:
    ranking = recovery.tokens
    if ranking is None:
        return recovery
    kept = ranking.claimed
    return replace(recovery, tokens=Ranking(ranking.ids[:kept], ranking.scores[:kept], kept))


def _random(model: PublicModel, seed: int) -> Recovery:
    size = model.vocabulary
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed)).tolist()
    return Recovery("chance", Ranking(order, list(range(size, 0, -1)), size))


def _utility(defence: Defence, build: Build, seed: int, steps: int, results: Sequence[DefenceResult]) -> Utility:
    """The undefended measure is that of the first result, if it has one, or of the undefended case."""
    case = build(defence, seed)
    train = [record for client in case.clients for record in client]
    undefended: Measure | None = None
    if results:
        first = results[0].utility
        if first is not None:
            undefended = first.undefended
        else:
            plain = build(NONE, seed)
            undefended = trained(plain.model, train, plain.test, plain.settings, NONE, steps, seed)
    return utility(case.model, train, case.test, case.settings, defence, steps, seed, undefended)
