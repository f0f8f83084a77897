"""Memory for length: StreamBP against gradient checkpointing and a plain pass, on a small Llama from its configuration.

Peaks are resident memory over what was there before the pass, weights and gradients, each in a process of its own; kept bytes
are counted by autograd's hooks; times are the processor's, of forward and backward on one thread."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import torch
from methods.check import Check, Measured
from torch import Tensor, nn

WORDS, WIDTH, LAYERS = 8192, 128, 8  # a vocabulary of 64 widths, as Qwen3-4B's is of 59
SETTING = f"Llama of {LAYERS} layers, width {WIDTH}, {WORDS} words, float32 on a CPU; the paper: Qwen3 to 32B in bf16 on A800s."


def small_llama(mode: str, words: int = WORDS) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_num_threads(1)
    sizes = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1 << 16}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=words, hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=LAYERS, **sizes)
    )
    if mode == "checkpointing":
        model.gradient_checkpointing_enable()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return model.train()


def streaming(mode: str, model: nn.Module) -> contextlib.AbstractContextManager[Any]:
    from zkaudit.training.memory.stream_bp import StreamBP

    return StreamBP(model) if mode == "streamed" else contextlib.nullcontext()


def one_pass(mode: str, length: int) -> None:
    """Print the peak of resident bytes, over those before, of one forward and backward pass."""
    model = small_llama(mode)
    ids = torch.randint(0, WORDS, (1, length))
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    with streaming(mode, model):
        model(ids, labels=ids, use_cache=False).loss.backward()
    status = Path("/proc/self/status").read_text().split()
    peak = int(status[status.index("VmHWM:") + 1]) * 1024
    print(peak - before)


def peak_bytes(mode: str, length: int) -> int:
    """`one_pass` in a new process whose allocator gives memory back at once."""
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
    }
    command = [sys.executable, "-c", f"from methods.memory import one_pass; one_pass({mode!r}, {length})"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return int(ran.stdout.splitlines()[-1])


def longer_sequences() -> Measured:
    base = 1024
    limit = peak_bytes("checkpointing", base)
    lengths = [4 * base, 8 * base]
    peaks = [peak_bytes("streamed", length) for length in lengths]
    reached = float(np.interp(limit, peaks, lengths)) / base
    shown = ", ".join(f"{length}: {peak / 1e6:.0f} MB" for length, peak in zip(lengths, peaks, strict=True))
    note = f"{SETTING} Checkpointing at {base}: {limit / 1e6:.0f} MB; streamed at {shown}. The paper: 2.8 to 5.5."
    return Measured(reached, 5.5, note)


def time_against_checkpointing() -> Measured:
    """The better of two passes, so that neither pays for what a process does once."""
    length = 2048

    def seconds(mode: str) -> float:
        model, ids = small_llama(mode), torch.randint(0, WORDS, (1, length))
        taken = []
        for _ in range(2):
            start = time.process_time()
            with streaming(mode, model):
                model(ids, labels=ids, use_cache=False).loss.backward()
            taken.append(time.process_time() - start)
        return min(taken)

    plain, usual, streamed = map(seconds, ("plain", "checkpointing", "streamed"))
    note = f"{SETTING} T = {length}: plain {plain:.2f} s, checkpointing {usual:.2f} s, streamed {streamed:.2f} s."
    return Measured(streamed / usual, 1.0, note)


class _Kept:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def kept_bytes(mode: str, length: int) -> int:
    """Bytes that autograd keeps from forward to backward, a storage once, without the parameters' own."""
    model = small_llama(mode)
    ids = torch.randint(0, WORDS, (1, length))
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    held: weakref.WeakSet[_Kept] = weakref.WeakSet()

    def pack(tensor: Tensor) -> _Kept:
        held.add(one := _Kept(tensor))
        return one

    with streaming(mode, model), torch.autograd.graph.saved_tensors_hooks(pack, lambda one: one.tensor):
        loss = model(ids, labels=ids, use_cache=False).loss
        storages = [one.tensor.untyped_storage() for one in held]
    total = sum({storage.data_ptr(): storage.nbytes() for storage in storages if storage.data_ptr() not in own}.values())
    del loss
    return total


def kept_against_checkpointing() -> Measured:
    plain, usual, streamed = (kept_bytes(mode, 2048) for mode in ("plain", "checkpointing", "streamed"))
    sizes = f"plain {plain / 1e6:.1f} MB, checkpointing {usual / 1e6:.1f}, streamed {streamed / 1e6:.1f}"
    head = f"of which {WORDS * WIDTH * 4 / 1e6:.1f} are the head's gradient, formed in the forward pass"
    return Measured(usual / streamed, None, f"{SETTING} T = 2048: {sizes}, {head}.")


def gradient_error() -> Measured:
    model = small_llama("plain", words=500)
    ids = torch.randint(0, 500, (2, 301))
    found: dict[str, list[Tensor]] = {}
    for mode in ("plain", "streamed"):
        model.zero_grad()
        with streaming(mode, model):
            model(ids, labels=ids, use_cache=False).loss.backward()
        found[mode] = [parameter.grad.double() for parameter in model.parameters()]
    errors = [float((a - b).norm() / a.norm()) for a, b in zip(found["plain"], found["streamed"], strict=True)]
    return Measured(max(errors), 0.0, "float32, the largest of all weights; in float64 the tests hold it below 1e-10.")


CHECKS = [
    Check("stream-bp", "longest sequence in the memory of checkpointing", "times its length", "higher", longer_sequences),
    Check("stream-bp", "bytes kept for backward, checkpointing over streamed", "times", "higher", kept_against_checkpointing),
    Check("stream-bp", "time against checkpointing", "times", "lower", time_against_checkpointing),
    Check("stream-bp", "gradient against autograd's", "relative error", "equal", gradient_error),
]
