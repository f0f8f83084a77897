"""Run triage: stop the runs of a search whose early steps look worst.

    badness(run) = z(gradient norm) - z(loss)        z over the runs compared, at the same step; the worst part is stopped

Pareja et al. 2024, arXiv 2412.13337: among fine-tunings of one model on the same data with other batches and rates, a lower
gradient norm and a higher loss early on went with better results. The sign for the loss is the weaker of the two: a run that is
about to diverge has a high loss as well, so `loss_weight` can be set to 0. A loss compares nothing between different data, with
dropout of different strength or with label smoothing, hence runs carry a digest of their data and are refused if it differs.

A run whose signals are not finite is stopped first. Ties are stopped in the order of names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method

METHOD = Method(
    name="run-triage",
    title="Run triage by early gradient norms and losses",
    paper="Pareja et al. 2024, arXiv 2412.13337",
    where="zkaudit.training.search.run_triage.triage",
    changes=("search", "speed"),
    effect="Lower gradient norms and higher losses early on are strong indicators of a better final model.",
    library="",
    provable="The choice is a public function of recorded norms and losses; they come from steps that can be proved.",
    server_sees="Nothing more: it reads norms and losses that training has at hand.",
    use="""
from zkaudit.training.search.run_triage import Signals, early, triage

signals = [Signals(name, data_digest, *early(norms[name], losses[name], step=100)) for name in runs]
for name in triage(signals, stop=0.5).stopped:
    runs[name].stop()
""",
    avoid="runs with different data or regularisation, and as the only judge: in our check the norm alone predicted better, "
    "and the sign of the loss was the other one, as small rates leave it high",
    binding="replayable",
)


@dataclass(frozen=True)
class Signals:
    """What a run shows early: gradient norm and training loss, and a digest of its data and their order."""

    name: str
    data: str
    gradient_norm: float
    loss: float


@dataclass(frozen=True)
class Triage:
    """Names from best to worst, each run's badness, and the names of those to stop, worst first."""

    ranking: tuple[str, ...]
    badness: dict[str, float]
    stopped: tuple[str, ...]


def early(norms: Sequence[float], losses: Sequence[float], step: int, window: int = 5) -> tuple[float, float]:
    """Mean gradient norm and mean loss of the `window` steps that end with step `step`, counted from 0."""
    start = step - window + 1
    if window < 1 or start < 0 or step >= min(len(norms), len(losses)):
        raise TrainingError(
            f"a window of {window} steps up to step {step} is outside the {min(len(norms), len(losses))} recorded"
        )
    return math.fsum(norms[start : step + 1]) / window, math.fsum(losses[start : step + 1]) / window


def triage(runs: Sequence[Signals], stop: float = 0.5, loss_weight: float = 1.0) -> Triage:
    """Rank the runs and name floor(stop * runs) of them to stop.

    TrainingError for fewer than two runs, equal names, a `stop` outside [0, 1) or runs on different data."""
    if len(runs) < 2 or len({run.name for run in runs}) != len(runs):
        raise TrainingError("triage compares at least two runs of different names")
    if not 0 <= stop < 1:
        raise TrainingError(f"stop = {stop} must be a part of the runs, below 1")
    if other := [run.name for run in runs if run.data != runs[0].data]:
        raise TrainingError(f"run {other[0]!r} has other data than {runs[0].name!r}: their losses compare nothing")
    finite = [run for run in runs if math.isfinite(run.gradient_norm) and math.isfinite(run.loss)]
    norm_z, loss_z = _z([run.gradient_norm for run in finite]), _z([run.loss for run in finite])
    badness = {run.name: math.inf for run in runs}
    badness |= {run.name: g - loss_weight * x for run, g, x in zip(finite, norm_z, loss_z, strict=True)}
    worst_first = sorted(badness, key=lambda name: (-badness[name], name))
    return Triage(tuple(reversed(worst_first)), badness, tuple(worst_first[: int(stop * len(runs))]))


def _z(values: Sequence[float]) -> list[float]:
    """Standard scores; zeros where all are equal."""
    mean = math.fsum(values) / max(1, len(values))
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / max(1, len(values)))
    return [(value - mean) / deviation if deviation else 0.0 for value in values]
