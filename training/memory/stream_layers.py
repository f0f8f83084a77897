"""A decoder layer whose backward pass computes the layer again one chunk of positions at a time.

Forward keeps the layer's input x alone. Backward computes keys K and values V of the whole sequence once, without a graph; then
for chunks from last to first it runs the layer's own forward on x[start:end] with K, V of earlier positions as leaves:
    (dx[start:end], dK[:start], dV[:start], dtheta) += J^T (dy[start:end], dK[start:end], dV[start:end]).
Later chunks have by then put all they owe into dK, dV of this chunk, so that one pass backward is exact. A chunk's queries meet
keys up to its end only, which is half of the attention's work, and one chunk's activations exist at a time.

The layer is not written anew: it is given a `cache` whose `update` hands its attention the earlier keys and values, which is
what every decoder layer of transformers asks a cache for. Keys alone are had by leaving the layer from within `update`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zkaudit.training.errors import TrainingError
from zkaudit.training.memory.stream_chunks import Precision, Sums, chunks, first_derivatives_only

LARGEST_CHUNK = 1024
CACHES = ("cache", "past_key_values")  # what transformers calls a layer's cache: now, and before 5.24
_SLICED = ("position_ids", "attention_mask", "position_embeddings", "hidden_states", *CACHES)


def streamed_forward(layer: nn.Module, chunk: int | None, attention: str) -> Callable[..., Any]:
    """A forward for `layer`, a decoder layer of transformers, that streams; `attention` is "sdpa" or "eager".

    Its `attention_mask` is None or what `visible_keys` made. `chunk` None is a third of the sequence, at most 1024 where later
    chunks need a written mask of chunk x T. A call with a cache, as in generation, is the layer's own.
    """
    own = layer.forward
    signature = inspect.signature(own)
    cache_name = next(name for name in CACHES if name in signature.parameters)

    def forward(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs).arguments
        given: dict[str, Any] = {**bound.pop("kwargs", {}), **bound}
        if given.get(cache_name) is not None:
            return own(*args, **kwargs)
        hidden = given["hidden_states"]
        _refuse_dropout(layer)
        trained = [parameter for parameter in layer.parameters() if parameter.requires_grad]
        call = _Pass(own, given, cache_name, chunk, attention, Precision(hidden.device.type))
        return _Streamed.apply(call, hidden, *trained)  # type: ignore[no-untyped-call]

    return forward


def visible_keys(attention_mask: Tensor | None, position_ids: Tensor | None) -> Tensor:
    """Which keys a query may see besides the causal rule, in T numbers instead of T x T.

    (batch, 1, 1, T) of booleans for a padding mask (batch, T); of integers that number the sequences where position_ids
    (batch, T) show several packed into a row and there is no mask, as transformers reads them; (1, 1, 1, 1) if all are visible.
    """
    if attention_mask is not None and attention_mask.ndim != 2:
        raise TrainingError(f"StreamBP takes an attention_mask of (batch, T), not one of {attention_mask.ndim} dimensions")
    if attention_mask is not None and not bool(attention_mask.all()):
        return attention_mask.bool()[:, None, None, :]
    if attention_mask is None and position_ids is not None:
        breaks = torch.diff(position_ids, prepend=position_ids[:, :1] - 1, dim=-1) != 1
        if bool(breaks.any()):
            return breaks.cumsum(-1)[:, None, None, :]
    return torch.ones(1, 1, 1, 1, dtype=torch.bool)


def _refuse_dropout(layer: nn.Module) -> None:
    """Dropout drawn chunk by chunk is not the dropout of a plain pass."""
    if not layer.training:
        return
    for name, module in layer.named_modules():
        share = module.p if isinstance(module, nn.Dropout) else getattr(module, "attention_dropout", 0.0)
        if share:
            raise TrainingError(f"StreamBP needs dropout 0 inside decoder layers, and {name or 'the layer'} has {share}")


@dataclass(frozen=True)
class _Pass:
    """One call of a layer: its own forward, what it was given, and how it is cut."""

    own: Callable[..., Any]
    given: Mapping[str, Any]
    cache_name: str
    chunk: int | None
    attention: str
    precision: Precision

    def on(self, hidden: Tensor, start: int, cache: Any) -> Tensor:
        """The layer on `hidden`, the positions from `start` on."""
        end = start + hidden.shape[1]
        rest = {name: value for name, value in self.given.items() if name not in _SLICED}
        if (positions := self.given.get("position_ids")) is not None:
            rest["position_ids"] = positions[:, start:end]
        if (rotations := self.given.get("position_embeddings")) is not None:
            rest["position_embeddings"] = tuple(part[:, start:end] for part in rotations)
        rest[self.cache_name] = cache
        output: Tensor = self.own(hidden, attention_mask=self._mask(start, end, hidden), **rest)
        return output

    def pieces(self, hidden: Tensor) -> list[tuple[int, int]]:
        """(start, end) of each chunk."""
        third = -(-hidden.shape[1] // 3)
        return chunks(hidden.shape[1], self.chunk or (third if self._unwritten(hidden) else min(third, LARGEST_CHUNK)))

    def _unwritten(self, hidden: Tensor) -> bool:
        """Whether CUDA's kernels can be told of the causal rule alone; autocast casts no inputs on that way in."""
        return self.attention == "sdpa" and hidden.is_cuda and not self.precision.enabled and self._seen() is None

    def _seen(self) -> Tensor | None:
        """What `visible_keys` made, None if all keys are visible."""
        seen: Tensor | None = self.given.get("attention_mask")
        if seen is not None and seen.shape[-2] != 1:
            raise TrainingError("StreamBP reads the attention mask from the model's call; call the model, not its backbone")
        return None if seen is None or seen.shape[-1] == 1 else seen

    def _mask(self, start: int, end: int, hidden: Tensor) -> Tensor | None:
        seen = self._seen()
        if self.attention == "sdpa" and start == 0 and seen is None:
            return None
        if self._unwritten(hidden):
            from torch.nn.attention.bias import causal_lower_right  # loads torch's compiler, seconds that only this needs

            return causal_lower_right(end - start, end)
        places = torch.arange(end, device=hidden.device)
        mask = (places[None, :] <= places[start:, None])[None, None]
        if seen is not None:
            seen = seen.to(hidden.device)
            mask = mask & (seen[..., :end] if seen.dtype == torch.bool else _same(seen, start, end))
        if self.attention == "sdpa":
            return mask
        return torch.zeros_like(mask, dtype=hidden.dtype).masked_fill_(~mask, torch.finfo(hidden.dtype).min)


def _same(sequence: Tensor, start: int, end: int) -> Tensor:
    return sequence[..., :end] == sequence[..., start:end].transpose(-1, -2)


class _Streamed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Pass, hidden: Tensor, *trained: Tensor) -> Tensor:
        ctx.call, ctx.trained = call, trained
        ctx.save_for_backward(hidden)
        output, cache = torch.empty_like(hidden), _AllKeys(hidden.shape[1])
        with call.precision.entered():
            for start, end in call.pieces(hidden):
                output[:, start:end] = call.on(hidden[:, start:end], start, cache)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        first_derivatives_only()
        call: _Pass = ctx.call
        (hidden,) = ctx.saved_tensors
        pieces = call.pieces(hidden)
        wanted, sums, hidden_gradient = ctx.needs_input_grad[1], Sums(ctx.trained), torch.empty_like(hidden)
        with call.precision.entered():
            earlier = _keys_and_values(call, hidden, pieces[:-1])
            owed = [torch.zeros_like(part, dtype=torch.promote_types(part.dtype, torch.float32)) for part in earlier]
            for start, end in reversed(pieces):
                part = hidden[:, start:end].detach().requires_grad_(wanted)
                before = [whole[:, :, :start].detach().requires_grad_() for whole in earlier] if start else []
                cache = _ChunkKeys(before)
                with torch.enable_grad():
                    output = call.on(part, start, cache)
                pairs = [(output, gradient[:, start:end])]
                if end < hidden.shape[1]:
                    pairs += [(now, due[:, :, start:end].to(now.dtype)) for now, due in zip(cache.own, owed, strict=True)]
                first, *others = _gradients(pairs, [part, *before, *ctx.trained])
                hidden_gradient[:, start:end] = 0 if first is None else first
                for due, more in zip(owed, others[: len(before)], strict=False):
                    due[:, :, :start] += 0 if more is None else more
                sums.add(others[len(before) :])
        return None, hidden_gradient if wanted else None, *sums.totals()


def _gradients(pairs: list[tuple[Tensor, Tensor]], inputs: list[Tensor]) -> list[Tensor | None]:
    """The product of `pairs` (output, its gradient) with the Jacobian, in each of `inputs`; None where there is none."""
    pairs = [(output, gradient) for output, gradient in pairs if output.requires_grad]
    asked = [place for place, tensor in enumerate(inputs) if tensor.requires_grad]
    found = torch.autograd.grad(
        [output for output, _ in pairs], [inputs[place] for place in asked], [due for _, due in pairs], allow_unused=True
    )
    answers: list[Tensor | None] = [None] * len(inputs)
    for place, answer in zip(asked, found, strict=True):
        answers[place] = answer
    return answers


def _keys_and_values(call: _Pass, hidden: Tensor, pieces: list[tuple[int, int]]) -> list[Tensor]:
    """Keys and values of all positions of `pieces`, (batch, heads, positions, head width) each; none if there are no pieces."""
    if not pieces:
        return []
    cache = _AllKeys(pieces[-1][1], leave=True)
    for start, end in pieces:
        try:
            call.on(hidden[:, start:end], start, cache)
        except _KeysKnown:
            continue
        raise TrainingError("StreamBP met a decoder layer that asked its cache for nothing; its architecture is not supported")
    return cache.whole


class _KeysKnown(Exception):
    """Leaves a layer whose keys are all that was wanted."""


class _AllKeys:
    """A cache that writes keys and values of successive chunks into whole tensors, without a graph."""

    def __init__(self, length: int, leave: bool = False) -> None:
        self.length, self.leave, self.filled = length, leave, 0
        self.whole: list[Tensor] = []

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        new = (keys, values)
        if not self.whole:
            self.whole = [part.new_empty(*part.shape[:2], self.length, part.shape[3]) for part in new]
        start, self.filled = self.filled, self.filled + keys.shape[2]
        for whole, part in zip(self.whole, new, strict=True):
            whole[:, :, start : self.filled] = part
        if self.leave:
            raise _KeysKnown
        seen_keys, seen_values = (whole[:, :, : self.filled] for whole in self.whole)
        return seen_keys, seen_values


class _ChunkKeys:
    """A cache with keys and values `before` a chunk, as leaves of its graph; `own` are the chunk's."""

    def __init__(self, before: list[Tensor]) -> None:
        self.before = before
        self.own: list[Tensor] = []

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.own = [keys, values]
        if not self.before:
            return keys, values
        old_keys, old_values = self.before
        return torch.cat([old_keys, keys], dim=2), torch.cat([old_values, values], dim=2)
