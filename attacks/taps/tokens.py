"""Tensors with a row for each token of the vocabulary: their update says which tokens were in the batch, however many.

    input embedding              row v is non-zero only if token v was fed in
    LoRA on it, A (r x V)        column v likewise; B is not zero at the start, so even in the first round
    trainable token indices      likewise, for the tokens listed
    output head (V x d)          row v is sum_t (p_tv - [v is t's target]) h_t: targets stand out
    its bias (V)                 sum_t (p_tv - [v is t's target]): negative for targets alone
    embedding and head tied      the sum of both: inputs and targets stand out

The rows of tokens that are neither point along sum_t p_tv h_t, almost one direction for all; the score is what is left of a
row without it. (The sign rule of iDLG, Zhao et al. 2020, for many labels; FILM, Gupta et al. 2022, for embeddings.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.taps.tap import State


@dataclass(frozen=True)
class TokenLeak:
    """`token_scores(update)` is (V,), larger for likelier tokens; 0 rules a token out where `exact`, for all listed tokens."""

    kind: str
    parameter: str
    shows: Literal["inputs", "targets", "inputs and targets"]
    exact: bool  # a token scores above 0 if and only if it was in the batch (and is listed)
    token_scores: Callable[[State], Tensor]
    explanation: str
    listed: tuple[int, ...] | None = None  # the only tokens it can show, if not all


def token_leaks(model: PublicModel) -> list[TokenLeak]:
    """All tensors of the model that show its tokens."""
    trainable = model.trainable()
    inputs, outputs = model.base.get_input_embeddings(), model.base.get_output_embeddings()  # type: ignore[operator]
    tied = outputs is not None and _weight(outputs) is _weight(inputs)
    found = list(_embedding(model, inputs, tied, trainable))
    if outputs is not None:
        found += [leak for leak in _head(model, outputs, trainable) if leak.parameter not in {x.parameter for x in found}]
    return found


def _embedding(model: PublicModel, layer: nn.Module, tied: bool, trainable: dict[str, nn.Parameter]) -> Iterator[TokenLeak]:
    for name, local, parameter in _own(model, layer, trainable):
        if "lora_embedding_A" in local:
            why = "a column of its gradient is non-zero only if that token was fed in, from the first round on"
            yield TokenLeak("LoRA on embedding", name, "inputs", True, _columns(name), why)
        elif "trainable_tokens_delta" in local:
            listed = tuple(int(token) for token in _listed(layer, local.rsplit(".", 1)[-1]))
            why = "its rows are non-zero only for those of the listed tokens that the batch holds"
            if tied:
                why = "it is also the output head's: the rows of those listed tokens that the batch holds stand out"
            shows: Any = "inputs and targets" if tied else "inputs"
            yield TokenLeak("trainable tokens", name, shows, not tied, _some_rows(name, listed, model.vocabulary), why, listed)
        elif local.endswith("weight") and parameter.shape[:1] == (model.vocabulary,):
            if tied and "modules_to_save" not in local:
                why = "it is also the output head: every row moves a little, those of the batch's tokens stand out"
                yield TokenLeak("tied embedding", name, "inputs and targets", False, _rows(name, parameter), why)
            else:
                why = "a row of its gradient is non-zero only if that token was fed in"
                yield TokenLeak("trained embedding", name, "inputs", True, _rows(name, parameter), why)


def _head(model: PublicModel, layer: nn.Module, trainable: dict[str, nn.Parameter]) -> Iterator[TokenLeak]:
    for name, local, parameter in _own(model, layer, trainable):
        if parameter.shape[:1] != (model.vocabulary,):
            continue
        if parameter.dim() == 1:
            why = "an entry of its gradient is negative only for tokens that were targets"
            yield TokenLeak("output bias", name, "targets", False, _signs(name), why)
        elif "lora_B" in local:
            why = "row v of its gradient is sum_t (p_tv - [v is t's target]) A h_t: the targets' stand out"
            yield TokenLeak("LoRA on head", name, "targets", False, _rows(name, parameter), why)
        elif parameter.dim() == 2:
            why = "row v of its gradient is sum_t (p_tv - [v is t's target]) h_t: the targets' stand out"
            yield TokenLeak("trained head", name, "targets", False, _rows(name, parameter), why)


def _own(model: PublicModel, layer: nn.Module, trainable: dict[str, nn.Parameter]) -> Iterator[tuple[str, str, nn.Parameter]]:
    """The trainable tensors in a layer: the name in the model, in the layer, and the tensor."""
    names = {id(parameter): name for name, parameter in trainable.items()}
    for local, parameter in layer.named_parameters():
        if id(parameter) in names:
            yield names[id(parameter)], local, parameter


def _weight(layer: nn.Module) -> Any:
    """The base model's weight under peft's wrappers."""
    for inner in ("base_layer", "original_module"):
        layer = getattr(layer, inner, layer)
    return getattr(layer, "weight", None)


def _listed(layer: nn.Module, adapter: str) -> Any:
    return layer.token_adapter.token_indices[adapter]  # type: ignore[union-attr, index]


def _columns(name: str) -> Callable[[State], Tensor]:
    return lambda update: update[name].double().norm(dim=0)


def _rows(name: str, start: nn.Parameter) -> Callable[[State], Tensor]:
    return lambda update: standing_out(update[name], start.detach())


def _some_rows(name: str, listed: tuple[int, ...], vocabulary: int) -> Callable[[State], Tensor]:
    def scores(update: State) -> Tensor:
        norms: Tensor = update[name].double().norm(dim=1)
        result: Tensor = norms.new_zeros(vocabulary)
        result[list(listed)] = norms
        return result

    return scores


def _signs(name: str) -> Callable[[State], Tensor]:
    def scores(update: State) -> Tensor:
        value = update[name].double()
        return -value * value.median().sign()  # most entries are of tokens that were no target: a delta's sign is the other one

    return scores


def standing_out(rows: Tensor, start: Tensor) -> Tensor:
    """How far each row (V, d) stands out: its norm if most rows are zero; else the norm of what is left of it without the
    direction that the weakest half has in common, and without its own start value, along which weight decay pulls; (V,)."""
    rows = rows.double()
    norms: Tensor = rows.norm(dim=1)
    if norms.median() == 0:
        return norms
    own = start.to(rows.device).double()
    own = own / own.norm(dim=1, keepdim=True).clamp_min(1e-300)
    rows = rows - (rows * own).sum(dim=1, keepdim=True) * own
    weakest = rows[rows.norm(dim=1).argsort()[: len(rows) // 2]]
    common = weakest.sum(dim=0)
    common = common / common.norm().clamp_min(1e-300)
    rest: Tensor = (rows - torch.outer(rows @ common, common)).norm(dim=1)
    return rest
