"""A statement in a few lines for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FRACTIONS = ("activation", "gradient", "weight")
LOSS_NAMES = {"cross_entropy": "softmax cross-entropy", "square": "square loss"}


def statement_lines(statement: Mapping[str, Any]) -> list[str]:
    """`statement` is what `Statement.to_json` returns; one line an aspect, each beginning with its name."""
    first, steps = statement["first_step"], statement["steps"]
    head = statement.get("records")
    return [
        named_line("steps", f"{first} to {first + steps - 1} ({steps}), segment {statement['segment']}"),
        *run_lines([statement]),
        named_line("start weights", f"commitment {statement['start_commitment'][:16]}..."),
        named_line("end weights", f"commitment {statement['end_commitment'][:16]}..."),
        *([] if head is None else [named_line("step records", f"head {head[:16]}... after step {first + steps - 1}")]),
        named_line("statement", f"SHA-256 {statement['digest']}"),
    ]


def run_lines(statements: Sequence[Mapping[str, Any]]) -> list[str]:
    """What all segments of a chain share; `statements` holds one JSON view for each segment, at least one."""
    statement = statements[0]
    rates = [rate for one in statements for rate in one["learning_rates"]]
    return [
        named_line("network", f"{'-'.join(map(str, statement['widths']))}, {LOSS_NAMES[statement['loss']]}"),
        named_line("data", f"{statement['rows']} rows, commitment {statement['data_commitment'][:16]}..."),
        named_line("batches", f"{statement['batch']} rows each{_drawn(statement)} by the public seed {statement['seed']!r}"),
        *_method_lines(statement),
        named_line("learning rate", _rate_text(rates)),
        named_line("fixed point", ", ".join(f"{kind} {statement[f'{kind}_bits']} bits" for kind in FRACTIONS)),
    ]


def _method_lines(statement: Mapping[str, Any]) -> list[str]:
    """What is not plain SGD."""
    lines = []
    if galore := statement.get("galore"):
        basis = "orthonormal bases" if galore["basis"] == "svd" else "random bases of the seed"
        what = f"{galore['optimizer']}, ranks {_numbers(galore['ranks'])}, {basis}, every {galore['gap']} steps"
        if share := galore.get("energy"):
            what += f", with {share}/256 of their gradients' energy or more"
        lines.append(named_line("GaLore", what))
        if "first_exponents" in galore:
            first, root = (_exponents(galore[f"{name}_exponents"]) for name in ("first", "second"))
            lines.append(
                named_line("FP8 moments", f"stored after every step, ranges 2^({first}), roots of second ones 2^({root})")
            )
    if lora := statement.get("lora"):
        lines.append(named_line("LoRA", f"ranks {_numbers(lora['ranks'])}, other weights frozen"))
    if fp8 := statement.get("fp8"):
        exponents = (_exponents(fp8[f"{what}_exponents"]) for what in ("activation", "gradient"))
        scales = " and ".join(f"2^({numbers})" for numbers in exponents)
        lines.append(named_line("FP8", f"activations e4m3, gradients {fp8['gradient_format']}, scales {scales}"))
    return lines


def _exponents(values: Sequence[int | Sequence[int]]) -> str:
    """One a layer, or their range where groups of units have their own."""
    if all(isinstance(value, int) for value in values):
        return _numbers([value for value in values if isinstance(value, int)])
    every = [x for value in values for x in ([value] if isinstance(value, int) else value)]
    return f"{min(every)} to {max(every)}"


def _numbers(values: Sequence[int]) -> str:
    """One number where all are the same."""
    return ", ".join(map(str, values if len(set(values)) > 1 else values[:1]))


def _drawn(statement: Mapping[str, Any]) -> str:
    """How batches are drawn, said of every statement that names a sampler."""
    sampler = statement.get("sampler")
    if sampler is None:
        return ", drawn"
    if sampler["kind"] == "view-batch":
        return f", each row {sampler['views']} times on end, drawn"
    return f" of like lengths, as declared, in {sampler['cycles']} cycles, drawn"


def _rate_text(rates: list[float]) -> str:
    """One rate, or the first, the last and the extremes of a schedule."""
    if min(rates) == max(rates):
        return f"{rates[0]:.6g}"
    return f"from {rates[0]:.6g} to {rates[-1]:.6g}, between {min(rates):.6g} and {max(rates):.6g}"


def named_line(name: str, text: str) -> str:
    """One line of a summary."""
    return f"  {name:<14} {text}"
