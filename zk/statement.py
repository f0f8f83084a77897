"""The statement: everything public about one proved segment of a training run, and every bound the verifier relies on.

It says: whoever committed to this data set and these start weights trained a fully connected ReLU network of these widths for
these steps, in the fixed-point arithmetic of docs/proof-system.md, on batches fixed by the seed, and ended in the committed
end weights. The header is canonical JSON (sorted keys, no spaces, integers and strings only); commitments are compressed
points, row by row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from zkaudit.zk import methods, samplers
from zkaudit.zk.circuit import fp8
from zkaudit.zk.errors import BadInput
from zkaudit.zk.field import MODULUS
from zkaudit.zk.methods import FP8, GaLore, LoRA
from zkaudit.zk.samplers import Sampler
from zkaudit.zk.statement_fields import require_integer, require_one_of

VERSION = 1
ACTIVATION_RANGE = 16  # bits of P, of GA' and of the last layer's Z'
EXPONENTIAL_BITS = 16  # fractional bits and index bits of the exponential table
WEIGHT_MARGIN = 3  # start weights lie below 2^(weight_bits + margin)
LOSSES = ("cross_entropy", "square")
SIGNED = 1 << (ACTIVATION_RANGE - 1)  # numbers stored with an offset lie in [-SIGNED, SIGNED)
POINT_BYTES = 48
MOST_BRACKETS = 273 + 1024  # five objects, twelve arrays, one for each layer of four, and those in a seed
# 2^20 rates of 15 digits and a comma; other fields take less than 2^14 bytes. Lengths and exponents leave room for fewer rates.
LONGEST_HEADER = (1 << 24) + (1 << 14)


@dataclass(frozen=True)
class Statement:
    """One segment. `rates` holds the integers c_t: the learning rate of step t is c_t * batch / 2^update_bits.

    The data commitment also holds what stays as it is through a chain: LoRA's frozen weights.
    """

    widths: tuple[int, ...]  # inputs, hidden layers, outputs
    loss: str
    batch: int
    first_step: int
    rates: tuple[int, ...]
    rows: int  # of the data set
    activation_bits: int
    gradient_bits: int
    weight_bits: int
    seed: str
    batch_seed: str  # hex; in segment 0 it must follow from the seed and the commitments
    columns: int  # logarithm of a committed row's length
    segment: int
    start_bound: int  # |start weights| stay within it; proved in segment 0, handed on after
    previous: str  # hex digest of the previous segment's statement; empty in segment 0
    galore: GaLore | None = None
    lora: LoRA | None = None
    fp8: FP8 | None = None
    sampler: Sampler | None = None  # of the batches; by default each epoch is a fresh order of all rows
    records: str | None = None  # hex head of the chain of step records after the last step
    data: bytes = b""
    start: bytes = b""
    end: bytes = b""

    @property
    def layers(self) -> int:
        return len(self.widths) - 1

    @property
    def steps(self) -> int:
        return len(self.rates)

    @property
    def update_bits(self) -> int:
        """k: the update needs no rounding since w = f + g + k."""
        return self.weight_bits - self.activation_bits - self.gradient_bits

    @property
    def learning_rates(self) -> list[float]:
        """What the rates amount to, for people; GaLore's Adam has its scale and bias correction in them."""
        if self.galore is None:
            return [c * self.batch / 2**self.update_bits for c in self.rates]
        unit = self.galore.unit(self.weight_bits, self.activation_bits + self.gradient_bits, self.batch)
        return [c * unit for c in self.rates]

    def header(self) -> bytes:
        """All fields but the commitments, canonically encoded."""
        known = {*methods.SPECS, "sampler"}
        fields = {k: v for k, v in vars(self).items() if not isinstance(v, bytes) and k not in known and v is not None}
        fields |= {name: methods.written(spec) for name in methods.SPECS if (spec := getattr(self, name)) is not None}
        if self.sampler is not None:
            fields["sampler"] = samplers.written(self.sampler)
        fields["version"] = VERSION
        return _canonical(fields)

    def sections(self) -> list[tuple[bytes, bytes]]:
        """Name and bytes of each part, in the order in which a transcript absorbs them and a file stores them."""
        return [(b"header", self.header()), (b"data", self.data), (b"start", self.start), (b"end", self.end)]

    def digest(self) -> str:
        """SHA-256 over the framed sections, hex: what the next segment names as its previous."""
        framed = b"".join(len(x).to_bytes(8, "little") + x for section in self.sections() for x in section)
        return hashlib.sha256(b"zkaudit statement" + framed).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """A view for people and tools; commitments as SHA-256 digests of their rows."""
        view = json.loads(self.header())
        for name, data in self.sections()[1:]:
            view[f"{name.decode()}_commitment"] = hashlib.sha256(data).hexdigest()
        return {**view, "digest": self.digest(), "learning_rates": self.learning_rates, "steps": self.steps}


def parse(header: bytes, data: bytes, start: bytes, end: bytes) -> Statement:
    """The statement with exactly these bytes; BadInput for anything that is not canonical or out of range."""
    if len(header) > LONGEST_HEADER:
        raise BadInput(f"the statement's header has {len(header)} bytes; {LONGEST_HEADER} are allowed")
    if header.count(b"[") + header.count(b"{") > MOST_BRACKETS:
        raise BadInput("the statement nests too deeply")  # Python's own limit can be raised beyond what its stack can hold
    try:
        fields = json.loads(header.decode("ascii"))
        if not isinstance(fields, dict) or fields.pop("version", None) != VERSION:
            raise BadInput(f"the statement is not of version {VERSION}, the one this program knows")
        fields["widths"], fields["rates"] = tuple(fields["widths"]), tuple(fields["rates"])
        for name, kind in methods.SPECS.items():
            fields[name] = methods.read(kind, fields.get(name))
        fields["sampler"] = samplers.read(fields.get("sampler"))
        statement = Statement(**fields, data=data, start=start, end=end)
        check(statement)
        canonical = statement.header() == header
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BadInput(f"the statement cannot be read: {type(error).__name__}: {str(error)[:120]}") from None
    if not canonical:
        raise BadInput("the statement is not in canonical form")
    return statement


def check(s: Statement) -> None:
    """Refuse a statement whose fields are out of range or for which a relation could wrap around modulo r."""
    limits: dict[str, tuple[int, int]] = {
        "batch": (1, 1 << 20),
        "first_step": (0, 1 << 40),
        "rows": (1, 1 << 22),
        "activation_bits": (2, 14),
        "gradient_bits": (2, 15),
        "weight_bits": (16, 48),
        "columns": (4, 15),
        "segment": (0, 1 << 32),
        "start_bound": (1, 1 << 240),
    }
    for name, (low, high) in limits.items():
        require_integer(name, getattr(s, name), low, high)
    if not 2 <= len(s.widths) <= 65:
        raise BadInput(f"statement field 'widths' names {len(s.widths) - 1} layers; 1 to 64 are allowed")
    for width in s.widths:
        require_integer("widths", width, 1, 1 << 16)
    if not 1 <= s.steps <= 1 << 20:
        raise BadInput("statement field 'rates' must have between 1 and 2^20 entries")
    if s.steps * s.batch > 1 << 22:
        raise BadInput("a segment holds at most 2^22 samples (steps times batch)")
    for rate in s.rates:
        require_integer("rates", rate, 1, 1 << 48)
    lengths = {"seed": None, "batch_seed": 64, "previous": 64 if s.segment else 0}
    for name, length in (lengths if s.records is None else {**lengths, "records": 64}).items():
        text = getattr(s, name)
        if not isinstance(text, str) or len(text) > 1024:
            raise BadInput(f"statement field '{name}' must be a short string")
        if length is not None and (len(text) != length or any(c not in "0123456789abcdef" for c in text)):
            raise BadInput(f"statement field '{name}' must be {length} hexadecimal digits")
    if any("\ud800" <= character <= "\udfff" for character in s.seed):
        raise BadInput("statement field 'seed' holds a lone surrogate, which no text file can")
    require_one_of("loss", s.loss, LOSSES)
    if s.gradient_bits < s.activation_bits or s.update_bits < 0:
        raise BadInput("the fixed-point widths do not fit: gradient_bits >= activation_bits and weight_bits >= their sum")
    if s.batch > s.rows:
        raise BadInput(f"a batch of {s.batch} cannot be drawn from {s.rows} rows")
    if s.segment == 0 and s.start_bound != first_start_bound(s):
        raise BadInput("the first segment must state the bound that its range check proves")
    if s.segment == 0 and s.first_step != 0:
        raise BadInput("the first segment must begin at step 0")
    _check_methods(s)
    if s.sampler is not None:
        s.sampler.check(s.rows, s.batch)
    if (s.sampler or s.galore or s.fp8) and len(s.header()) > LONGEST_HEADER:
        raise BadInput(f"with its sampler's and methods' lists the statement's header has more than {LONGEST_HEADER} bytes")
    if largest_integer(s) >= MODULUS >> 2:
        raise BadInput("with these shapes, rates and bounds a relation could wrap around modulo the field's order")


def _check_methods(s: Statement) -> None:
    if s.galore is not None and s.lora is not None:
        raise BadInput(
            "GaLore projects the updates of whole matrices, of which LoRA makes none: a statement has one of the two"
        )
    if s.galore is not None:
        s.galore.check(s.widths, s.first_step)
    if s.lora is not None:
        s.lora.check(s.widths, s.rates)
    if s.fp8 is not None:
        s.fp8.check(s.widths)
        fp8.check(s)


def first_start_bound(s: Statement) -> int:
    """What the range check of the first segment's start weights proves: |W| <= 2^(weight_bits + 3)."""
    return 1 << (s.weight_bits + WEIGHT_MARGIN)


def end_bound(s: Statement) -> int:
    """|W| after this segment: start bound plus the sum over steps of what a step can add; with LoRA that of the adapters."""
    activation, gradient = s.batch * _largest_activation(), s.batch * _largest_gradient(s)
    if s.galore is not None:
        return s.start_bound + sum(s.rates) * max(s.galore.ranks) * SIGNED * SIGNED
    if s.lora is not None:
        first, second = sum(s.rates) * activation * SIGNED, sum(s.lora.second_rates(s.rates)) * gradient * SIGNED
        return s.start_bound + max(first, second)
    return s.start_bound + sum(s.rates) * activation * _largest_gradient(s)


def largest_integer(s: Statement) -> int:
    """Above the absolute value of both sides of every relation that is checked modulo r, over the integers."""
    widest, weight = max(s.widths) + 1, max(end_bound(s), first_start_bound(s) if s.lora else 0)
    number = max(_largest_activation(), _largest_gradient(s))
    product = (widest + (max(s.lora.ranks) if s.lora else 0)) * number * weight
    rescaled = 1 << (s.weight_bits + ACTIVATION_RANGE + 2)
    softmax = s.widths[-1] << (2 * ACTIVATION_RANGE + EXPONENTIAL_BITS + 2)
    return max(product, rescaled, softmax, _largest_of_galore(s))


def _largest_of_galore(s: Statement) -> int:
    """Projections, bases' products, moments and what is divided."""
    if s.galore is None:
        return 0
    widest, shift, bits = max(s.widths) + 1, s.galore.shift, s.galore.moment_bits
    projected = widest * _largest_activation() * SIGNED * s.batch * _largest_gradient(s)
    moments = s.galore.second_kernel.largest * SIGNED * SIGNED + s.galore.first_kernel.largest * SIGNED
    return max(projected, widest * SIGNED * SIGNED, 1 << (shift + ACTIVATION_RANGE), moments, 1 << (bits + 36))


def derive_batch_seed(s: Statement) -> str:
    """Hex digest that fixes the batches: the public seed, bound to the data set, the first start weights and the sampler.

    With the sampler in it, nobody can choose lengths or views by the batches that they give.
    """
    parts = [b"zkaudit batch seed", s.seed.encode(), str((s.rows, s.batch)).encode(), s.data, s.start]
    if s.sampler is not None:
        parts.append(_canonical(samplers.written(s.sampler)))
    return hashlib.sha256(b"".join(len(x).to_bytes(8, "little") + x for x in parts)).hexdigest()


def check_succession(before: Statement, after: Statement) -> None:
    """`after` continues `before`: BadInput names the field that does not."""
    expected = replace(
        after,
        data=before.data,
        start=before.end,
        start_bound=end_bound(before),
        previous=before.digest(),
        segment=before.segment + 1,
        first_step=before.first_step + before.steps,
        **{name: getattr(before, name) for name in _CARRIED},
    )
    if (before.records is None) != (after.records is None):
        raise BadInput(f"segments {before.segment} and {after.segment} do not both have 'records'")
    for name, value in vars(expected).items():
        if getattr(after, name) != value:
            raise BadInput(f"segment {after.segment} does not continue segment {before.segment}: '{name}' differs")


_CARRIED = (
    *("widths", "loss", "batch", "rows", "activation_bits", "gradient_bits", "weight_bits"),
    *("seed", "batch_seed", "columns", "galore", "lora", "fp8", "sampler"),
)


def _canonical(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _largest_activation() -> int:
    return 1 << ACTIVATION_RANGE


def _largest_gradient(s: Statement) -> int:
    if s.loss == "cross_entropy":
        return (1 << ACTIVATION_RANGE) + (1 << s.gradient_bits)
    return 1 << (ACTIVATION_RANGE + 1 + s.gradient_bits - s.activation_bits)
