"""Taps: what the update of each trainable tensor shows of the inputs of a module.

Let x_i be the input that a site sees at token position i, and d_i the error that comes back there. Then

    full weight W (o x d)      sum d_i x_i^T                rows in span{x_i}
    LoRA A (r x d)             s B^T sum d_i x_i^T          rows in span{x_i}, none while B = 0
    LoRA B (o x r)             s sum d_i (A x_i)^T          rows in span{A x_i}

and so on for the other kinds of adapters, each in the function that finds it. A tap says which matrix to read and through
which linear view it shows the inputs. Taps with the same view of the same input may be stacked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.sites import LENGTH, Dependence, Site, activations, dependence

State = Mapping[str, Tensor]


def _as_it_is(x: Tensor, _start: State) -> Tensor:
    return x


@dataclass(frozen=True)
class Tap:
    """`rows(update)` is (k, m); its rows lie in the span of `view(x, start)` over the site's inputs x, (..., d) -> (..., m).

    `start` holds the trainable tensors at the start of the round; taps whose view is the input itself have space "input".
    """

    kind: str
    parameters: tuple[str, ...]
    site: Site
    capacity: int  # the largest rank that `rows` can have
    rows: Callable[[State], Tensor]
    view: Callable[[Tensor, State], Tensor] = _as_it_is
    space: str = "input"
    explanation: str = ""


@dataclass(frozen=True)
class Group:
    """Taps that show the same inputs through the same view, so that their rows can be stacked."""

    taps: tuple[Tap, ...]
    dependence: Dependence

    @property
    def site(self) -> Site:
        return self.taps[0].site

    @property
    def capacity(self) -> int:
        """The usable rank K: how many different inputs can be told apart exactly."""
        return sum(tap.capacity for tap in self.taps)

    def rows(self, update: State) -> Tensor:
        """All rows, each tap's scaled to the same norm so that none drowns the others in noise; (k, m)."""
        parts = [tap.rows(update).double() for tap in self.taps]
        return torch.cat([part / part.norm().clamp_min(1e-300) for part in parts])

    def view(self, x: Tensor, start: State) -> Tensor:
        """What the taps can see of inputs."""
        return self.taps[0].view(x, start)


def find(model: PublicModel) -> list[Tap]:
    """All taps of the model's trainable tensors, in the order of its modules."""
    left = set(model.trainable())  # a wrapper comes before the layers in it, and what it explains is not theirs any more
    taps = []
    for name, module in model.module.named_modules():
        for finder in FINDERS:
            found = list(finder(name, module, left))
            left.difference_update(parameter for tap in found for parameter in tap.parameters)
            taps += found
    return taps


def groups(model: PublicModel, taps: Sequence[Tap] | None = None) -> list[Group]:
    """Taps joined where they see the same input through the same view: those of q, k and v, for instance."""
    taps = find(model) if taps is None else taps
    sites = list(dict.fromkeys(tap.site for tap in taps))
    if not sites:
        return []
    probe = torch.randint(model.vocabulary, (1, LENGTH), generator=torch.Generator().manual_seed(1)).to(model.device)
    seen = dict(zip(sites, activations(model, sites, probe), strict=True))
    joined: list[list[Tap]] = []
    for tap in taps:
        for group in joined:
            if group[0].space == tap.space and torch.equal(seen[group[0].site], seen[tap.site]):
                group.append(tap)
                break
        else:
            joined.append([tap])
    known: dict[Site, Dependence] = {}
    for group in joined:
        known.setdefault(group[0].site, dependence(model, group[0].site))
    return [Group(tuple(group), known[group[0].site]) for group in joined]


def _lora(name: str, module: nn.Module, trainable: set[str]) -> Iterator[Tap]:
    """LoRA and DoRA (A multiplies x in both) on linear layers and on GPT-2's Conv1D, for which peft keeps A as (r, d)."""
    for adapter, layer in getattr(module, "lora_A", {}).items():
        if not isinstance(layer, nn.Linear):
            continue
        rank = layer.weight.shape[0]
        a, b = f"{name}.lora_A.{adapter}.weight", f"{name}.lora_B.{adapter}.weight"
        if a in trainable:
            yield Tap("LoRA A", (a,), Site(name), rank, lambda update, a=a: update[a])  # type: ignore[misc]
        if b in trainable:
            frozen = layer.weight.detach()
            yield Tap(
                "LoRA B",
                (b,),
                Site(name),
                rank,
                lambda update, b=b: update[b],  # type: ignore[misc]
                lambda x, start, a=a, frozen=frozen: x @ start.get(a, frozen).to(x.dtype).T,  # type: ignore[misc]
                f"A of {name}",
            )


def _full_weight(name: str, module: nn.Module, trainable: set[str]) -> Iterator[Tap]:
    """A linear layer trained whole."""
    weight = f"{name}.weight"
    if weight not in trainable:
        return
    if isinstance(module, nn.Linear):
        capacity = min(module.weight.shape)
        yield Tap("full weight", (weight,), Site(name), capacity, lambda update: update[weight])
    elif type(module).__name__ == "Conv1D":  # GPT-2's, stored as (d, o)
        capacity = min(module.weight.shape)  # type: ignore[arg-type]
        yield Tap("full weight", (weight,), Site(name), capacity, lambda update: update[weight].T)


FINDERS: tuple[Callable[[str, nn.Module, set[str]], Iterator[Tap]], ...] = (_lora, _full_weight)
