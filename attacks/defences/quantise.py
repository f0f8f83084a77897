"""Low precision of what is sent, with one scale for each tensor. The wire formats of the federation are its own settings;
int4 and sign are made here. The sign is what Adam's first step sends, whatever the precision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from zkaudit.attacks.defences.defence import Defence, Kind, arguments

PRECISIONS = {"bf16": "bfloat16", "fp16": "float16", "int8": "int8", "fp8_e4m3": "fp8_e4m3", "fp8_e5m2": "fp8_e5m2"}
WEAKNESS = "exact tests fail but the directions stay: rank candidates instead of thresholding distances"


def int4(value: Tensor) -> Tensor:
    """Rounded to the integers -7..7 times a scale."""
    scale = value.abs().max().clamp_min(1e-30) / 7
    return (value / scale).round() * scale


def sign(value: Tensor) -> Tensor:
    """The signs times the mean magnitude."""
    return value.sign() * value.abs().mean()


def _precision(name: str) -> Kind:
    def make(text: str, given: Sequence[str]) -> Defence:
        arguments(text, given, 0, 0)
        return Defence(text, settings=lambda settings: replace(settings, precision=PRECISIONS[name]))

    return Kind(name, name, f"the update is sent as {PRECISIONS[name]}", WEAKNESS, make)


def _mapped(name: str, each: Callable[[Tensor], Tensor], explanation: str, weakness: str) -> Kind:
    def make(text: str, given: Sequence[str]) -> Defence:
        arguments(text, given, 0, 0)
        return Defence(text, lambda tensors, _: {key: each(value) for key, value in tensors.items()})

    return Kind(name, name, explanation, weakness, make)


KINDS = (
    *(_precision(name) for name in PRECISIONS),
    _mapped("int4", int4, "the update is sent as 4-bit integers", WEAKNESS),
    _mapped("sign", sign, "only signs and one magnitude for each tensor are sent", "signs still rank tokens above chance"),
)
