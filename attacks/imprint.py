"""A malicious start of bottleneck adapters that imprints single tokens into their gradient, and the attack that reads them.

All rows of D are one direction u and its biases are minus rising quantiles q_j of u.h, so that row j's neuron fires for the
tokens with u.h > q_j; all columns of U are one vector v. Then every neuron sees the same error a_i = v.d_i, and

    dL/dD_j - dL/dD_j+1 = sum of a_i h_i,    dL/db_j - dL/db_j+1 = sum of a_i,    over the tokens with q_j < u.h_i <= q_j+1.

A bin that holds one token gives its h exactly as the ratio. The first block's attention is switched off, so that h is a
function of the token (and position) and can be looked up. (Robbing the Fed, Fowl et al. 2022, brought to adapters as PEFTLeak,
2025, does for images.) After one SGD step the delta shows the same; several local steps or AdamW blur it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zkaudit.attacks.adapters import TARGETS
from zkaudit.attacks.attack import Progress, Ranking, Recovery, silent
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.sites import Dependence, Site, activations, dependence, token_activations
from zkaudit.attacks.threat import Capability, Observation, Round

DOWN, UP = "adapter_down", "adapter_up"


@dataclass(frozen=True)
class ImprintOptions:
    """`scale` is the norm of u, small so that little is rounded off when a step is added to it; `push` is that of v.

    Their product is small, so that the adapter hardly changes what the model computes.
    """

    scale: float = 1e-4
    push: float = 1.0
    longest: int = 64  # tokens of a text that the quantiles are taken from
    seed: int = 0


def imprint(model: PublicModel, texts: Sequence[str], options: ImprintOptions = ImprintOptions()) -> PublicModel:
    """A copy of a model with bottleneck adapters whose first usable adapter imprints; quantiles are those of `texts`.

    AuditError if the model has no such adapter, or none whose input can be made a function of one token.
    """
    malicious = PublicModel(copy.deepcopy(model.module), model.tokenizer, model.task)
    down = _measuring(malicious)
    weight, bias = (malicious.module.get_parameter(f"{down}.{part}") for part in ("weight", "bias"))
    up = malicious.module.get_parameter(f"{down.removesuffix(DOWN)}{UP}.weight")
    generator = torch.Generator().manual_seed(options.seed)
    size, width = weight.shape
    u = torch.randn(width, generator=generator)
    u *= options.scale / u.norm()
    v = torch.randn(up.shape[0], generator=generator)
    v *= options.push / v.norm()
    quantiles = _ladder(malicious, down, u, texts, size, options.longest)
    with torch.no_grad():
        weight.copy_(u.expand(size, width))
        bias.copy_(-quantiles)
        up.copy_(v[:, None].expand(-1, size))
    return malicious


def _measuring(model: PublicModel) -> str:
    """The name of the first adapter whose input one token decides, if need be once the first attention is switched off."""
    found = [str(name) for name, _ in model.module.named_modules() if name.endswith(f".{DOWN}")]
    if not found:
        raise AuditError("the model has no bottleneck adapters to imprint into")
    if dependence(model, Site(found[0])) <= Dependence.POSITION:
        return found[0]
    attention = next((m for name, m in model.module.named_modules() if _ends_attention(name) and hasattr(m, "weight")), None)
    if attention is not None:
        with torch.no_grad():
            for parameter in attention.parameters():
                parameter.zero_()
    for name in found:
        if dependence(model, Site(name)) <= Dependence.POSITION and _varies(model, name):
            return name
    raise AuditError("no adapter of the model has an input that can be made a function of one token")


def _ends_attention(name: str) -> bool:
    plain = name.removesuffix(".base_layer")
    return any(plain.endswith(f".{ends[0]}") for ends in TARGETS)


def _varies(model: PublicModel, name: str) -> bool:
    ids = torch.arange(2, device=model.device).add(model.vocabulary // 2)[:, None]
    a, b = activations(model, [Site(name)], ids)[0]
    return not torch.allclose(a, b)


def _ladder(model: PublicModel, down: str, u: Tensor, texts: Sequence[str], size: int, longest: int) -> Tensor:
    """Rising quantiles of u.h over the different activations of texts, from below all of them; (size,)."""
    rows = [ids[:longest] for ids in model.tokenizer(list(texts))["input_ids"]]
    seen = [activations(model, [Site(down)], torch.tensor([ids], device=model.device))[0][0] for ids in rows if ids]
    if not seen:
        raise AuditError("an imprint needs texts to take its quantiles from")
    values = torch.tensor(sorted(set((torch.cat(seen).cpu() @ u).tolist())))
    quantiles = torch.quantile(values.double(), torch.arange(size).double() / size).float()
    quantiles[0] -= values.std()
    return quantiles


class Imprint:
    """Reads an imprinted adapter; `tolerance` is the relative distance up to which a bin is one known activation."""

    name = "imprint"
    needs = Capability.UPDATE | Capability.BASE_MODEL

    def __init__(self, tolerance: float = 1e-2) -> None:
        self.tolerance = tolerance

    def run(self, observation: Observation, progress: Progress = silent) -> Recovery:
        """AuditError without the choice of the base model, or if no adapter was imprinted.

        Claimed are the tokens of bins that hold one token; the others follow by their distance to the nearest bin. With
        one record behind the update, its tokens come in order where the activation tells positions.
        """
        observation.require(self.needs)
        model, first = observation.model, observation.rounds[0]
        down = _imprinted(model, first)
        bins = torch.cat([_bins(down, seen) for seen in observation.rounds])
        with model.holding(first.start):
            placed = dependence(model, Site(down)) is Dependence.POSITION
            positions = range(observation.federated.longest if placed else 1)
            distances = bins.new_full((model.vocabulary, len(bins)), torch.inf)
            at = torch.zeros_like(distances, dtype=torch.long)
            for position in positions:
                known = token_activations(model, Site(down), position).double()
                here = torch.cdist(known, bins) / bins.norm(dim=1).clamp_min(1e-300)
                at[here < distances] = position
                distances = torch.minimum(distances, here)
                progress("looking up bins", (position + 1) / len(positions))
        return self._recovery(observation, distances.cpu(), at.cpu(), placed)

    def _recovery(self, observation: Observation, distances: Tensor, at: Tensor, placed: bool) -> Recovery:
        vocabulary, count = distances.shape
        if not count:
            return Recovery(self.name, Ranking([], [], 0), evidence={"bins": 0, "single": 0})
        nearest, token = distances.min(0)
        single = nearest < self.tolerance
        claimed = set(token[single].tolist())
        best = distances.min(1).values
        order = sorted(range(vocabulary), key=lambda i: (i not in claimed, float(best[i])))
        scores = [(1.0 if i in claimed else 0.0) - float(best[i]) / (1 + float(best[i])) for i in order]
        sequences: list[list[int]] = []
        if placed and observation.federated.records * observation.federated.cohort == 1:
            found = {int(at[token[j], j]): int(token[j]) for j in range(count) if single[j]}
            sequences = [[found[position] for position in sorted(found)]] if found else []
        evidence = {"bins": count, "single": int(single.sum()), "distance_by_token": best.clamp(0, 1).tolist()}
        return Recovery(self.name, Ranking(order, scores, len(claimed)), sequences, evidence=evidence)


def _imprinted(model: PublicModel, seen: Round) -> str:
    for name, module in model.module.named_modules():
        if name.endswith(f".{DOWN}") and isinstance(module, nn.Linear) and f"{name}.bias" in seen.start:
            weight = seen.start[f"{name}.weight"]
            if weight.shape[0] > 1 and bool((weight == weight[0]).all()) and bool(weight.any()):
                return str(name)
    raise AuditError("no adapter of the model was imprinted, so there is nothing to read")


def _bins(down: str, seen: Round) -> Tensor:
    """What single bins hold, (k, d): differences of consecutive rows over those of biases, where they are not rounding."""
    rows = seen.update.tensors[f"{down}.weight"].double()
    biases = seen.update.tensors[f"{down}.bias"].double()
    order = seen.start[f"{down}.bias"].argsort(descending=True)  # from the neuron that always fires to the one that hardly does
    zero = rows.new_zeros(1)
    steps = -torch.diff(torch.cat([rows[order], zero.expand(1, rows.shape[1])]), dim=0)
    part = -torch.diff(torch.cat([biases[order], zero]))
    real = part.abs() > 1e-5 * biases.abs().max().clamp_min(1e-300)
    return steps[real] / part[real, None]
