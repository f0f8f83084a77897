"""All taps of a model, and those of them that can be stacked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn

from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.sites import LENGTH, Site, activations, dependences
from zkaudit.attacks.taps import linear, lora, prefix
from zkaudit.attacks.taps.tap import Group, Tap

# A finder gets a module, its name, the names of tensors that nothing explains yet, and the model.
Finder = Callable[[str, nn.Module, set[str], PublicModel], Iterator[Tap]]
FINDERS: tuple[Finder, ...] = (prefix.keys, lora.adalora, lora.adalora_b, lora.lora, linear.bottleneck, linear.full_weight)


def find(model: PublicModel) -> list[Tap]:
    """All taps of the model's trainable tensors, in the order of its modules."""
    left = set(model.trainable())  # a wrapper comes before the layers in it, and what it explains is not theirs any more
    taps = []
    for name, module in model.module.named_modules():
        for finder in FINDERS:
            found = list(finder(name, module, left, model))
            left.difference_update(parameter for tap in found for parameter in tap.parameters)
            taps += found
    return taps


def groups(model: PublicModel, taps: Sequence[Tap] | None = None) -> list[Group]:
    """Taps joined where they see the same input through the same view: those of q, k and v, for instance.

    Without the taps of modules that see one vector for a whole record (a classifier after pooling): no token stands there.
    """
    taps = find(model) if taps is None else taps
    sites = list(dict.fromkeys(tap.site for tap in taps))
    if not sites:
        return []
    probe = torch.randint(model.vocabulary, (1, LENGTH), generator=torch.Generator().manual_seed(1)).to(model.device)
    seen = dict(zip(sites, activations(model, sites, probe), strict=True))
    joined: list[list[Tap]] = []
    for tap in taps:
        if seen[tap.site].dim() < 3:
            continue
        for group in joined:
            if group[0].space == tap.space and torch.equal(seen[group[0].site], seen[tap.site]):
                group.append(tap)
                break
        else:
            joined.append([tap])
    first: list[Site] = list(dict.fromkeys(group[0].site for group in joined))
    known = dict(zip(first, dependences(model, first), strict=True))
    start = model.state()
    return [Group(tuple(group), known[group[0].site], group[0].view(seen[group[0].site], start).shape[-1]) for group in joined]
