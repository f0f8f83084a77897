"""Block pruning: whole residual blocks are left out of a trained model, which is then distilled (AMD-Hummingbird, Isobe et
al. 2025, arXiv 2503.18559).

A residual block computes x + f(x), and without it x goes on. The impact of block b on a batch is how far the model's output
moves when b alone is skipped,

    impact(b) = || model without b (x) - model(x) || / || model(x) ||

and the blocks of least impact are dropped; of equal ones the earlier. Hummingbird drops by structure, one of two residual
blocks at each level of a video U-Net, then the middle one (0.9B and 0.7B parameters of 1.4B); a list of names does that. A
block whose output has another shape than its input needs a replacement, such as a projection. What is dropped is trained again
against the whole model: objectives/feedback_distillation.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method

METHOD = Method(
    name="block-pruning",
    title="Block pruning",
    paper="Isobe et al. 2025, arXiv 2503.18559",
    where="zkaudit.training.models.block_pruning.drop_blocks",
    changes=("model", "speed", "memory"),
    effect="A text-to-video U-Net of 1.4B parameters becomes one of 0.7B, 31 times faster than VideoCrafter2.",
    library="",
    provable="The dropped blocks' relations go away, so a step's proof costs less in proportion; which went is declared.",
    server_sees="The gradient of a smaller model; the impacts are computed on a batch and need not be shown.",
    use=(
        "from zkaudit.training.models.block_pruning import drop_blocks, rank_blocks\n"
        "\n"
        'ranked = rank_blocks(model, [f"layers.{i}" for i in range(12)], lambda m: m(batch))  # least impact first\n'
        "drop_blocks(model, [block.name for block in ranked[:4]])"
    ),
    avoid="Models that will not be trained again after: quality falls at once. Text generation with a cache of dropped layers.",
    binding="declared",
)


class Ranked(NamedTuple):
    """A block and its impact, relative to the output."""

    name: str
    impact: float


class Skip(nn.Module):
    """In a block's place: gives back its first input, in a tuple if the block gave one. Other inputs are ignored."""

    def __init__(self, in_tuple: bool = False) -> None:
        super().__init__()
        self.in_tuple = in_tuple

    def forward(self, hidden: Tensor, *others: Any, **named: Any) -> Any:
        return (hidden,) if self.in_tuple else hidden


@torch.no_grad()
def rank_blocks(model: nn.Module, names: Sequence[str], output: Callable[[nn.Module], Tensor]) -> list[Ranked]:
    """The named blocks, least impact first. `output` runs the model on a batch and gives one tensor, such as the logits.

    The model is used as it is, and must be in evaluation mode if it has dropout; it is unchanged after. Raises TrainingError
    for a name that is none of its modules, and for a block whose output has another shape than its input.
    """
    _check_names(model, names)
    kinds = {name: _kind(model, name, output) for name in names}
    whole = output(model)
    size = float(whole.norm())
    if not size > 0:
        raise TrainingError("the model's output is 0 on this batch: impacts have nothing to be relative to")
    impacts = []
    for name in names:
        with _replaced(model, name, Skip(kinds[name])):
            impacts.append(Ranked(name, float((output(model) - whole).norm()) / size))
    return sorted(impacts, key=lambda ranked: ranked.impact)  # stable: of equal ones the earlier is first


def drop_blocks(
    model: nn.Module, names: Sequence[str], replacements: Mapping[str, nn.Module] | None = None, in_tuple: bool = False
) -> int:
    """Put `replacements` in the place of the named blocks, Skip where there is none; returns how many parameters went.

    `in_tuple` is for blocks that return a tuple. Raises TrainingError for a name that is no module, or is named twice, or lies
    inside another, and for a replacement of a block that is not dropped.
    """
    _check_names(model, names)
    given = dict(replacements or {})
    if unused := set(given) - set(names):
        raise TrainingError(f"there is a replacement for {min(unused)!r}, which is not dropped")
    before = sum(parameter.numel() for parameter in model.parameters())
    for name in names:
        model.set_submodule(name, given.get(name) or Skip(in_tuple))
    return before - sum(parameter.numel() for parameter in model.parameters())


def _check_names(model: nn.Module, names: Sequence[str]) -> None:
    known = {name for name, _ in model.named_modules() if name}
    for name in names:
        if name not in known:
            raise TrainingError(f"{name!r} is none of the model's modules")
        if names.count(name) > 1 or any(name.startswith(f"{other}.") for other in names):
            raise TrainingError(f"block {name!r} is named twice, or lies in another one that is")


def _kind(model: nn.Module, name: str, output: Callable[[nn.Module], Tensor]) -> bool:
    """Whether the block returns a tuple. TrainingError if it does not run, or cannot be skipped."""
    seen: list[bool] = []

    def look(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], result: Any) -> None:
        first = args[0] if args else next(iter(named.values()), None)
        hidden = result[0] if isinstance(result, tuple) else result
        if not isinstance(first, Tensor) or not isinstance(hidden, Tensor) or first.shape != hidden.shape:
            raise TrainingError(f"block {name!r} changes the shape of its input: it needs a replacement to be dropped")
        seen.append(isinstance(result, tuple))

    handle = model.get_submodule(name).register_forward_hook(look, with_kwargs=True)
    try:
        output(model)
    finally:
        handle.remove()
    if not seen:
        raise TrainingError(f"block {name!r} did not run on this batch")
    return seen[0]


@contextmanager
def _replaced(model: nn.Module, name: str, module: nn.Module) -> Iterator[None]:
    old = model.get_submodule(name)
    model.set_submodule(name, module)
    try:
        yield
    finally:
        model.set_submodule(name, old)
