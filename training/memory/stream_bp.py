"""StreamBP: exact gradients of a language model with the memory of a chunk of the sequence.

Layers keep their input alone and run again chunk by chunk in the backward pass (stream_layers.py); the loss is computed with
the logits of one chunk at a time (stream_logits.py). Both are sums over positions taken in another order, so nothing is
approximated. Log-probabilities for preference training are in stream_preferences.py.

    with StreamBP(model):                       # a user's own loop, or Trainer(model, ...).train()
        loss = model(input_ids, attention_mask=mask, labels=labels).loss
        loss.backward()

Defaults (the authors' code, Ledzy/StreamBP): 100 positions of logits; a third of the sequence for layers, here at most 1024,
where a later chunk needs a written mask of chunk x T (padding, packing, autocast, a CPU). Larger logit chunks cost memory
chunk x V and save time on a GPU. Liger and cut-cross-entropy, whose kernels fuse head and loss, are not wrapped. Models of
transformers by their public calls only; anything else is refused.

Padding that sees no key at all (to the left) has no attention that is agreed on: kernels differ there, so label its predictions
-100, the first real token included.
"""

from __future__ import annotations

import functools
import inspect
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from zkaudit.training.errors import TrainingError
from zkaudit.training.memory.stream_layers import CACHES, streamed_forward, visible_keys
from zkaudit.training.memory.stream_logits import IGNORED, summed_loss
from zkaudit.training.method import Method

METHOD = Method(
    name="stream-bp",
    title="StreamBP",
    paper="Luo, Li, Zhao and Li 2025, arXiv:2506.03077",
    where="zkaudit.training.memory.stream_bp.StreamBP",
    changes=("memory",),
    effect="2.8 to 5.5 times longer sequences than gradient checkpointing in the same memory, in equal or less time.",
    library="",
    provable="Yes, as a plain step: the gradient is the same number, only the order of its sums differs.",
    server_sees="The same update as plain training.",
    use="""
with StreamBP(model):  # or around Trainer(model, ...).train()
    model(ids, attention_mask=mask, labels=labels).loss.backward()
with StreamBP(model) as stream:  # DPO, GRPO
    logp = token_log_probabilities(stream, ids, labels, mask)
""",
    avoid=(
        "short sequences, which it makes slower and saves little on; dropout inside layers (GPT-2's default is 0.1); "
        "uses of the logits, which the output lacks. On a GPU raise logit_chunk to 400 for speed"
    ),
)

LAYERS = {  # transformers' class: where its decoder layers are
    "transformers.models.llama.modeling_llama.LlamaForCausalLM": "layers",
    "transformers.models.qwen2.modeling_qwen2.Qwen2ForCausalLM": "layers",
    "transformers.models.qwen3.modeling_qwen3.Qwen3ForCausalLM": "layers",
    "transformers.models.gpt2.modeling_gpt2.GPT2LMHeadModel": "h",
}
_INPUTS = ("input_ids", "inputs_embeds", "attention_mask", "position_ids", "token_type_ids")
_LOSS = ("labels", "shift_labels", "num_items_in_batch", "logits_to_keep", "use_cache", "return_dict", *CACHES)


class StreamBP:
    """While entered, calls of `model` stream. With `labels` the output has `loss` and no logits; without, logits are whole.

    model: LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, GPT2LMHeadModel of transformers, or a PEFT model around one.
    logit_chunk, layer_chunk: positions in a chunk; None is the default above. The model's state_dict is unchanged.
    Raises TrainingError at once for a model, configuration or chunk that cannot be exact, and in a call for inputs that cannot.
    """

    def __init__(self, model: nn.Module, *, logit_chunk: int = 100, layer_chunk: int | None = None) -> None:
        for name, size in (("logit_chunk", logit_chunk), ("layer_chunk", layer_chunk)):
            if size is not None and size < 1:
                raise TrainingError(f"StreamBP's {name} is {size}; it is a number of positions, 1 or more")
        around = getattr(model, "get_base_model", None)
        self.model: Any = around() if around else model
        self.logit_chunk, self.layer_chunk = logit_chunk, layer_chunk
        _refuse(self.model)
        self._active = False

    def __enter__(self) -> StreamBP:
        _refuse(self.model)
        self._own = self.model.forward
        self._layers = _layers(self.model)
        attention = self.model.config._attn_implementation
        for layer in self._layers:
            layer.forward = streamed_forward(layer, self.layer_chunk, attention)

        @functools.wraps(self._own)  # Trainer reads the signature
        def forward(*args: Any, **kwargs: Any) -> Any:
            return self._forward(*args, **kwargs) if self._active else type(self.model).forward(self.model, *args, **kwargs)

        self._ours = self.model.forward = forward
        self._active = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._active = False
        for layer in self._layers:
            del layer.forward
        if vars(self.model).get("forward") is self._ours:  # else somebody wrapped it since, and it now passes calls through
            del self.model.forward

    def hidden_states(self, **inputs: Tensor | None) -> Tensor:
        """The hidden states before the head, (batch, T, width), of the model's own inputs by name; streams where entered."""
        backbone = self.model.base_model
        hidden: Tensor = backbone(**self._streamable(inputs), use_cache=False).last_hidden_state
        return hidden

    @property
    def head(self) -> nn.Module:
        """The module that makes logits of hidden states."""
        head: nn.Module = self.model.get_output_embeddings()
        return head

    def _forward(self, input_ids: Tensor | None = None, **kwargs: Any) -> Any:
        given = {"input_ids": input_ids, **kwargs}
        labels, shifted = given.get("labels"), given.get("shift_labels")
        if labels is None and shifted is None:
            if not torch.is_grad_enabled() or _caches(given):
                return self._own(**given)
            others = {name: value for name, value in given.items() if name not in _INPUTS}
            return self._own(**others | self._streamable(given) | {"use_cache": False})
        for name, value in given.items():
            if name not in _INPUTS + _LOSS and value is not None and value is not False:
                raise TrainingError(f"StreamBP computes the loss without {name!r}; leave it out of the call")
        if _caches(given) or given.get("return_dict") is False or given.get("logits_to_keep"):
            raise TrainingError("StreamBP computes the loss without 'cache', 'logits_to_keep' and 'return_dict=False'")
        if getattr(self.model.loss_function, "__name__", "") != "ForCausalLMLoss":
            raise TrainingError(
                "StreamBP computes the loss of next tokens (ForCausalLMLoss); this model has another loss_function"
            )
        hidden = self.hidden_states(**{name: given.get(name) for name in _INPUTS})
        targets = shifted if shifted is not None else shift(labels)
        count = given.get("num_items_in_batch")
        loss = summed_loss(self.head, hidden, targets, self.logit_chunk)
        loss = loss / ((targets != IGNORED).sum() if count is None else torch.as_tensor(count).to(loss.device))
        from transformers.modeling_outputs import CausalLMOutputWithPast

        return CausalLMOutputWithPast(loss=loss)

    def _streamable(self, given: dict[str, Any]) -> dict[str, Any]:
        """The backbone's inputs, visible_keys in the mask's place: of four dimensions, it reaches the layers as it is."""
        inputs = {name: given[name] for name in _INPUTS if given.get(name) is not None}
        mask = inputs.get("attention_mask")
        if self.model.config._attn_implementation == "eager" and mask is not None and not bool(mask[:, :1].all()):
            raise TrainingError(
                "StreamBP is not exact for left padding with 'eager' attention, whose padding sees later tokens; use 'sdpa'"
            )
        inputs["attention_mask"] = visible_keys(mask, inputs.get("position_ids"))
        return inputs


def shift(labels: Tensor | None) -> Tensor:
    """The token that each position predicts: labels one to the left, -100 at the end; (batch, T)."""
    if labels is None:
        raise TrainingError("StreamBP needs labels")
    return nn.functional.pad(labels, (0, 1), value=IGNORED)[..., 1:]


def _caches(given: dict[str, Any]) -> bool:
    return any(given.get(name) is not None for name in CACHES)


def _kind(model: object) -> str:
    return f"{type(model).__module__}.{type(model).__qualname__}"


def _layers(model: Any) -> list[nn.Module]:
    return list(getattr(model.base_model, LAYERS[_kind(model)]))


def _refuse(model: Any) -> None:
    """Raise TrainingError, in one sentence, for anything whose gradients would not be exact."""
    if _kind(model) not in LAYERS:
        known = ", ".join(name.rpartition(".")[2] for name in LAYERS)
        raise TrainingError(f"StreamBP supports {known}, and this model is a {type(model).__qualname__}")
    if "forward" in vars(model):
        raise TrainingError("the model's forward is replaced already: enter StreamBP once, and before accelerate prepares it")
    if not set(CACHES) & set(inspect.signature(_layers(model)[0].forward).parameters):
        raise TrainingError("StreamBP needs decoder layers that take a cache; those of this transformers take none")
    config = model.config
    if config._attn_implementation not in ("sdpa", "eager"):
        raise TrainingError(f"StreamBP runs attention 'sdpa' or 'eager', and this model has {config._attn_implementation!r}")
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        raise TrainingError("StreamBP does not support sliding-window attention, which this model's layer_types ask for")
    if getattr(config, "add_cross_attention", False):
        raise TrainingError("StreamBP does not support cross attention (add_cross_attention)")
    if getattr(config, "reorder_and_upcast_attn", False):
        raise TrainingError("StreamBP does not support reorder_and_upcast_attn")
    if getattr(config, "is_causal", True) is False:
        raise TrainingError("StreamBP needs causal attention, and this model's configuration has is_causal=False")
    if any(getattr(layer, "gradient_checkpointing", False) for layer in _layers(model)):
        raise TrainingError("StreamBP takes the place of gradient checkpointing: call gradient_checkpointing_disable() first")
