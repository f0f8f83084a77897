"""LoRA: W + (alpha / r) B A with W frozen, A random, B = 0. The layers are peft's; this adds what training from scratch needs.

peft freezes all that it does not adapt and copies what it is asked to train in full. As a baseline from scratch, embeddings,
norms and biases must train too: `rest=True` lets them, in place, without a copy. Defaults: rank 8, alpha 2 r, every linear
layer but the output head (peft's "all-linear")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method

METHOD = Method(
    name="lora",
    title="LoRA",
    paper="Hu et al. 2021, arXiv:2106.09685",
    where="zkaudit.training.low_rank.lora.lora",
    changes=("memory",),
    effect="fine-tuning of GPT-3 175B with 10000 times fewer trained parameters and 3 times less memory",
    library="peft (wrapped)",
    provable="Yes, over frozen, committed weights, in exact fixed point: docs/proved-methods.md.",
    server_sees="Gradients of the factors: r directions a layer.",
    use=(
        "from zkaudit.training.low_rank.lora import lora\n"
        "\n"
        "model = lora(model, rank=16)  # fine-tuning: a peft model\n"
        "model = lora(model, rank=16, rest=True)  # from scratch: embeddings and norms train too"
    ),
    avoid="From scratch the update stays at rank r: SwitchLoRA goes past it.",
)


def lora(
    model: nn.Module,
    rank: int = 8,
    *,
    alpha: float | None = None,
    targets: Sequence[str] = (),
    rest: bool = False,
    **options: Any,
) -> nn.Module:
    """`model` as a peft model; `options` go to `peft.LoraConfig`. With `rest`, all but the adapted weights stays trainable.

    Raises TrainingError if peft is missing or takes none of the targets."""
    try:
        import peft
    except ImportError:
        raise TrainingError("lora needs peft: pip install peft") from None
    if rank < 1:
        raise TrainingError(f"rank is {rank}: it must be at least 1")
    trained = [p for p in model.parameters() if p.requires_grad]
    config = peft.LoraConfig(
        r=rank, lora_alpha=2 * rank if alpha is None else alpha, target_modules=list(targets) or "all-linear", **options
    )
    try:
        adapted: nn.Module = peft.get_peft_model(model, config)
    except ValueError as error:
        raise TrainingError(f"peft cannot adapt targets {list(targets)}: {error}") from error
    if rest:
        layers = [module for module in adapted.modules() if isinstance(module, peft.tuners.lora.LoraLayer)]
        inside = {id(layer.get_base_layer().weight) for layer in layers}
        for p in trained:
            p.requires_grad_(id(p) not in inside)
    return adapted
