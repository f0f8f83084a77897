"""The configuration of a training run: read strictly from TOML by `load`, or built in Python from the same classes.

Every value is checked where it is made, so that a `RunConfig` that exists can be trained (given data of enough rows)."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from zkaudit.training.errors import TrainingError

LOSSES = ("cross_entropy", "square")
BUNDLED = ("digits", "wine", "breast_cancer", "iris")
LARGEST_WIDTH = 1 << 16
LARGEST_BATCH = 1 << 20
LARGEST_STEPS = 1 << 22
LARGEST_RATE = 1 << 48  # of the integers c_t
LARGEST_SEED = 1024  # characters

Section = TypeVar("Section")


@dataclass(frozen=True)
class DataConfig:
    """[data]: a set bundled with scikit-learn, or a path to an .npz with X (n, d) and y (n,)."""

    source: str
    test_fraction: float = 0.25

    def __post_init__(self) -> None:
        if not _is(self.source, str) or not (self.source in BUNDLED or self.source.endswith(".npz")):
            _refuse("[data] source", self.source, f"one of {', '.join(BUNDLED)} or a path that ends in .npz")
        if not _is(self.test_fraction, float) or not 0 < self.test_fraction < 1:
            _refuse("[data] test_fraction", self.test_fraction, "a number between 0 and 1, both excluded")


@dataclass(frozen=True)
class ModelConfig:
    """[model]: widths of the hidden layers; `init_seed` fixes the start weights, which otherwise come from the system."""

    hidden: tuple[int, ...]
    init_seed: int | None = None

    def __post_init__(self) -> None:
        if not _is(self.hidden, tuple) or len(self.hidden) > 63:
            _refuse("[model] hidden", self.hidden, "a list of at most 63 widths")
        for width in self.hidden:
            _integer("[model] hidden", width, 1, LARGEST_WIDTH)
        if self.init_seed is not None:
            _integer("[model] init_seed", self.init_seed, 0, (1 << 63) - 1)


@dataclass(frozen=True)
class TrainingConfig:
    """[training]: `learning_rate` has one entry a step; `seed` is public and chooses the batches."""

    loss: str
    batch: int
    steps: int
    learning_rate: tuple[float, ...]
    seed: str

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            _refuse("[training] loss", self.loss, f"one of {', '.join(LOSSES)}")
        _integer("[training] batch", self.batch, 1, LARGEST_BATCH)
        _integer("[training] steps", self.steps, 1, LARGEST_STEPS)
        for rate in self.learning_rate:
            if not _is(rate, float) or not math.isfinite(rate) or rate <= 0:
                _refuse("[training] learning_rate", rate, "a positive number, or a list of them with one entry a step")
        if len(self.learning_rate) != self.steps:
            raise TrainingError(f"[training] learning_rate has {len(self.learning_rate)} entries for {self.steps} steps")
        if not _is(self.seed, str) or len(self.seed) > LARGEST_SEED:
            _refuse("[training] seed", self.seed, f"a string of at most {LARGEST_SEED} characters")


@dataclass(frozen=True)
class FixedPoint:
    """[fixed_point]: fractional bits of activations and data (f), of gradients (g) and of weights (w)."""

    activation_bits: int = 8
    gradient_bits: int = 12
    weight_bits: int = 32

    def __post_init__(self) -> None:
        _integer("[fixed_point] activation_bits", self.activation_bits, 2, 14)
        _integer("[fixed_point] gradient_bits", self.gradient_bits, 2, 15)
        _integer("[fixed_point] weight_bits", self.weight_bits, 16, 48)
        if self.gradient_bits < self.activation_bits:
            _refuse("[fixed_point] gradient_bits", self.gradient_bits, f"at least activation_bits, {self.activation_bits}")
        if self.update_bits < 0:
            least = self.activation_bits + self.gradient_bits
            _refuse("[fixed_point] weight_bits", self.weight_bits, f"at least activation_bits + gradient_bits, {least}")

    @property
    def update_bits(self) -> int:
        """k = w - f - g: an update needs no rounding since lr / batch = c 2^-k."""
        return self.weight_bits - self.activation_bits - self.gradient_bits


@dataclass(frozen=True)
class Settings:
    """What the arithmetic of training depends on; `rates` holds the integers c_t, one a step."""

    loss: str
    batch: int
    rates: tuple[int, ...]
    fixed_point: FixedPoint

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """The rates that are really used: c_t * batch / 2^k."""
        scale = self.batch / 2**self.fixed_point.update_bits
        return tuple(c * scale for c in self.rates)


@dataclass(frozen=True)
class RunConfig:
    """A whole configuration; TrainingError if a learning rate cannot be expressed in its fixed-point widths."""

    data: DataConfig
    model: ModelConfig
    training: TrainingConfig
    fixed_point: FixedPoint = field(default_factory=FixedPoint)

    def __post_init__(self) -> None:
        smallest = self.training.batch / 2**self.fixed_point.update_bits
        for wanted, rate in zip(self.training.learning_rate, self.settings.rates, strict=True):
            if not 1 <= rate <= LARGEST_RATE:
                size = "small" if rate < 1 else "large"
                limit = f"the smallest is {smallest:.6g}" if rate < 1 else f"the largest is {LARGEST_RATE * smallest:.6g}"
                widths = f"batch = {self.training.batch} and update bits weight_bits - activation_bits - gradient_bits"
                raise TrainingError(
                    f"[training] learning_rate {wanted:g} is too {size} for {widths} = {self.fixed_point.update_bits}, "
                    f"of whose rates {limit}"
                )

    @property
    def settings(self) -> Settings:
        """The part that the exact trainer needs."""
        t = self.training
        rates = tuple(round(rate * 2**self.fixed_point.update_bits / t.batch) for rate in t.learning_rate)
        return Settings(t.loss, t.batch, rates, self.fixed_point)


def load(path: Path) -> RunConfig:
    """Read a configuration; a relative .npz path is taken from the file's folder. TrainingError names file and key."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TrainingError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise TrainingError(f"{path} is not TOML: {error}") from None
    try:
        return _from_tables(content, path.parent)
    except TrainingError as error:
        raise TrainingError(f"{path}: {error}") from None


def _from_tables(content: dict[str, Any], folder: Path) -> RunConfig:
    known = ("data", "model", "training", "fixed_point")
    for name, table in content.items():
        if name not in known:
            raise TrainingError(f"unknown section or key '{name}'; sections are {', '.join(f'[{x}]' for x in known)}")
        if not isinstance(table, dict):
            raise TrainingError(f"'{name}' must be a section, [{name}]")
    for name in known[:3]:
        if name not in content:
            raise TrainingError(f"the section [{name}] is missing")
    data, model, training = (dict(content[name]) for name in known[:3])
    if _is(data.get("source"), str) and data["source"].endswith(".npz"):
        data["source"] = str(folder / data["source"])
    if isinstance(model.get("hidden"), list):
        model["hidden"] = tuple(model["hidden"])
    steps, rate = training.get("steps"), training.get("learning_rate")
    if "learning_rate" in training:
        if isinstance(rate, list):
            training["learning_rate"] = tuple(rate)
        elif isinstance(steps, int) and 0 < steps <= LARGEST_STEPS:
            training["learning_rate"] = (rate,) * steps
        else:
            training["learning_rate"] = (rate,)  # TrainingConfig refuses these steps
    return RunConfig(
        _section("data", DataConfig, data),
        _section("model", ModelConfig, model),
        _section("training", TrainingConfig, training),
        _section("fixed_point", FixedPoint, content.get("fixed_point", {})),
    )


def _section(name: str, kind: type[Section], table: dict[str, Any]) -> Section:
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    for key in table:
        if key not in {x.name for x in fields}:
            raise TrainingError(f"unknown key '{key}' in [{name}]; known are {', '.join(x.name for x in fields)}")
    for x in fields:
        if x.default is dataclasses.MISSING and x.name not in table:
            raise TrainingError(f"[{name}] lacks '{x.name}'")
    return kind(**table)


def _is(value: object, kind: type) -> bool:
    """Whether TOML would call it that: no booleans among numbers, an integer is a number too."""
    return not isinstance(value, bool) and isinstance(value, (int, float) if kind is float else kind)


def _integer(name: str, value: object, low: int, high: int) -> None:
    if not _is(value, int) or not isinstance(value, int) or not low <= value <= high:
        _refuse(name, value, f"an integer from {low} to {high}")


def _refuse(name: str, value: object, allowed: str) -> None:
    raise TrainingError(f"{name} is {value!r:.60}; it must be {allowed}")
