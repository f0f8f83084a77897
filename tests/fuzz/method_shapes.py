"""Methods and samplers that fit a statement's shapes, and objects of a header at the edge of what they may hold."""

from __future__ import annotations

import itertools
from random import Random
from typing import Any

from zkaudit.zk.methods import FP8, GROUP, GaLore, LoRA
from zkaudit.zk.samplers import Buckets, ViewBatch
from zkaudit.zk.statement import Statement

OBJECTS = ("galore", "lora", "fp8", "sampler")
GAPS = (1, 2, 3, 64, 1 << 12)
_NUMBERS = (-1, 0, 1, 2, 8, 14, 15, 16, 17, 255, 256, 1023, 1024, 1 << 12, (1 << 12) + 1, 1 << 16, 1 << 20)
_WORDS = ("adam", "sgd", "svd", "random", "left", "right", "e4m3", "e5m2", "view-batch", "length-buckets", "Adam", "")


def fitting_methods(rng: Random, s: Statement) -> dict[str, Any]:
    """Fields of a statement of these widths, rates and rows; often without a method."""
    kind = rng.choice((None, None, "galore", "galore", "lora"))
    return {
        "galore": _galore(rng, s) if kind == "galore" else None,
        "lora": _lora(rng, s) if kind == "lora" else None,
        "fp8": _fp8(rng, s) if rng.random() < 0.3 else None,
        "sampler": _sampler(rng, s) if rng.random() < 0.2 else None,
        "records": "ab" * 32 if rng.random() < 0.1 else None,
    }


def edged(rng: Random, value: dict[str, Any]) -> dict[str, Any]:
    """An object of which a field is another, of another type, gone or new."""
    changed = dict(value)
    name = rng.choice((*value, "more"))
    if rng.random() < 0.15:
        changed.pop(name, None)
    elif isinstance(value.get(name), list) and rng.random() < 0.6:
        changed[name] = _edged_list(rng, value[name])
    else:
        changed[name] = rng.choice((*_NUMBERS, *_WORDS, None, True, 1.0, [], [1], [[1]], {}, 10**30))
    return changed


def _edged_list(rng: Random, values: list[Any]) -> list[Any]:
    changed = list(values)
    at = rng.randrange(len(changed) + 1)
    item = rng.choice((*_NUMBERS, *_WORDS, None, True, 1.5, [], [1, 2], [-6] * rng.choice((1, 2, 5000)), {"a": 1}))
    changed[at : at + rng.randrange(2)] = [item] * rng.choice((1, 1, 1, 2, 0))
    return changed


def _galore(rng: Random, s: Statement) -> GaLore:
    sides = tuple(rng.choice(("left", "right")) for _ in range(s.layers))
    most = [d + 1 if side == "left" else units for side, (d, units) in zip(sides, itertools.pairwise(s.widths), strict=True)]
    kept = [units if side == "left" else d + 1 for side, (d, units) in zip(sides, itertools.pairwise(s.widths), strict=True)]
    optimizer, basis = rng.choice(("adam", "adam", "sgd")), rng.choice(("svd", "random"))
    stored = optimizer == "adam" and rng.random() < 0.5
    return GaLore(
        optimizer, basis,
        gap=rng.choice([gap for gap in GAPS if s.first_step % gap == 0]),
        ranks=tuple(rng.choice((1, 1, min(2, limit), min(64, limit))) for limit in most),
        sides=sides, basis_bits=rng.choice((6, 10, 13)), shift=rng.choice((1, 20, 47)), moment_bits=rng.choice((8, 10, 14)),
        beta1=rng.choice((0, 896, 1023)), beta2=rng.choice((0, 1008, 1023)), epsilon=rng.choice((1, 4, 1 << 14)),
        energy=rng.choice((0, 0, 1, 255)) if basis == "svd" else 0,
        first_exponents=_exponents(rng, kept, 1, 15) if stored else (),
        second_exponents=_exponents(rng, kept, 1, 16) if stored else (),
    )  # fmt: skip


def _lora(rng: Random, s: Statement) -> LoRA:
    ranks = [rng.choice((0, 1, min(d, units))) for d, units in itertools.pairwise(s.widths)]
    ranks[rng.randrange(len(ranks))] = 1
    return LoRA(tuple(ranks), rng.choice((1, 4, 1 << 16)), 1)


def _fp8(rng: Random, s: Statement) -> FP8:
    kind = rng.choice(("e4m3", "e5m2"))
    highest = (6 if kind == "e4m3" else -1) - s.gradient_bits
    activations = _exponents(rng, s.widths[1:-1], -5 - s.activation_bits, 7 - s.activation_bits)
    return FP8(activations, _exponents(rng, s.widths[1:-1], highest - 12, highest), kind)


def _exponents(rng: Random, widths: Any, low: int, high: int) -> tuple[Any, ...]:
    """One a layer, or one for each group of its units."""
    return tuple(
        tuple(rng.randint(low, high) for _ in range(-(-width // GROUP))) if rng.random() < 0.2 else rng.randint(low, high)
        for width in widths
    )


def _sampler(rng: Random, s: Statement) -> Any:
    if rng.random() < 0.5 or s.rows > 1 << 12:
        return ViewBatch(rng.choice((1, 2, 3, 1 << 16)))
    return Buckets(tuple(rng.choice((1, 1, 2, 9)) for _ in range(s.rows)), (), rng.choice((1, 8)))
