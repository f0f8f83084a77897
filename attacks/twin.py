"""A stand-in for a model that is only a plan (on the meta device, without weights): its first two layers with made-up weights.

What an input depends on, and which modules read the same input, does not depend on the weights, and all layers after the second
are like it. Weights are views of short random vectors, w_ij = v_(i+j), so that layers of any size take no memory.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.taps import Group, Tap, find, groups

LAYERS = 2
VOCABULARY = 256


def groups_of_plan(model: PublicModel, taps: Sequence[Tap]) -> list[Group]:
    """`taps.groups` of a plan: those of the stand-in, the second layer's repeated for each later one."""
    twin = stand_in(model)
    stacks = _stacks(model)
    place: dict[tuple[str, ...], tuple[int, Group]] = {}
    for number, group in enumerate(groups(twin, find(twin))):
        for tap in group.taps:
            place[_key(tap)] = number, group
    joined: dict[tuple[int, int], list[Tap]] = {}
    like: dict[tuple[int, int], Group] = {}
    for tap in taps:
        layer = _layer(tap.site.module, stacks)
        found = place.get(tuple(_moved(part, stacks) for part in _key(tap)))
        if found is None:
            continue
        at = (found[0], max(layer, LAYERS - 1))
        joined.setdefault(at, []).append(tap)
        like[at] = found[1]
    return [replace(like[at], taps=tuple(found)) for at, found in joined.items()]


def stand_in(model: PublicModel) -> PublicModel:
    """The stand-in, in float32 on the CPU; its vocabulary is cut as well."""
    module = copy.deepcopy(model.module)
    vocabulary = model.vocabulary
    for stack in _stacks(model):
        parent, _, own = stack.rpartition(".")
        setattr(module.get_submodule(parent), own, nn.ModuleList(list(module.get_submodule(stack))[:LAYERS]))  # type: ignore[call-overload]
    _cut_prefix(module)
    generator = torch.Generator().manual_seed(0)
    made: dict[int, nn.Parameter] = {}  # shared tensors stay shared
    for layer in module.modules():
        for name, parameter in list(layer._parameters.items()):
            if parameter is not None:
                if id(parameter) not in made:
                    shape = [min(size, VOCABULARY) if size == vocabulary else size for size in parameter.shape]
                    made[id(parameter)] = nn.Parameter(_values(name, shape, generator), requires_grad=parameter.requires_grad)
                layer._parameters[name] = made[id(parameter)]
        for name, buffer in list(layer._buffers.items()):
            if buffer is not None and buffer.is_meta:
                layer._buffers[name] = _buffer(name, buffer, generator)
        if isinstance(layer, nn.Embedding) and layer.padding_idx is not None and layer.padding_idx >= layer.weight.shape[0]:
            layer.padding_idx = None
    return PublicModel(module.eval(), model.tokenizer, model.task)


def _cut_prefix(module: nn.Module) -> None:
    """Keys and values of a trained prefix for as many layers as there still are."""
    for name, config in getattr(module, "peft_config", {}).items():
        if config.peft_type == "PREFIX_TUNING" and not config.prefix_projection:
            config.num_layers = min(config.num_layers, LAYERS)
            embedding = module.prompt_encoder[name].embedding  # type: ignore[index, union-attr]
            embedding.weight = nn.Parameter(embedding.weight[:, : 2 * config.num_layers * config.token_dim].detach())


def _values(name: str, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    if len(shape) == 1:
        return (0.0 if name == "bias" else 1.0) + 0.1 * torch.randn(*shape, generator=generator)
    vector = 0.05 * torch.randn(sum(shape), generator=generator)
    return vector.as_strided(list(shape), [1] * len(shape))


def _buffer(name: str, buffer: Tensor, generator: torch.Generator) -> Tensor:
    if buffer.is_floating_point():  # the frequencies of rotations
        return torch.rand(buffer.shape, generator=generator) + 0.1
    if "position" in name:
        return torch.arange(buffer.shape[-1]).expand(buffer.shape)
    return torch.zeros(buffer.shape, dtype=buffer.dtype)


def _stacks(model: PublicModel) -> list[str]:
    """Names of the lists of layers."""
    count = model.config.num_hidden_layers
    lists = [(name, m) for name, m in model.module.named_modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    return [name for name, _ in lists] if count > LAYERS else []


def _layer(name: str, stacks: Sequence[str]) -> int:
    for stack in stacks:
        found = re.match(re.escape(stack) + r"\.(\d+)(\.|$)", name)
        if found:
            return int(found[1])
    return 0


def _moved(name: str, stacks: Sequence[str]) -> str:
    """The name with a later layer's number replaced by the second's."""
    for stack in stacks:
        name = re.sub(f"({re.escape(stack)}\\.)(\\d+)(?=\\.|$)", lambda m: f"{m[1]}{min(int(m[2]), LAYERS - 1)}", name)
    return name


def _key(tap: Tap) -> tuple[str, ...]:
    return tap.kind, tap.space, tap.site.module, *tap.parameters
