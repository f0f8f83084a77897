"""What a step of each optimizer and context costs beside one of plain AdamW: all on one small Llama, in one run, in turns.

Times are the processor's for forward, backward and step, the best of ROUNDS; each round takes every way once, so that whatever
else the machine does falls on all alike. Methods that change the number or the size of steps are no matter of this file."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from methods.check import Check, Measured
from methods.realistic import batches
from torch import nn
from torch.optim import AdamW, Optimizer

from zkaudit.training.fp8.activations import ActivationOptions, compress_activations
from zkaudit.training.fp8.states import CoatAdamW
from zkaudit.training.loop import train
from zkaudit.training.low_rank.factorised import low_rank
from zkaudit.training.low_rank.lora import lora
from zkaudit.training.low_rank.sltrain import sltrain
from zkaudit.training.low_rank.switch_lora import SwitchAdamW, SwitchSchedule, switch_lora
from zkaudit.training.memory.stream_bp import StreamBP
from zkaudit.training.optim.agvm import AGVM, Variances
from zkaudit.training.optim.fira import FiraAdamW
from zkaudit.training.optim.galore import GaLoreAdamW, low_rank_groups
from zkaudit.training.optim.lamb import LAMB
from zkaudit.training.optim.lars import LARS
from zkaudit.training.optim.per_layer import per_layer

WORDS, WIDTH, LAYERS, RANK, GAP = 1024, 128, 3, 32, 200
ROWS, LENGTH, STEPS, ROUNDS = 4, 96, 3, 6
SETTING = f"a Llama of {LAYERS} layers of {WIDTH} in float32 on a CPU, {ROWS} x {LENGTH} words"


@dataclass(frozen=True)
class Way:
    """How a model is trained: what becomes of the model, its optimizer, what is entered around each run of steps."""

    optimizer: Callable[[nn.Module], Optimizer]
    contexts: Callable[[nn.Module, Any], Sequence[AbstractContextManager[Any]]] = lambda model, optimizer: ()
    change: Callable[[nn.Module], object] = lambda model: None
    passes: int = 1  # of a step, on as many parts of its batch


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "intermediate_size": 8 * WIDTH // 3, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=WORDS, bos_token_id=0, eos_token_id=0, **sizes))


def adamw(model: nn.Module) -> Optimizer:
    return AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)


def galore(model: nn.Module, kind: type[GaLoreAdamW] = GaLoreAdamW, gap: int = GAP, **options: Any) -> GaLoreAdamW:
    return kind(low_rank_groups(model, RANK, update_gap=gap), lr=1e-3, **options)


def agvm(model: nn.Module) -> Optimizer:
    parts = [list(module.parameters()) for module in (model.get_submodule("model"), model.get_submodule("lm_head"))]
    return AGVM(AdamW([{"params": part} for part in parts], lr=1e-3), Variances(warm_up=0, every=STEPS))


def switch_adamw(model: nn.Module) -> Optimizer:
    return SwitchAdamW(model, SwitchSchedule(total_steps=10_000))


def in_fp8(model: nn.Module, optimizer: Optimizer, **options: Any) -> Sequence[AbstractContextManager[Any]]:
    return (compress_activations(model, ActivationOptions(**options)),)


def streamed(model: nn.Module, optimizer: Optimizer) -> Sequence[AbstractContextManager[Any]]:
    return (StreamBP(model),)


def checkpointed(model: Any) -> None:
    model.gradient_checkpointing_enable()


def stepped_in_backward(model: nn.Module, optimizer: GaLoreAdamW) -> Sequence[AbstractContextManager[Any]]:
    return (per_layer(optimizer, model),)


WAYS = {
    "AdamW": Way(adamw),
    "gradient checkpointing": Way(adamw, change=checkpointed),
    "GaLore": Way(galore),
    "GaLore with new bases": Way(partial(galore, gap=1)),
    "GaLore with sketched new bases": Way(partial(galore, gap=1, refresh="sketch")),
    "GaLore int8": Way(partial(galore, states="int8")),
    "GaLore FP8": Way(partial(galore, states="fp8")),
    "GaLore per layer": Way(galore, stepped_in_backward),
    "Fira": Way(partial(galore, kind=FiraAdamW)),
    "int8 AdamW": Way(lambda model: GaLoreAdamW(model.parameters(), lr=1e-3, states="int8")),
    "COAT states": Way(lambda model: CoatAdamW(model.parameters(), lr=1e-3)),
    "COAT activations": Way(adamw, in_fp8),
    "StreamBP": Way(adamw, streamed),
    "LAMB": Way(lambda model: LAMB(model.parameters())),
    "LARS": Way(lambda model: LARS(model.parameters())),
    "AGVM": Way(agvm, passes=2),
    "AdamW in two passes": Way(adamw, passes=2),
    "SwitchLoRA": Way(switch_adamw, change=lambda model: switch_lora(model, RANK)),
    "low rank": Way(adamw, change=lambda model: low_rank(model, RANK)),
    "LoRA": Way(adamw, change=lambda model: lora(model, RANK)),
    "SLTrain": Way(adamw, change=lambda model: sltrain(model, RANK)),
}


class Run:
    """One way's model, and the processor's seconds of a step of it."""

    def __init__(self, way: Way) -> None:
        self.way, self.model = way, llama()
        way.change(self.model)
        self.optimizer = way.optimizer(self.model)
        self.batches = list(batches(0, STEPS * way.passes, ROWS // way.passes, LENGTH))

    def seconds(self) -> float:
        contexts = self.way.contexts(self.model, self.optimizer)
        start = time.process_time()
        train(self.model, self.batches, self.optimizer, contexts=contexts, accumulation=self.way.passes)
        return (time.process_time() - start) / STEPS


@cache
def best() -> dict[str, float]:
    """Seconds of a step each way, after one round that is not counted."""
    torch.set_num_threads(1)
    runs = {name: Run(way) for name, way in WAYS.items()}
    rounds = [{name: run.seconds() for name, run in runs.items()} for _ in range(ROUNDS + 1)]
    return {name: min(seen[name] for seen in rounds[1:]) for name in runs}


def over_adamw(name: str, beside: str = "", remark: str = "") -> Measured:
    """Time of a step over AdamW's; `beside` names another way whose ratio the note gives."""
    seconds = best()
    plain = seconds["AdamW"]
    note = f"{seconds[name] * 1e3:.1f} ms against {plain * 1e3:.1f}; {SETTING}"
    if beside:
        note += f"; {beside}: {seconds[beside] / plain:.2f}"
    return Measured(seconds[name] / plain, None, f"{note}; {remark}" if remark else note)


def with_refresh(name: str, refreshing: str, beside: str = "") -> Measured:
    """As `over_adamw`, with a GAP-th of a step that makes new bases."""
    seconds = best()
    each = (seconds[refreshing] - seconds[name]) / GAP
    note = f"{seconds[name] * 1e3:.1f} ms, and {each * 1e3:.2f} a step for new bases every {GAP}, against "
    note += f"{seconds['AdamW'] * 1e3:.1f}; with new bases in every step: {seconds[refreshing] / seconds['AdamW']:.2f}"
    if beside:
        note += f", {beside.removeprefix('GaLore with ')}: {seconds[beside] / seconds['AdamW']:.2f}"
    return Measured((seconds[name] + each) / seconds["AdamW"], None, f"{note}; {SETTING}")


COAT = "the paper's 1.43 times the speed comes of products in FP8 units, which a CPU lacks: not comparable"
WHAT = "time of a step over AdamW's"
RUNS: dict[tuple[str, str], Callable[[], Measured]] = {
    ("galore", WHAT): partial(with_refresh, "GaLore", "GaLore with new bases", "GaLore with sketched new bases"),
    ("galore", f"{WHAT}, moments in FP8"): partial(over_adamw, "GaLore FP8", "GaLore"),
    ("galore", f"{WHAT}, stepped in the backward pass"): partial(over_adamw, "GaLore per layer", "GaLore"),
    ("fira", WHAT): partial(over_adamw, "Fira", "GaLore"),
    ("block-int8-states", WHAT): partial(over_adamw, "int8 AdamW", "GaLore int8"),
    ("coat-states", WHAT): partial(over_adamw, "COAT states"),
    ("coat-activations", WHAT): partial(over_adamw, "COAT activations", remark=COAT),
    ("stream-bp", WHAT): partial(over_adamw, "StreamBP", "gradient checkpointing"),
    ("lamb", WHAT): partial(over_adamw, "LAMB"),
    ("lars", WHAT): partial(over_adamw, "LARS"),
    ("agvm", WHAT): partial(over_adamw, "AGVM", "AdamW in two passes", f"a measurement every {STEPS} steps, the default is 5"),
    ("switch-lora", WHAT): partial(over_adamw, "SwitchLoRA"),
    ("low-rank", WHAT): partial(over_adamw, "low rank", remark=f"rank {RANK}: fewer weights to multiply with and to train"),
    ("lora", WHAT): partial(over_adamw, "LoRA", remark=f"only the factors of rank {RANK} are trained"),
    ("sltrain", WHAT): partial(over_adamw, "SLTrain"),
}
CHECKS = [Check(method, what, "ratio", "lower", run) for (method, what), run in RUNS.items()]
