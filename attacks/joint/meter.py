"""What the update of a fully connected network shows of its records, told from shapes and counts before any attack runs.

Layer j's update is a sum over the m inputs that it read of input times error: of rank min(m, d_j + 1, d_{j+1}) at most.
Up to K = min(d_j, d_{j+1}) inputs its columns span just theirs, so a guess lies in the span or does not, and sparse errors tell
the inputs themselves; a single one is read off. Beyond K the span is everything. Only the first layer's inputs are records,
and they are the same in all steps; deeper layers read what moves with the weights.

GaLore and LoRA lower K to their rank. A public basis over the inputs, or an adapter in its first step, shows K mixtures of each
record's inputs, so that a record is known in K of its directions and free in the others, however few records there are.
"""

from __future__ import annotations

from typing import Any

from zkaudit.attacks.joint.client import Seen


def measured(seen: Seen) -> dict[str, Any]:
    """The meter's part of a result."""
    n, steps, batch = seen.records, *seen.places.shape
    groups, tensors = [], []
    for j, matrix in enumerate(seen.layers):
        inputs, outputs = len(matrix) - 1, matrix.shape[1]
        capacity, read = _capacity(seen, j), n if j == 0 else steps * batch
        if not capacity:
            continue
        shows = "records" if j == 0 else "what the layer before made of them"
        groups.append(
            {
                "site": f"layer {j + 1}",
                "dependence": "record" if j == 0 else "record and weights",
                "kinds": ["adapter"] if seen.method.lora else ["weight and bias"],
                "capacity": capacity,
                "ratio": read / capacity,
                "regime": "exact" if read <= capacity else "weak",
            }
        )
        tensors += _adapter(seen, j, shows) if seen.method.lora else _layer(j, inputs, outputs, capacity, shows)
    capacity = _capacity(seen, 0)
    verdict, reason = _verdict(n, capacity, seen)
    return {
        "records": n,
        "verdict": verdict,
        "reason": reason,
        "groups": groups,
        "tensors": tensors,
        "findings": _findings(n, capacity, seen),
    }


def _capacity(seen: Seen, j: int) -> int:
    """K of a layer; 0 for one that LoRA leaves frozen."""
    matrix, method = seen.layers[j], seen.method
    full = min(len(matrix) - 1, matrix.shape[1])
    limits = [spec.ranks[j] for spec in (method.galore, method.lora) if spec is not None]
    return min(full, *limits) if limits else full


def _layer(j: int, inputs: int, outputs: int, capacity: int, shows: str) -> list[dict[str, Any]]:
    """A layer's two tensors."""
    found = []
    for part, shape in (("weight", [outputs, inputs]), ("bias", [outputs])):
        why = f"sums errors times {shows}" if part == "weight" else "sums errors, by which the weight's is divided"
        rank = capacity if part == "weight" else 1
        found.append({"name": f"{2 * j}.{part}", "shape": shape, "kind": part, "explanation": why, "capacity": rank})
    return found


def _adapter(seen: Seen, j: int, shows: str) -> list[dict[str, Any]]:
    """An adapter's two tensors."""
    assert seen.method.lora
    place, rank = next((i, rank) for i, (layer, rank) in enumerate(seen.method.lora.adapters) if layer == j)
    told = (f"sums {shows} times errors inside the adapter, from the second step on", f"sums {rank} mixtures of {shows}")
    parts = zip(("first", "second"), seen.start[2 * place : 2 * place + 2], told, strict=True)
    return [
        {"name": f"adapter{place}.{part}", "shape": list(x.shape), "kind": part, "explanation": why, "capacity": rank}
        for part, x, why in parts
    ]


def _mixes(seen: Seen) -> bool:
    """Whether the first layer shows mixtures of a record's inputs, not records."""
    method = seen.method
    if method.lora is not None:
        return len(seen.places) == 1 or not method.lora.ranks[0]
    return method.galore is not None and method.is_public and method.galore.sides[0] == "left"


def _verdict(n: int, capacity: int, seen: Seen) -> tuple[str, str]:
    if _mixes(seen):
        shown = f"shows {capacity} mixtures of their {seen.inputs} inputs" if capacity else "is frozen"
        return "weakly exposed", f"{n} records are behind the update, and the first layer {shown}"
    behind = f"{n} records are behind the update, and the first layer shows {capacity} directions"
    if n == 1:
        return "exposed", "one record is behind the update, and the first layer shows it, weights over bias"
    if 2 * n <= capacity and seen.method.is_plain:  # about half of the units do not fire for a record, and more than n must not
        return "exposed", f"{behind}: sparse errors tell the records themselves"
    if n <= capacity:
        return "partly exposed", f"{behind}: guesses of records can be tested exactly"
    return "weakly exposed", f"{behind}: mostly mixtures"


def _findings(n: int, capacity: int, seen: Seen) -> list[dict[str, str]]:
    steps, batch = seen.places.shape
    found = []
    if n <= capacity and not _mixes(seen):
        found.append(
            {
                "severity": "high",
                "sentence": f"n/K is {n / capacity:.2g}: the update is no sum over many records",
                "remedy": f"let more than {capacity} different records stand behind it; steps on the same ones do not help",
            }
        )
    if len(seen.start) > 1 and seen.method.is_plain:
        found.append(
            {
                "severity": "medium",
                "sentence": "a ReLU unit that fires for one record alone shows it, however many records there are",
                "remedy": "larger batches make such units rarer; noise on the update blurs them",
            }
        )
    found.append(
        {
            "severity": "low",
            "sentence": "updates in this arithmetic are exact: the grid of the inputs tells mixtures from records",
            "remedy": "send the update in lower precision; whoever adapts still ranks",
        }
    )
    found.append(
        {
            "severity": "info",
            "sentence": f"the statement's seed makes public which of the {steps} x {batch} places hold the same record",
            "remedy": "none is needed: it says nothing about what the record is",
        }
    )
    return found
