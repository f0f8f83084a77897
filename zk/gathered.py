"""The prover's side of the gather sumcheck: sums over committed tables that are never written out as field elements.

A weight is an outer product, high x low, and the low variables are bound first.

    linear     sum over (h, l) of u[h] v[l] f(h, l): with f folded by u beforehand the low rounds run over vectors, and the high
               rounds over f at the low point. Both foldings are sums of small integers times elements.
    products   sum over (h, l) of u[h] v[l] f(h, l) g(h, l): three rounds come out of 27 sums over h of small products
               (cuda/ternary.cuh); then the tables have an eighth of their size and are written.

The messages are those of the plain sums (sumcheck.Products); small and unusual shapes use that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zkaudit.zk import field, mle, sumcheck
from zkaudit.zk.backend import contiguous, home, place_of
from zkaudit.zk.claims import Form, Weight
from zkaudit.zk.field import Array

GROUP = 8  # weights whose rounds are made in one pass
LEAST_HIGHS, LEAST_LOWS = 32, 512  # below either, tables are small beside what the 27 sums take
ROUNDS = 3  # made from small integers


class LowFolded:
    """Committed tables at the low part of the sumcheck's point, each folded once: (highs, 4) by block name."""

    def __init__(self, tables: Mapping[str, Any]) -> None:
        self._tables = tables
        self._known: dict[str, Array] = {}

    def __call__(self, name: str, point: Sequence[int]) -> Array:
        """Table `name`, whose low variables are bound to `point`."""
        if name not in self._known:
            table = contiguous(self._tables[name])
            eq = mle.eq_table(point[: table.shape[1].bit_length() - 1])
            self._known[name] = field.segment_dot(eq, table, 1, table.shape[1])[:, 0]
        return self._known[name]


@dataclass(frozen=True)
class WeightedBlocks:
    """A weight on a combination of blocks of one shape: coefficients by name."""

    weight: Weight
    coefficients: Mapping[str, int]


class LinearSum:
    """The sum over several `WeightedBlocks` of one shape."""

    def __init__(self, parts: Sequence[WeightedBlocks], tables: Mapping[str, Any], folded: LowFolded) -> None:
        self._parts, self._folded = parts, folded
        self._highs, self._lows = len(parts[0].weight.high), len(parts[0].weight.low)
        self._point: list[int] = []
        self._high = self._lows == 1
        if self._high:
            self._inner = self._high_sum([field.to_ints(part.weight.low)[0] for part in parts])
        else:
            self._inner = self._low_sum(tables)

    @property
    def variables(self) -> int:
        """Variables not yet bound."""
        return max((self._highs * self._lows - 1).bit_length() - len(self._point), 0)

    def round_values(self, degree: int) -> list[int]:
        """The round polynomial at X = 0, 2, .., degree."""
        return self._inner.round_values(degree)

    def fold(self, r: int) -> None:
        """Bind the next variable."""
        self._inner.fold(r)
        self._point.append(r)
        if not self._high and self._inner.variables == 0:
            self._high = True
            self._inner = self._high_sum([field.to_ints(low)[0] for low in self._inner.tables[0::2]])

    def _low_sum(self, tables: Mapping[str, Any]) -> sumcheck.Products:
        vectors = []
        for part in self._parts:
            named = part.coefficients.items()
            parts = [(field.mul(part.weight.high, c), contiguous(tables[name])) for name, c in named]
            total = field.combine_all(parts, self._lows)
            vectors += [part.weight.low, total]
        return _pairs(vectors)

    def _high_sum(self, lows: Sequence[int]) -> sumcheck.Products:
        """`lows`: the parts' low weights at the low point."""
        vectors = []
        for part, low in zip(self._parts, lows, strict=True):
            total = field.zeros(self._highs)
            for name, coefficient in part.coefficients.items():
                total = field.add(total, field.mul(self._folded(name, self._point), coefficient))
            vectors += [field.mul(part.weight.high, low), total]
        return _pairs(vectors)


def _pairs(vectors: list[Array]) -> sumcheck.Products:
    return sumcheck.Products(vectors, [(i, i + 1) for i in range(0, len(vectors), 2)])


@dataclass(frozen=True)
class WeightedProduct:
    """Weights on the product of a left form with `right`."""

    right: Form
    weights: Sequence[Weight]


class ProductSum:
    """The sum over several `WeightedProduct`s with one left form, whose rounds begin with small integers."""

    def __init__(self, left: Form, parts: Sequence[WeightedProduct], tables: Mapping[str, Any]) -> None:
        self._left, self._parts, self._tables = left, parts, tables
        self._bound: list[int] = []
        self._highs = np.concatenate([_scaled_highs(part) for part in parts])
        self._lows = np.stack([weight.low for part in parts for weight in part.weights])
        # Axes: t0, t1, t2 of the 27 sums, then weight and group of lows.
        self._sums = np.concatenate([_ternary(left, part, tables) for part in parts], axis=3)
        self._inner: sumcheck.Products | None = None

    @property
    def variables(self) -> int:
        """Variables not yet bound."""
        if self._inner:
            return self._inner.variables
        return int(self._highs.shape[1] * self._lows.shape[1] - 1).bit_length()

    def round_values(self, degree: int) -> list[int]:
        """The round polynomial at X = 0, 2, .., degree."""
        if self._inner:
            return self._inner.round_values(degree)
        zero, one, infinity = (self._at_booleans(t) for t in range(3))
        low, high = self._low_halves()
        values, step = [], field.sub(high, low)
        for x in (0, *range(2, degree + 1)):
            products = field.add(field.mul(zero, 1 - x), field.add(field.mul(one, x), field.mul(infinity, x * (x - 1))))
            values.append(field.dot(products, field.add(low, field.mul(step, x))))
        return values

    def fold(self, r: int) -> None:
        """Bind the next variable."""
        if self._inner:
            return self._inner.fold(r)
        self._bound.append(r)
        lows = self._lows.reshape(-1, 4)
        self._lows = mle.fold(lows, r).reshape(len(self._lows), -1, 4)
        if len(self._bound) == ROUNDS:
            self._inner = self._written()
            return
        zero, one, infinity = (contiguous(part) for part in self._sums)
        self._sums = field.add(field.mul(zero, 1 - r), field.add(field.mul(one, r), field.mul(infinity, r * (r - 1))))

    def _at_booleans(self, t: int) -> Array:
        """The sums at value t of the free variable, 0 and 1 of those after it: (.., weights, groups, 4)."""
        values = self._sums[t]
        for axis in range(values.ndim - 3):
            values = values[(slice(None),) * axis + (slice(0, 2),)]
        return contiguous(values)  # type: ignore[no-any-return]

    def _low_halves(self) -> tuple[Array, Array]:
        """The low weights where the free variable is 0 and where it is 1, axes as in `_at_booleans`."""
        later = ROUNDS - len(self._bound) - 1
        split = self._lows.reshape(len(self._lows), -1, *[2] * (later + 1), 4)  # (weights, groups, last variable, .., free one)
        order = [*range(later + 1, 1, -1), 0, 1, later + 2]
        low, high = (contiguous(split[..., x, :].transpose(order)) for x in (0, 1))
        return low, high

    def _written(self) -> sumcheck.Products:
        chi = mle.eq_table(self._bound)
        tables, first = [_folded(self._left, self._tables, chi)], 0
        terms: list[tuple[int, ...]] = []
        for part in self._parts:
            last = first + len(part.weights)
            terms.append((0, len(tables), len(tables) + 1))
            at = place_of(tables[0])
            tables += [field.outer_sum(self._highs[first:last], contiguous(self._lows[first:last]), at)]
            tables += [_folded(part.right, self._tables, chi)]
            first = last
        return sumcheck.Products(tables, terms)


def product_sum(
    left: Form, parts: Sequence[WeightedProduct], shape: tuple[int, int], tables: Mapping[str, Any]
) -> sumcheck.Sum:
    """The sum as it is made fastest; with tables written out where they are small or their integers are not."""
    if is_wide(*shape) and all(_is_narrow(form, tables) for form in (left, *(part.right for part in parts))):
        return ProductSum(left, parts, tables)
    written = [_written(left, shape, tables)]
    terms: list[tuple[int, ...]] = []
    for part in parts:
        terms.append((0, len(written), len(written) + 1))
        at = place_of(written[0])
        written += [field.outer_sum(_scaled_highs(part), np.stack([weight.low for weight in part.weights]), at)]
        written += [_written(part.right, shape, tables)]
    return sumcheck.Products(written, terms)


def is_wide(highs: int, lows: int) -> bool:
    """Whether products over tables of this shape begin with small integers instead of written tables."""
    return highs >= LEAST_HIGHS and lows >= LEAST_LOWS


def linear_sums(parts: Sequence[WeightedBlocks], tables: Mapping[str, Any], folded: LowFolded) -> list[LinearSum]:
    """The sums over `parts`, all of one shape."""
    return [LinearSum(parts[i : i + GROUP], tables, folded) for i in range(0, len(parts), GROUP)]


def _scaled_highs(part: WeightedProduct) -> Array:
    return np.stack([field.mul(weight.high, weight.coefficient) for weight in part.weights])


def _written(form: Form, shape: tuple[int, int], tables: Mapping[str, Any]) -> Array:
    size = shape[0] * shape[1]
    return field.affine(form.constant, [(c, contiguous(tables[name]).reshape(-1)) for c, name in form.terms], size)


def _is_narrow(form: Form, tables: Mapping[str, Any]) -> bool:
    """Whether the form is a small constant plus or minus one table of 8 or 16 bits an entry."""
    if len(form.terms) != 1 or form.terms[0][0] not in (1, -1) or abs(form.constant) > 1 << 16:
        return False
    kind: np.dtype[Any] = tables[form.terms[0][1]].dtype
    return kind.kind == "u" and kind.itemsize <= 2


def _ternary(left: Form, part: WeightedProduct, tables: Mapping[str, Any]) -> Array:
    """The 27 sums over highs for each weight: (3, 3, 3, weights, groups, 4)."""
    (left_scale, left_name), (right_scale, right_name) = left.terms[0], part.right.terms[0]
    highs = _scaled_highs(part)
    a, b = contiguous(tables[left_name]), contiguous(tables[right_name], np.uint16)
    at = place_of(a, b)
    out: Array = at.empty(27, len(highs), a.shape[1] // 8, 4)
    at.core.ternary_sums(a, left_scale, left.constant, b, right_scale, part.right.constant, highs, len(highs), out)
    return out.reshape(3, 3, 3, len(highs), -1, 4)


def _folded(form: Form, tables: Mapping[str, Any], chi: Array) -> Array:
    """The form with its first three variables bound."""
    scale, name = form.terms[0]
    table = contiguous(tables[name])
    at = place_of(table)
    out = at.empty(table.size // 8, 4)
    at.core.fold_small(table, field.from_ints([scale]), field.from_ints([form.constant]), chi, out)
    return home(out)  # type: ignore[no-any-return]
