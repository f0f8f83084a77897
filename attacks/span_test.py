"""The span test: which tokens' vectors lie in, or lean towards, the span of the observed rows, with p-values.

Each piece of evidence gives every candidate a squared cosine with the rows' subspace. Under the null it is Beta distributed,
with the mean seen over the vocabulary (embeddings are not isotropic). P-values of independent pieces, LoRA B of q, k and v for
instance, join by Fisher's rule. Tokens are claimed by Benjamini and Hochberg's. Beyond the rank nothing lies in the span any
more and the same p-values rank what leans towards it. `StaticSpanTest` claims below a fixed distance, as published attacks do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from zkaudit.attacks.attack import Progress, Ranking, Recovery, silent
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.evidence import distances, gather
from zkaudit.attacks.spans import Subspace, fisher, subspace
from zkaudit.attacks.threat import Capability, Observation

BINS = 60  # of the histogram of distances
SMALLEST = 1e-300


@dataclass(frozen=True)
class SpanTestOptions:
    """`false_discovery`: share of wrong tokens among those claimed."""

    false_discovery: float = 0.05


class SpanTest:
    """Calibrated span test. Evidence: singular values, rank, distances over the vocabulary with the null's density."""

    name = "span_test"
    needs = Capability.UPDATE

    def __init__(self, options: SpanTestOptions = SpanTestOptions()) -> None:
        self.options = options

    def run(self, observation: Observation, progress: Progress = silent) -> Recovery:
        """AuditError if no trained tensor sees single tokens."""
        seen = _look(observation, progress)
        order = seen.log_p.argsort(stable=True)
        p = seen.log_p[order].exp().numpy()
        size = len(p) * seen.positions
        passed = np.flatnonzero(p * size <= self.options.false_discovery * np.arange(1, len(p) + 1))
        claimed = int(passed[-1]) + 1 if len(passed) else 0
        return _recovery(self.name, seen, order, (-seen.log_p[order]).tolist(), claimed)


class StaticSpanTest:
    """The span test with a fixed threshold on the distance, uncalibrated: what a published attack does, for comparison."""

    name = "span_test_static"
    needs = Capability.UPDATE

    def __init__(self, threshold: float = 1e-3) -> None:
        self.threshold = threshold

    def run(self, observation: Observation, progress: Progress = silent) -> Recovery:
        """AuditError if no trained tensor sees single tokens."""
        seen = _look(observation, progress)
        order = seen.distance.argsort(stable=True)
        claimed = int((seen.distance < self.threshold).sum())
        return _recovery(self.name, seen, order, (1 - seen.distance[order]).tolist(), claimed)


@dataclass(frozen=True)
class _Seen:
    log_p: Tensor  # (V,), the smallest over positions
    distance: Tensor  # (V,), the smallest over positions, by the strongest piece
    space: Subspace  # of the strongest piece
    all_distances: np.ndarray  # counts over BINS of all candidates
    null: list[float]
    positions: int


def _look(observation: Observation, progress: Progress) -> _Seen:
    with observation.model.holding(observation.last.start):
        return _looked(observation, progress)


def _looked(observation: Observation, progress: Progress) -> _Seen:
    pieces = gather(observation)
    if not pieces:
        raise AuditError("the span test needs a trained tensor that sees single tokens (a first-layer module); there is none")
    pieces = [piece for piece in pieces if piece.positional == pieces[0].positional]
    spaces = [subspace(piece.rows) for piece in pieces]
    model, longest = observation.model, observation.federated.longest
    positions = longest if pieces[0].positional else 1
    log_p = torch.zeros(model.vocabulary, dtype=torch.float64)
    distance = torch.ones(model.vocabulary, dtype=torch.float64)
    edges = np.linspace(0, 1, BINS + 1)
    counts = np.zeros(BINS, dtype=np.int64)
    nulls: tuple[float, float] | None = None
    for position, far in distances(model, pieces, spaces, longest):
        parts = [_log_p(d, space) for d, space in zip(far, spaces, strict=True)]
        log_p = torch.minimum(log_p, fisher(parts))
        distance = torch.minimum(distance, far[0])
        counts += np.histogram(far[0].numpy(), edges)[0]
        nulls = nulls or _null(far[0], spaces[0])
        progress("testing tokens", (position + 1) / positions)
    return _Seen(log_p, distance, spaces[0], counts, _density(nulls, edges), positions)


def _null(distance: Tensor, space: Subspace) -> tuple[float, float] | None:
    """The Beta law of the squared cosine, from the rank and the mean over the vocabulary; None if there is nothing to tell."""
    if space.rank == 0 or space.rank >= space.dimension:
        return None
    mean = float(np.clip(float((1 - distance.square()).mean()), 1e-9, 1 - 1e-9))
    return space.rank / 2, max(space.rank / 2 * (1 - mean) / mean, 1e-3)


def _log_p(distance: Tensor, space: Subspace) -> Tensor:
    law = _null(distance, space)
    if law is None:
        return torch.zeros_like(distance)
    # The squared distance has the mirrored law, whose lower tail keeps its digits where the cosine is almost 1.
    tail = stats.beta.logcdf(distance.square().clamp(SMALLEST, 1).numpy(), law[1], law[0])
    return torch.from_numpy(np.maximum(tail, np.log(SMALLEST)))


def _density(law: tuple[float, float] | None, edges: np.ndarray) -> list[float]:
    if law is None:
        return []
    cumulative = stats.beta.cdf(edges**2, law[1], law[0])
    return [float(x) for x in np.diff(cumulative)]


def _recovery(name: str, seen: _Seen, order: Tensor, scores: list[float], claimed: int) -> Recovery:
    evidence = {
        "singular_values": seen.space.singular[:256].tolist(),
        "rank": seen.space.rank,
        "dimension": seen.space.dimension,
        "distances": {
            "edges": np.linspace(0, 1, BINS + 1).tolist(),
            "vocabulary": seen.all_distances.tolist(),
            "null": seen.null,
        },
        "distance_by_token": seen.distance.tolist(),
    }
    return Recovery(name, Ranking(order.tolist(), scores, claimed), evidence=evidence)
