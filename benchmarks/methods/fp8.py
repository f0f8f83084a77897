"""Checks of COAT: a tiny Llama on the text of Python's own reference, FP8 against BF16 and float32."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import cache, partial
from pydoc_data import topics
from typing import Any

import torch
from methods.check import Check, Measured
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zkaudit.training.fp8.activations import ActivationOptions, compress_activations
from zkaudit.training.fp8.codes import dequantize, quantize_groups
from zkaudit.training.fp8.expansion import contract, expand
from zkaudit.training.fp8.states import CoatAdamW

LENGTH, BATCH, STEPS, SEEDS = 64, 8, 120, range(3)


@cache
def text() -> Tensor:
    torch.set_num_threads(1)
    letters = "\n".join(topics.topics[key] for key in sorted(topics.topics))
    return torch.tensor([min(ord(letter), 127) for letter in letters])


def batch(step: int, rows: int = BATCH, length: int = LENGTH) -> Tensor:
    starts = torch.randint(0, len(text()) - length, (rows,), generator=torch.Generator().manual_seed(step))
    return torch.stack([text()[start : start + length] for start in starts.tolist()])


def llama(width: int = 64, layers: int = 2, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    sizes = {
        "hidden_size": width,
        "intermediate_size": width * 43 // 16,
        "num_hidden_layers": layers,
        "num_attention_heads": max(4, width // 64),
    }
    return LlamaForCausalLM(LlamaConfig(vocab_size=128, **sizes, bos_token_id=1, eos_token_id=2)).to(dtype)


def trained(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int = 0, seen: Callable[[], object] = int
) -> list[float]:
    """Losses under autocast to bfloat16; `seen` is called where gradients are there."""
    losses = []
    for step in range(steps):
        with torch.autocast("cpu", torch.bfloat16):
            rows = batch(1000 * seed + step)
            value = model(rows, labels=rows).loss
        optimizer.zero_grad()
        value.backward()
        seen()
        optimizer.step()
        losses.append(float(value.detach()))
    return losses


def adamw(model: nn.Module, beta2: float = 0.95) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, beta2))


def coat(model: nn.Module, beta2: float = 0.95) -> torch.optim.Optimizer:
    return CoatAdamW(model.parameters(), lr=1e-2, betas=(0.9, beta2), smallest=0)


@cache
def final_losses(made: Callable[[nn.Module], torch.optim.Optimizer], options: ActivationOptions | None) -> list[float]:
    """The mean loss of the last 20 steps for each seed; without options activations are not compressed."""
    found = []
    for seed in SEEDS:
        model = llama(seed=seed)
        if options:
            compress_activations(model, options)
        found.append(statistics.fmean(trained(model, made(model), STEPS, seed)[-20:]))
    return found


def loss(options: ActivationOptions | None) -> Measured:
    """Final loss of CoatAdamW with these activations over that of BF16 with AdamW."""
    expected, found = final_losses(adamw, None), final_losses(coat, options)
    each = "; ".join(f"{ours:.3f} against {theirs:.3f}" for ours, theirs in zip(found, expected, strict=True))
    note = f"{each} after {STEPS} steps with beta2 0.95; BF16's own seeds differ by {max(expected) / min(expected) - 1:.1%}"
    return Measured(statistics.fmean(found) / statistics.fmean(expected), 1.0, note)


def error_of_states() -> Measured:
    """Mean square error of Adam's direction m / sqrt(v) with a scale for each group only, over that with expansion."""
    model = llama()
    optimizer = adamw(model)
    trained(model, optimizer, 60)
    errors, lost = {"plain": 0.0, "expanded": 0.0}, [0, 0]
    for parameter, state in optimizer.state.items():
        if parameter.numel() < 4096:
            continue
        m, v = (state[name].reshape(-1, 128) for name in ("exp_avg", "exp_avg_sq"))
        expected = m / (v.sqrt() + 1e-8)
        stored = {
            "plain": [dequantize(*quantize_groups(x, 128), 128) for x in (m, v)],
            "expanded": [contract(expand(x)) for x in (m, v)],
        }
        for kind, (first, second) in stored.items():
            # A v lost to zero is set aside: its direction is 10^8 times m, which would drown every other error.
            kept = (stored["plain"][1] > 0) | (v == 0)
            errors[kind] += float(((first / (second.sqrt() + 1e-8) - expected)[kept]).square().sum())
        lost[0] += int(((stored["plain"][1] == 0) & (v > 0)).sum())
        lost[1] += int(((stored["expanded"][1] == 0) & (v > 0)).sum())
    note = f"v lost to 0: {lost[0]} numbers without expansion (left out of the error), {lost[1]} with it"
    return Measured(errors["plain"] / errors["expanded"], None, note)


def bytes_of_states() -> Measured:
    found = {}
    for made in (adamw, coat):
        model = llama(dtype=torch.bfloat16)
        optimizer = made(model)
        rows = batch(0)
        model(rows, labels=rows).loss.backward()
        optimizer.step()
        found[made] = tensor_bytes(optimizer) / sum(p.numel() for p in model.parameters())
    note = f"counted: {found[coat]:.3f} bytes a parameter against {found[adamw]:.3f} of AdamW in BF16, 8 in float32"
    return Measured(found[adamw] / found[coat], None, note)


def tensor_bytes(optimizer: torch.optim.Optimizer) -> int:
    values = [value for state in optimizer.state.values() for value in state.values()]
    return sum(value.numel() * value.element_size() for value in values if isinstance(value, Tensor))


def drift_of_states() -> Measured:
    """What rounding to nearest does to a slow average of squares over 400 steps, on the gradients of a real run."""
    model = llama()
    weight = model.model.layers[0].mlp.up_proj.weight
    gradients: list[Tensor] = []
    trained(model, adamw(model), STEPS, 0, lambda: gradients.append(weight.grad.clone()))
    found = {}
    for beta2 in (0.95, 0.999):
        exact = torch.zeros_like(gradients[0])
        stored = expand(exact)
        for step in range(400):
            square = gradients[step % STEPS].square() * (1 - beta2)
            exact = exact * beta2 + square
            stored = expand(contract(stored) * beta2 + square)
        ratio = (contract(stored) / exact).sqrt()
        found[beta2] = float(ratio.median())
    note = f"median of sqrt(stored v / v) at beta2 0.999; {found[0.95]:.3f} at 0.95"
    return Measured(found[0.999], None, note)


class Alive(TorchDispatchMode):
    """Counts the bytes of the storages that operations made and that are still there."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return found

    def bytes(self) -> int:
        return sum(size for alive, size in self.storages.values() if not alive.expired())


def activations_of(model: nn.Module, rows: int, length: int) -> int:
    """Bytes alive between forward and backward, without the model's own."""
    inputs = batch(0, rows, length)
    own = {p.untyped_storage()._cdata for p in (*model.parameters(), *model.buffers())}
    with Alive() as alive:
        value = model(inputs, labels=inputs).loss
        alive.storages = {place: kept for place, kept in alive.storages.items() if place not in own}
        found = alive.bytes()
    value.backward()
    return found


@cache
def counted(rows: int, length: int) -> tuple[dict[str, int], dict[str, int], int]:
    """Bytes of a step in BF16 and with COAT, and activations with attention's too."""
    model = llama(256, 4, torch.bfloat16)
    before = {"activations": activations_of(model, rows, length)}
    with compress_activations(model, ActivationOptions(attention=True)):
        attention = activations_of(model, rows, length)
    compress_activations(model)
    after = {"activations": activations_of(model, rows, length)}
    for kinds, made in ((before, adamw), (after, coat)):
        optimizer = made(model)
        optimizer.step()
        kinds["states"] = tensor_bytes(optimizer)
        kinds["weights"] = kinds["gradients"] = 2 * sum(p.numel() for p in model.parameters())
    return before, after, attention


def bytes_of_activations() -> Measured:
    before, after, attention = counted(2, 256)
    first, second = before["activations"], after["activations"]
    note = (
        f"counted: {first / 1e6:.1f} MB in BF16, {second / 1e6:.1f} MB with COAT, {attention / 1e6:.1f} MB with attention's "
        "own tensors too; transformers' Llama as it is, logits included"
    )
    return Measured(first / second, None, note)


def bytes_of_training() -> Measured:
    before, after, _ = counted(2, 256)
    shares = ", ".join(f"{kind} {before[kind] / 1e6:.1f} to {after[kind] / 1e6:.1f} MB" for kind in before)
    note = f"{shares}; 4 layers of 256, 512 tokens, so that activations are half of all in BF16"
    return Measured(sum(before.values()) / sum(after.values()), 1.54, note)


def speed() -> Measured:
    """A step's time in BF16 with AdamW over that of COAT: on a GPU with products in FP8 and the layers of Llama 2 7B."""
    cuda = torch.cuda.is_available()
    width, rows, length = (4096, 8, 1024) if cuda else (256, 4, 128)
    model = llama(width, 4, torch.bfloat16).to("cuda" if cuda else "cpu")
    plain = step_times(model, adamw(model), rows, length)
    kernels = kernel_seconds(model, rows, length) if cuda else 0.0
    compress_activations(model, ActivationOptions(products=cuda))
    ours = step_times(model, coat(model), rows, length)
    passes, steps = (_from_to(*pair) for pair in zip(plain, ours, strict=True))
    where = "one CPU core, no FP8 unit, products in BF16 as before"
    if cuda:
        alone = _from_to(kernels, kernel_seconds(model, rows, length))
        where = f"{torch.cuda.get_device_name()}, products in FP8, kernels alone {alone}"
    return Measured(sum(plain) / sum(ours), 1.43, f"{where}: passes {passes}, optimizer {steps}")


def _from_to(before: float, after: float) -> str:
    return f"{before * 1e3:.1f} to {after * 1e3:.1f} ms"


def kernel_seconds(model: nn.Module, rows: int, length: int) -> float:
    """What the kernels of both passes take on a GPU, whatever the host takes to start them."""
    inputs = batch(0, rows, length).cuda()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        model(inputs, labels=inputs).loss.backward()
        torch.cuda.synchronize()
    model.zero_grad()
    return sum(event.self_device_time_total for event in seen.key_averages()) / 1e6


def step_times(model: nn.Module, optimizer: torch.optim.Optimizer, rows: int, length: int) -> tuple[float, float]:
    """Median seconds of the two passes and of the optimizer's step, after two steps that are not counted."""
    device = next(model.parameters()).device

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    spent = []
    for step in range(7):
        inputs = batch(step, rows, length).to(device)
        start = now()
        model(inputs, labels=inputs).loss.backward()
        middle = now()
        optimizer.step()
        spent.append((middle - start, now() - middle))
        optimizer.zero_grad()
    passes, steps = zip(*spent[2:], strict=True)
    return statistics.median(passes), statistics.median(steps)


COARSE = ActivationOptions(gradients="E5M2")
CHECKS = [
    Check(
        "coat-states", "error of Adam's direction: a scale a group, over range expansion", "ratio", "higher", error_of_states
    ),
    Check("coat-states", "optimizer states: bytes of AdamW in BF16 over ours", "ratio", "higher", bytes_of_states),
    Check("coat-states", "final loss over AdamW's", "ratio", "equal", partial(loss, None)),
    Check("coat-states", "second moments after 400 steps over exact ones", "ratio of roots", "equal", drift_of_states),
    Check("coat-activations", "bytes alive before backward: BF16 over FP8", "ratio", "higher", bytes_of_activations),
    Check(
        "coat-activations", "weights, gradients, states and activations: BF16 over COAT", "ratio", "higher", bytes_of_training
    ),
    Check(
        "coat-activations",
        "final loss, states in FP8 too, over BF16 with AdamW",
        "ratio",
        "equal",
        partial(loss, ActivationOptions()),
    ),
    Check("coat-activations", "the same with gradients in E5M2", "ratio", "equal", partial(loss, COARSE)),
    Check("coat-activations", "speed of a step over BF16", "ratio", "higher", speed),
]
