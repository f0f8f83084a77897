"""Sites: places in a model where a module reads its input, and what that input depends on.

Whether an input is a function of one token, of a token and its position, of all tokens before it or of the whole sequence is
found by trying: the model runs on sequences that differ in just that. So it holds for any architecture. Runs stop at the site.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.model import PublicModel

LENGTH = 6  # of the sequences that probe
AGREE = 4  # tokens at the front that two of them share


class Dependence(IntEnum):
    """What the input at one position is a function of; each includes those before it."""

    TOKEN = 0
    POSITION = 1  # the token and its position
    PREFIX = 2  # the tokens up to here
    SEQUENCE = 3  # all tokens


@dataclass(frozen=True)
class Site:
    """The input (or output) of the module of this name; inputs are (B, T, `width`).

    With `query` the module is an attention and the site its queries as they meet the keys: rotated where the model does that,
    the heads side by side, (B, T, heads x width of one).
    """

    module: str
    output: bool = False
    query: bool = False


class _Reached(Exception):
    """The forward pass has come as far as it is needed."""


@torch.no_grad()
def activations(model: PublicModel, sites: Sequence[Site], ids: Tensor, positions: Tensor | None = None) -> list[Tensor]:
    """What the sites see when the model, without dropout, runs on `ids` (B, T): a tensor (B, T, width) for each site.

    `positions` (B, T) are position ids where they are not 0, 1, 2...; the pass stops once the last site was reached. Where
    peft puts a trained prefix before each sequence it is there too, and positions count from its end.
    """
    found: dict[Site, Tensor] = {}
    wanted = set(sites)

    def keep(site: Site, value: Tensor) -> None:
        found[site] = value.detach()
        if len(found) == len(wanted):
            raise _Reached

    handles = [_hook(model.module, site, keep) for site in wanted if not site.query]
    training = model.module.training
    model.module.eval()
    try:
        with _queries(model.module, [site for site in wanted if site.query], keep):
            model.base(input_ids=ids, **_context(model.module, ids, positions))
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()
        model.module.train(training)
    missing = [site.module for site in wanted if site not in found]
    if missing:
        raise AuditError(f"the model never runs '{missing[0]}', so nothing can be said about its input")
    return [found[site] for site in sites]


def _hook(module: nn.Module, site: Site, keep: Callable[[Site, Tensor], None]) -> torch.utils.hooks.RemovableHandle:
    try:
        target = module.get_submodule(site.module)
    except AttributeError:
        raise AuditError(f"the model has no module '{site.module}'") from None
    if site.output:
        return target.register_forward_hook(lambda _m, _args, result: keep(site, result))

    def before(_module: nn.Module, args: tuple[Tensor, ...], options: dict[str, Tensor]) -> None:
        keep(site, args[0] if args else options["hidden_states"])

    return target.register_forward_pre_hook(before, with_kwargs=True)


def _context(module: nn.Module, ids: Tensor, positions: Tensor | None) -> dict[str, Any]:
    """Arguments of a forward pass besides the ids: positions, and peft's prefix of keys and values."""
    config = getattr(module, "active_peft_config", None)
    if getattr(config, "peft_type", None) != "PREFIX_TUNING":
        return {} if positions is None else {"position_ids": positions}
    length = config.num_virtual_tokens  # type: ignore[union-attr]
    mask = torch.ones(ids.shape[0], length + ids.shape[1], dtype=torch.long, device=ids.device)
    context = {"past_key_values": module.get_prompt(ids.shape[0]), "attention_mask": mask}  # type: ignore[operator]
    return context if positions is None else context | {"position_ids": positions + length}


@contextlib.contextmanager
def _queries(module: nn.Module, sites: Sequence[Site], keep: Callable[[Site, Tensor], None]) -> Iterator[None]:
    """Within the context the queries of these attentions are kept: the function that transformers calls for them is wrapped."""
    if not sites:
        yield
        return
    wanted = {module.get_submodule(site.module): site for site in sites}
    name = next(iter(wanted)).config._attn_implementation  # type: ignore[union-attr]
    usual = ALL_ATTENTION_FUNCTIONS.get(name)

    def attention(layer: nn.Module, query: Tensor, *arguments: Any, **options: Any) -> Any:
        if layer in wanted:
            keep(wanted[layer], query.transpose(1, 2).flatten(2))
        inner = usual or sys.modules[type(layer).__module__].eager_attention_forward
        return inner(layer, query, *arguments, **options)

    ALL_ATTENTION_FUNCTIONS[name] = attention
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS[name]


def dependence(model: PublicModel, site: Site) -> Dependence:
    """What one position of the site's activations is a function of."""
    return dependences(model, [site])[0]


def dependences(model: PublicModel, sites: Sequence[Site]) -> list[Dependence]:
    """The same for many sites, found in two forward passes. A site with one vector for a whole record depends on all of it."""
    if not sites:
        return []
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.vocabulary, (3, LENGTH), generator=generator)
    ids[1, 1::2] = ids[0, 1::2]  # row 1: every other token is row 0's
    ids[2, :AGREE] = ids[0, :AGREE]  # row 2: other tokens behind
    seen = activations(model, sites, ids.to(model.device))
    positions = torch.arange(LENGTH).expand(1, -1) + 3
    moved = activations(model, sites, ids[:1].to(model.device), positions.to(model.device))
    return [_dependence(a.double(), b.double()) for a, b in zip(seen, moved, strict=True)]


def _dependence(seen: Tensor, moved: Tensor) -> Dependence:
    if seen.dim() < 3:
        return Dependence.SEQUENCE

    def same(a: Tensor, b: Tensor) -> bool:
        return bool((a - b).norm() <= 1e-5 * (a.norm() + b.norm()))

    if not same(seen[0, :AGREE], seen[2, :AGREE]):
        return Dependence.SEQUENCE
    if not same(seen[0, 1::2], seen[1, 1::2]):
        return Dependence.PREFIX
    return Dependence.TOKEN if same(seen[0], moved[0]) else Dependence.POSITION


def token_activations(model: PublicModel, site: Site, position: int | None = None, block: int = 4096) -> Tensor:
    """The activation of every token of the vocabulary, (V, width), at a site that sees one token (at this position)."""
    ids = torch.arange(model.vocabulary, device=model.device)
    parts = []
    for start in range(0, len(ids), block):
        part = ids[start : start + block, None]
        positions = torch.full_like(part, position or 0)
        parts.append(activations(model, [site], part, positions)[0][:, 0])
    return torch.cat(parts)
