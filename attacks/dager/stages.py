"""The two stages of DAGER: a group of taps that sees single tokens, and one a block later that sees what came before.

A stage is a subspace and the site whose inputs it is compared with. Tokens: the first layer's q, k and v where they are
trained; sentences: the same modules one block later (or the first group that sees a prefix, or the whole sequence).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zkaudit.attacks.dager.observed import gradient, rows, stackable
from zkaudit.attacks.dager.options import DagerOptions, PublishedRules, published_rules
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.sites import Dependence, activations
from zkaudit.attacks.spans import Subspace
from zkaudit.attacks.taps import Group, State, Tap
from zkaudit.attacks.threat import Observation, Round

QUERIES = ("q_proj", "query", "c_attn", "q_lin", "query_key_value", "qkv_proj")  # names of q, or of q, k and v in one
ENOUGH = 8  # singular values beyond the rank, from which the noise is measured; with fewer it is computed
FULL = 0.9  # of the width: ranks from there on are compared with what inputs span
NEAR = 1e-2  # squared distances below it are computed from the residual
LAYERS = 10  # whose ranks the published rule looks at


@dataclass(frozen=True)
class Stage:
    """`space` is what the update shows of the inputs at the site of `group`; `start` the trainable tensors they go through."""

    group: Group
    space: Subspace
    start: State
    noise: float = 0.0  # root mean square of an entry of the rows that is not signal
    rounds: int = 1
    blind: bool = False  # the rows fill what inputs span, so that every input lies in it; the basis is the strongest part of it
    dimension: int = 0  # of what inputs span: less than the width after a LayerNorm, which centres

    @property
    def dependence(self) -> Dependence:
        return self.group.dependence

    @property
    def weakest(self) -> float:
        """The smallest singular value of the span over the largest."""
        rank = self.space.rank
        return float(self.space.singular[rank - 1] / self.space.singular[0]) if rank else 0.0

    def measured(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Of inputs of the site, (..., d): distance to the subspace, and the one that an input of the batch would have, (...).

        The second is to first order in the noise: a right singular vector of value s is off by noise sqrt(m - k) / s, and an
        input inherits that in proportion to its share in each of them. Zeros are at distance 1.
        """
        basis = self.space.basis
        x = self.group.view(inputs, self.start).to(basis.dtype)
        norms = x.norm(dim=-1, keepdim=True)
        unit = x / norms.clamp_min(1e-30)
        inside = unit @ basis
        squared = 1 - inside.square().sum(-1)
        near = squared < NEAR  # there the difference from 1 says nothing, so the residual is computed
        squared[near] = (unit[near] - inside[near] @ basis.T).square().sum(-1)
        off = self.noise * max(self.dimension - self.space.rank, 0) ** 0.5 / self.space.singular[: self.space.rank]
        distances = torch.where(norms[..., 0] > 0, squared.clamp(0, 1).sqrt(), 1.0)
        return distances, (inside * off.to(basis.dtype)).norm(dim=-1)

    def distances(self, inputs: Tensor) -> Tensor:
        """The first of `measured`."""
        return self.measured(inputs)[0]


def calibrated_stages(
    observation: Observation, rounds: Sequence[Round], groups: Sequence[Group], options: DagerOptions
) -> tuple[Stage | None, Stage | None]:
    """Token stage and sentence stage, where there is one: all taps and all rounds stacked, ranks above the noise."""

    def stage(group: Group) -> Stage:
        same = stackable(observation.model, group, rounds)
        shown = rows(group, same, observation.federated)
        space = shown.space(observation.most_tokens)
        count, rank = len(shown.values), space.rank
        size = _dimension(observation.model, group, rounds[0].start, space)
        left = space.singular[rank:].square().sum() / max((count - rank) * (size - rank), 1)
        noise = float(left.sqrt())
        if min(count, size) - rank < ENOUGH:
            noise = max(noise, shown.noise)
        blind = rank >= size
        most = max(size - options.cutoff, 1) if blind else rank  # a whole space rejects nothing
        return Stage(
            group, Subspace(space.basis[:, :most].float(), space.singular), rounds[0].start, noise, len(same), blind, size
        )

    shown = [group for group in groups if any(tap.rows(rounds[0].update.tensors).any() for tap in group.taps)]
    local = [group for group in shown if group.dependence <= Dependence.POSITION]
    most = max((group.capacity for group in local), default=0)
    # Of equally large groups the one that shows most: softmax hides a causal model's first token from q, not from v.
    token = max((stage(group) for group in local if group.capacity == most), key=lambda s: s.space.rank, default=None)
    group = _sentence_group(shown, None if token is None else token.group)
    if group is None:
        return token, None
    sentence = stage(group)
    if token is not None and sentence.space.rank < token.space.rank:
        # An encoder's last layer answers for one position only; modules before it may show more.
        before = [other for other in shown[: shown.index(group)] if other.dependence == group.dependence]
        sentence = max([sentence, *map(stage, before)], key=lambda s: (s.space.rank, s.weakest))
    return token, sentence


def _dimension(model: PublicModel, group: Group, start: State, space: Subspace) -> int:
    """Of what inputs of random tokens span; only looked at where the rows nearly fill the space."""
    size = space.dimension
    if space.rank < FULL * size:
        return size
    ids = torch.randint(model.vocabulary, (size // 8 + 1, 16), generator=torch.Generator().manual_seed(3)).to(model.device)
    (x,) = activations(model, [group.site], ids)
    singular: Tensor = torch.linalg.svdvals(group.view(x, start).flatten(0, 1).double())
    return int((singular > 1e-5 * singular[0]).sum())


def _sentence_group(groups: Sequence[Group], token_group: Group | None) -> Group | None:
    later = [group for group in groups if group.dependence > Dependence.POSITION]
    if not later or token_group is None:
        return later[0] if later else None
    leaves = {tap.site.module.rsplit(".", 1)[-1] for tap in token_group.taps}
    kinds = {tap.kind for tap in token_group.taps}
    alike = [
        group
        for group in later
        if any(tap.site.module.rsplit(".", 1)[-1] in leaves and tap.kind in kinds for tap in group.taps)
    ]
    return (alike or later)[0]


def published_stages(
    observation: Observation, rounds: Sequence[Round], groups: Sequence[Group], options: DagerOptions
) -> tuple[Stage, Stage, PublishedRules, int]:
    """Stages by the published rules, from the query projections of the first round; the rules, and the rank for both.

    The rank is the largest numerical rank of the first layers' gradients under an absolute tolerance, plus what averaging
    adds, at most the width less `cutoff`; bases are torch.svd_lowrank's of that rank. AuditError if no query is trained.
    """
    queries = [
        (Group((tap,), group.dependence), tap)
        for group in groups
        for tap in group.taps
        if tap.space == "input" and any(part in QUERIES for part in tap.site.module.split("."))
    ]
    first = [group for group, tap in queries if group.dependence <= Dependence.POSITION]
    later = [group for group, tap in queries if group.dependence > Dependence.POSITION]
    if not first or not later:
        raise AuditError("DAGER's published rules need trained query projections in the first two layers")
    federated, seen = observation.federated, rounds[0]
    averaged = seen.update.kind == "delta"
    lora = first[0].taps[0].kind == "LoRA A"
    rules = published_rules(options, federated.records * federated.cohort, averaged, lora)
    tensors = gradient(seen, federated)
    number = torch.float64 if averaged and not lora else torch.float32

    def matrix(tap: Tap) -> Tensor:  # on the host, whose generator the basis is drawn by
        return tap.rows(tensors).detach().to(number).cpu()

    width = matrix(first[0].taps[0]).shape[1]
    ranks = [_numerical_rank(matrix(tap), rules.tolerance) for _, tap in queries[:LAYERS]]
    rank = max(min(max(ranks) + rules.extra_rank, width - options.cutoff), 0)

    def stage(group: Group) -> Stage:
        values = matrix(group.taps[0])
        singular = torch.linalg.svdvals(values.double())
        basis = _low_rank_basis(values, min(rank, *values.shape), options.seed)
        space = Subspace(basis.to(observation.model.device), singular.to(observation.model.device))
        return Stage(group, space, seen.start, dimension=width)

    return stage(first[0]), stage(later[0]), rules, rank


def _numerical_rank(values: Tensor, tolerance: float) -> int:
    return int(np.linalg.matrix_rank(values.numpy(), tol=tolerance))


def _low_rank_basis(values: Tensor, rank: int, seed: int) -> Tensor:
    """Right singular vectors by the randomised method with ten power iterations, in the precision of the values; (m, rank)."""
    if rank == 0:
        return torch.zeros(values.shape[1], 0, dtype=values.dtype)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        return torch.svd_lowrank(values, q=rank, niter=10)[2]
