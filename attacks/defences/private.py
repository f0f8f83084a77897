"""DP-SGD and its control, clipping alone, as entries of the catalogue."""

from __future__ import annotations

from collections.abc import Sequence

from zkaudit.attacks.defences.defence import Defence, Kind, arguments, number
from zkaudit.attacks.defences.dp_sgd import PrivateOptions


def _dp_sgd(text: str, given: Sequence[str]) -> Defence:
    arguments(text, given, 1, 2)
    sigma = number(text, given[0], "noise multiplier", 0, float("inf"))
    clip = number(text, given[1], "clipping norm", 0, float("inf")) if len(given) > 1 else 1.0
    return Defence(text, private=PrivateOptions(sigma, clip))


def _clip(text: str, given: Sequence[str]) -> Defence:
    arguments(text, given, 1, 1)
    return Defence(text, private=PrivateOptions(0.0, number(text, given[0], "clipping norm", 0, float("inf"))))


KINDS = (
    Kind(
        "dp_sgd",
        "dp_sgd:1.0",
        "DP-SGD with this noise multiplier (dp_sgd:sigma:clip; clip 1): the only one with an (epsilon, delta)",
        "rounds on the same records average noise out; little noise has no useful epsilon",
        _dp_sgd,
    ),
    Kind(
        "clip",
        "clip:1.0",
        "each example's gradient is clipped to this norm: the control for DP-SGD",
        "it rescales the errors of each example and leaves the span of the inputs as it is",
        _clip,
    ),
)
