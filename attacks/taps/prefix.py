"""Prefix tuning: trained keys and values before each sequence, in every layer and head.

The score of query i at trained key j is q_i k_j / sqrt(d): the gradient of k_j is a combination of the queries, head by head.
The gradient of a value is a combination of errors and shows no input. Behind a projection (`prefix_projection`) the keys are
outputs of a network whose weights mix all layers and heads: nothing is left to read.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.sites import Site
from zkaudit.attacks.taps.tap import State, Tap


def keys(name: str, module: nn.Module, trainable: set[str], model: PublicModel) -> Iterator[Tap]:
    """One tap a layer and head. None where several heads of queries share one of keys: each row then mixes their queries.

    Also takes what else a prompt encoder trains from the other finders: its layers read no tokens.
    """
    parameters = {p for p in trainable if p.startswith(f"{name}.")} if name.startswith("prompt_encoder.") else set()
    if not parameters:
        return
    trainable -= parameters
    config = model.module.peft_config.get(name.split(".")[1])  # type: ignore[union-attr, operator]
    if config is None or config.peft_type != "PREFIX_TUNING" or config.prefix_projection:
        return
    weight = f"{name}.embedding.weight"
    heads, layers, length = config.num_attention_heads, config.num_layers, config.num_virtual_tokens
    width = config.token_dim // heads
    attentions = attention_modules(model)
    if len(attentions) != layers or model.config.num_attention_heads != heads:
        return
    for layer, attention in enumerate(attentions):
        for head in range(heads):

            def rows(update: State, layer: int = layer, head: int = head) -> Tensor:
                return update[weight].view(length, 2 * layers, heads, width)[:, 2 * layer, head]

            def view(x: Tensor, _start: State, head: int = head) -> Tensor:
                return x[..., head * width : (head + 1) * width]

            yield Tap(
                "prefix keys",
                (weight,),
                Site(attention, query=True),
                min(length, width),
                rows,
                view,
                f"head {head}",
                "the gradient of a trained key is a combination of the queries of its head, here rotated by position "
                "if the model rotates them",
            )


def attention_modules(model: PublicModel) -> list[str]:
    """Names of the self-attentions, in the order of the layers."""
    found: dict[int, str] = {}
    for name, module in model.module.named_modules():
        index = getattr(module, "layer_idx", None)
        if isinstance(index, int) and hasattr(module, "scaling") and not getattr(module, "is_cross_attention", False):
            found.setdefault(index, name)
    return [found[index] for index in sorted(found)]
