"""What the update of a fully connected network shows of its records, told from shapes and counts before any attack runs.

Layer j's update is a sum over the m inputs that it read of input times error: of rank min(m, d_j + 1, d_{j+1}) at most.
Up to K = min(d_j, d_{j+1}) inputs its columns span just theirs, so a guess lies in the span or does not, and sparse errors tell
the inputs themselves; a single one is read off. Beyond K the span is everything. Only the first layer's inputs are records,
and they are the same in all steps; deeper layers read what moves with the weights.
"""

from __future__ import annotations

from typing import Any

from zkaudit.attacks.joint.client import Seen


def measured(seen: Seen) -> dict[str, Any]:
    """The meter's part of a result."""
    n, steps, batch = seen.records, *seen.places.shape
    groups, tensors = [], []
    for j, matrix in enumerate(seen.start):
        inputs, outputs = len(matrix) - 1, matrix.shape[1]
        capacity, read = min(inputs, outputs), n if j == 0 else steps * batch
        shows = "records" if j == 0 else "what the layer before made of them"
        groups.append(
            {
                "site": f"layer {j + 1}",
                "dependence": "record" if j == 0 else "record and weights",
                "kinds": ["weight and bias"],
                "capacity": capacity,
                "ratio": read / capacity,
                "regime": "exact" if read <= capacity else "weak",
            }
        )
        for part, shape in (("weight", [outputs, inputs]), ("bias", [outputs])):
            why = f"sums errors times {shows}" if part == "weight" else "sums errors, by which the weight's is divided"
            rank = capacity if part == "weight" else 1
            tensors.append(
                {"name": f"{2 * j}.{part}", "shape": shape, "kind": part, "explanation": why, "capacity": rank},
            )
    capacity = min(seen.inputs, seen.start[0].shape[1])
    verdict, reason = _verdict(n, capacity)
    return {
        "records": n,
        "verdict": verdict,
        "reason": reason,
        "groups": groups,
        "tensors": tensors,
        "findings": _findings(n, capacity, seen),
    }


def _verdict(n: int, capacity: int) -> tuple[str, str]:
    behind = f"{n} records are behind the update, and the first layer shows {capacity} directions"
    if n == 1:
        return "exposed", "one record is behind the update, and the first layer shows it, weights over bias"
    if 2 * n <= capacity:  # about half of the units do not fire for a record, and more than n must not
        return "exposed", f"{behind}: sparse errors tell the records themselves"
    if n <= capacity:
        return "partly exposed", f"{behind}: guesses of records can be tested exactly"
    return "weakly exposed", f"{behind}: mostly mixtures"


def _findings(n: int, capacity: int, seen: Seen) -> list[dict[str, str]]:
    steps, batch = seen.places.shape
    found = []
    if n <= capacity:
        found.append(
            {
                "severity": "high",
                "sentence": f"n/K is {n / capacity:.2g}: the update is no sum over many records",
                "remedy": f"let more than {capacity} different records stand behind it; steps on the same ones do not help",
            }
        )
    if len(seen.start) > 1:
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
