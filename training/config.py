"""The configuration of a training run: read strictly from TOML by `load`, or built in Python from the same classes.

Every value is checked where it is made, so that a `RunConfig` that exists can be trained (given data of enough rows)."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from zkaudit.training.checks import integer, is_kind, refuse
from zkaudit.training.errors import TrainingError
from zkaudit.training.method_config import FP8Config, GaLoreConfig, LoRAConfig
from zkaudit.training.provable import FP8, GaLore, LoRA
from zkaudit.training.sampler_config import SAMPLERS, LengthBucketsConfig, SamplerConfig, ViewBatchConfig

LOSSES = ("cross_entropy", "square")
METHODS = ("sgd", "galore", "lora")
PRECISIONS = ("fixed", "fp8")
BUNDLED = ("digits", "wine", "breast_cancer", "iris")
LARGEST_WIDTH = 1 << 16
LARGEST_BATCH = 1 << 20
LARGEST_STEPS = 1 << 22
LARGEST_RATE = 1 << 48  # of the integers c_t
LARGEST_SEED = 1024  # characters

# Section -> the key of [training] whose value asks for it, and what it is read as. Methods need theirs, others have defaults.
CHOSEN: dict[str, tuple[str, type[Any]]] = {
    "galore": ("method", GaLoreConfig),
    "lora": ("method", LoRAConfig),
    "fp8": ("precision", FP8Config),
    "view_batch": ("sampler", ViewBatchConfig),
    "length_buckets": ("sampler", LengthBucketsConfig),
}

Section = TypeVar("Section")


@dataclass(frozen=True)
class DataConfig:
    """[data]: a set bundled with scikit-learn, or a path to an .npz with X (n, d) and y (n,)."""

    source: str
    test_fraction: float = 0.25

    def __post_init__(self) -> None:
        if not is_kind(self.source, str) or not (self.source in BUNDLED or self.source.endswith(".npz")):
            refuse("[data] source", self.source, f"one of {', '.join(BUNDLED)} or a path that ends in .npz")
        if not is_kind(self.test_fraction, float) or not 0 < self.test_fraction < 1:
            refuse("[data] test_fraction", self.test_fraction, "a number between 0 and 1, both excluded")


@dataclass(frozen=True)
class ModelConfig:
    """[model]: widths of the hidden layers; `init_seed` fixes the start weights, which otherwise come from the system."""

    hidden: tuple[int, ...]
    init_seed: int | None = None

    def __post_init__(self) -> None:
        if not is_kind(self.hidden, tuple) or len(self.hidden) > 63:
            refuse("[model] hidden", self.hidden, "a list of at most 63 widths")
        for width in self.hidden:
            integer("[model] hidden", width, 1, LARGEST_WIDTH)
        if self.init_seed is not None:
            integer("[model] init_seed", self.init_seed, 0, (1 << 63) - 1)


@dataclass(frozen=True)
class TrainingConfig:
    """[training]: `learning_rate` has one entry a step; `seed` is public and chooses the batches."""

    loss: str
    batch: int
    steps: int
    learning_rate: tuple[float, ...]
    seed: str
    method: str = "sgd"  # "galore" and "lora" have a section of their own
    precision: str = "fixed"  # of activations and gradients: "fp8" has a section of its own, which may be left out
    sampler: str = "uniform"  # of batches; "view-batch" and "length-buckets" may have a section of their own
    records: bool = False  # whether RUN/steps.jsonl is written, and proofs carry its head

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            refuse("[training] loss", self.loss, f"one of {', '.join(LOSSES)}")
        for name, known in (("method", METHODS), ("precision", PRECISIONS), ("sampler", SAMPLERS)):
            if getattr(self, name) not in known:
                refuse(f"[training] {name}", getattr(self, name), f"one of {', '.join(known)}")
        if type(self.records) is not bool:
            refuse("[training] records", self.records, "true or false")
        integer("[training] batch", self.batch, 1, LARGEST_BATCH)
        integer("[training] steps", self.steps, 1, LARGEST_STEPS)
        for rate in self.learning_rate:
            if not is_kind(rate, float) or not math.isfinite(rate) or rate <= 0:
                refuse("[training] learning_rate", rate, "a positive number, or a list of them with one entry a step")
        if len(self.learning_rate) != self.steps:
            raise TrainingError(f"[training] learning_rate has {len(self.learning_rate)} entries for {self.steps} steps")
        if not is_kind(self.seed, str) or len(self.seed) > LARGEST_SEED:
            refuse("[training] seed", self.seed, f"a string of at most {LARGEST_SEED} characters")


@dataclass(frozen=True)
class FixedPoint:
    """[fixed_point]: fractional bits of activations and data (f), of gradients (g) and of weights (w)."""

    activation_bits: int = 8
    gradient_bits: int = 12
    weight_bits: int = 32

    def __post_init__(self) -> None:
        integer("[fixed_point] activation_bits", self.activation_bits, 2, 14)
        integer("[fixed_point] gradient_bits", self.gradient_bits, 2, 15)
        integer("[fixed_point] weight_bits", self.weight_bits, 16, 48)
        if self.gradient_bits < self.activation_bits:
            refuse("[fixed_point] gradient_bits", self.gradient_bits, f"at least activation_bits, {self.activation_bits}")
        if self.update_bits < 0:
            least = self.activation_bits + self.gradient_bits
            refuse("[fixed_point] weight_bits", self.weight_bits, f"at least activation_bits + gradient_bits, {least}")

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
    unit: float | None = None  # the learning rate that a rate of 1 is, by default batch / 2^k
    galore: GaLore | None = None
    lora: LoRA | None = None
    fp8: FP8 | None = None

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """The rates that are really used."""
        unit = self.batch / 2**self.fixed_point.update_bits if self.unit is None else self.unit
        return tuple(c * unit for c in self.rates)


@dataclass(frozen=True)
class RunConfig:
    """A whole configuration; TrainingError if a learning rate cannot be expressed in its fixed-point widths."""

    data: DataConfig
    model: ModelConfig
    training: TrainingConfig
    fixed_point: FixedPoint = field(default_factory=FixedPoint)
    galore: GaLoreConfig | None = None
    lora: LoRAConfig | None = None
    fp8: FP8Config | None = None
    view_batch: ViewBatchConfig | None = None
    length_buckets: LengthBucketsConfig | None = None

    def __post_init__(self) -> None:
        if self.galore is not None and self.lora is not None:
            raise TrainingError("GaLore projects updates of whole matrices, of which LoRA makes none: have [galore] or [lora]")
        for name, (key, _) in CHOSEN.items():
            given, chosen = getattr(self, name) is not None, getattr(self.training, key).replace("-", "_")
            if given and chosen != name:
                raise TrainingError(f"there is a section [{name}], but [training] {key} is {getattr(self.training, key)!r}")
            if not given and chosen == name and key == "method":
                raise TrainingError(f'[training] method = "{name}" needs a section [{name}] with at least a rank')
        unit = self._unit(self._galore(self._narrow_widths))
        for wanted, rate in zip(self.wanted_rates, self._rates, strict=True):
            if not 1 <= rate <= LARGEST_RATE:
                size = "small" if rate < 1 else "large"
                limit = f"the smallest is {unit:.6g}" if rate < 1 else f"the largest is {LARGEST_RATE * unit:.6g}"
                where = f"batch = {self.training.batch} and update bits weight_bits - activation_bits - gradient_bits"
                where += f" = {self.fixed_point.update_bits}"
                if self.galore is not None:
                    where = f"weight_bits = {self.fixed_point.weight_bits} and the bits in [galore]"
                raise TrainingError(f"[training] learning_rate {wanted:g} is too {size} for {where}, of whose rates {limit}")

    @property
    def sampler(self) -> SamplerConfig | None:
        """None for uniform epochs."""
        if self.training.sampler == "uniform":
            return None
        default = ViewBatchConfig() if self.training.sampler == "view-batch" else LengthBucketsConfig()
        return self.view_batch or self.length_buckets or default

    @property
    def settings(self) -> Settings:
        """What the exact trainer needs and does not depend on the data's shape."""
        t = self.training
        return Settings(t.loss, t.batch, self._rates, self.fixed_point, self._unit(self._galore(self._narrow_widths)))

    def settings_for(self, widths: tuple[int, ...]) -> Settings:
        """All that the exact trainer needs, for a network of these widths."""
        bits, fp8 = self.fixed_point, None
        if self.training.precision == "fp8":
            fp8 = (self.fp8 or FP8Config()).method(widths[1:-1], bits.activation_bits, bits.gradient_bits)
        lora, galore = self.lora.method(widths) if self.lora is not None else None, self._galore(widths)
        if self.galore is not None and galore is not None:
            galore = self.galore.with_states(galore, widths)
        return dataclasses.replace(self.settings, galore=galore, lora=lora, fp8=fp8)

    @property
    def _narrow_widths(self) -> tuple[int, ...]:
        """Of a network that may be the configured one: rates do not depend on the inputs and outputs, which the data say."""
        return (1, *self.model.hidden, 1)

    @property
    def _product_bits(self) -> int:
        return self.fixed_point.activation_bits + self.fixed_point.gradient_bits

    def _galore(self, widths: tuple[int, ...]) -> GaLore | None:
        return None if self.galore is None else self.galore.method(widths, self.training.batch, self._product_bits)

    def _unit(self, method: GaLore | None) -> float:
        bits, batch = self.fixed_point, self.training.batch
        if self.galore is None or method is None:
            return batch * 2.0**-bits.update_bits
        return self.galore.unit(method, batch, self._product_bits, bits.weight_bits)

    @property
    def wanted_rates(self) -> Sequence[float]:
        """The learning rates that `rates` come nearest to: with GaLore, scale and bias correction included."""
        rates = self.training.learning_rate
        return rates if self.galore is None else self.galore.effective(rates)

    @property
    def _rates(self) -> tuple[int, ...]:
        """The integers c_t; with LoRA multiples of what makes the second matrices' rates integers too."""
        unit = self._unit(self._galore(self._narrow_widths))
        step = 1 if self.lora is None else self.lora.method((1, *self.model.hidden, 1)).divisor
        return tuple(step * round(rate / (unit * step)) for rate in self.wanted_rates)


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
    known = ("data", "model", "training", "fixed_point", *CHOSEN)
    for name, table in content.items():
        if name not in known:
            raise TrainingError(f"unknown section or key '{name}'; sections are {', '.join(f'[{x}]' for x in known)}")
        if not isinstance(table, dict):
            raise TrainingError(f"'{name}' must be a section, [{name}]")
    for name in known[:3]:
        if name not in content:
            raise TrainingError(f"the section [{name}] is missing")
    data, model, training = (dict(content[name]) for name in known[:3])
    if is_kind(data.get("source"), str) and data["source"].endswith(".npz"):
        data["source"] = str(folder / data["source"])
    if isinstance(model.get("hidden"), list):
        model["hidden"] = tuple(model["hidden"])
    chosen = {name: dict(content[name]) for name in CHOSEN if name in content}
    for table in chosen.values():
        table.update({key: _frozen(value) for key, value in table.items()})
    lengths = chosen.get("length_buckets", {}).get("lengths")
    if isinstance(lengths, str) and lengths.endswith(".npy"):
        chosen["length_buckets"]["lengths"] = str(folder / lengths)
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
        **{name: _section(name, CHOSEN[name][1], table) for name, table in chosen.items()},
    )


def _frozen(value: Any) -> Any:
    """Lists as tuples, and lists in them."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _section(name: str, kind: type[Section], table: dict[str, Any]) -> Section:
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    for key in table:
        if key not in {x.name for x in fields}:
            raise TrainingError(f"unknown key '{key}' in [{name}]; known are {', '.join(x.name for x in fields)}")
    for x in fields:
        if x.default is dataclasses.MISSING and x.name not in table:
            raise TrainingError(f"[{name}] lacks '{x.name}'")
    return kind(**table)
