"""Gather: all claims of a proof, settled in one sumcheck and one opening.

With a challenge chi, claim i enters with chi^i:

    sum_i chi^i (value_i - constant_i) = sum over blocks of <weight, block> + sum over product parts of <weight, left * right>

Both sides are sums over cubes of different sizes; one sumcheck of degree 3 reduces them to each block's value at a prefix of
one point. Those values are sent hidden, products of two hidden values are required as such, and since all blocks share the
point's first variables, one opening ties every value to its commitment. zkReLU's products are product parts here, so zkReLU
costs no sumcheck of its own. Error: (claims + 3 n + blocks) / |F|."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from hashlib import sha256
from typing import Any

from zkaudit.zk import field, mle, sumcheck
from zkaudit.zk.channel import Channel, ProverChannel, VerifierChannel
from zkaudit.zk.claims import Claim, Form, ProductPart, Weight
from zkaudit.zk.field import MODULUS, Array
from zkaudit.zk.gathered import LowFolded, WeightedBlocks, WeightedProduct, linear_sums, product_sum
from zkaudit.zk.layout import Layout
from zkaudit.zk.linear import Linear, combination

DEGREE = 3


@dataclass
class _Shape:
    """What falls on blocks of one shape: blocks that share an outer product, and products that share their forms."""

    highs: int
    lows: int
    linear: dict[tuple[bytes, bytes], tuple[Weight, dict[str, int]]] = dataclass_field(default_factory=dict)
    products: dict[tuple[Form, Form], list[Weight]] = dataclass_field(default_factory=dict)

    @property
    def variables(self) -> int:
        return (self.highs * self.lows - 1).bit_length()


def prove(claims: Sequence[Claim], tables: Mapping[str, Any], layout: Layout, channel: ProverChannel) -> None:
    """Settle `claims` about `tables` (block name -> small integers of the block's shape)."""
    shapes, claim = _batched(claims, layout, channel)
    folded = LowFolded(tables)
    sums = [s for shape in shapes for s in _sums(shape, tables, folded)]
    point, claim = sumcheck.prove(sums, DEGREE, claim, channel, "gather")
    equalities = _Equalities(point)
    values = [field.dot(equalities(b.lows, b.highs), folded(b.name, point)) for b in layout.blocks]
    named = dict(zip((b.name for b in layout.blocks), channel.send(values, "block values"), strict=True))
    total = []
    for shape, (left, right) in _final_products(shapes, named, equalities):
        product = channel.send([channel.value(left) * channel.value(right)], "gathered product")[0]
        channel.require_product(left, right, product, "gathered product")
        total.append((sumcheck.missing_factor(point, shape.variables), product))
    _close(shapes, total, claim, named, equalities, layout, channel)


def verify(claims: Sequence[Claim], layout: Layout, channel: VerifierChannel) -> None:
    """The verifier's side."""
    shapes, claim = _batched(claims, layout, channel)
    point, claim = sumcheck.verify(max(shape.variables for shape in shapes), DEGREE, claim, channel, "gather")
    equalities = _Equalities(point)
    named = dict(zip((b.name for b in layout.blocks), channel.receive(len(layout.blocks), "block values"), strict=True))
    total = []
    for shape, (left, right) in _final_products(shapes, named, equalities):
        product = channel.receive(1, "gathered product")[0]
        channel.require_product(left, right, product, "gathered product")
        total.append((sumcheck.missing_factor(point, shape.variables), product))
    _close(shapes, total, claim, named, equalities, layout, channel)


def _batched(claims: Sequence[Claim], layout: Layout, channel: Channel) -> tuple[list[_Shape], Linear]:
    """All claims as one, and what it weighs, by shape; ValueError for a product of blocks of different shapes, which a prover
    could fake: a short block's row goes on where the other's entries are (docs/proof-system.md, 11)."""
    chi, power = channel.challenge("gather claims"), 1
    digest = _Digests()
    shapes: dict[tuple[int, int], _Shape] = {}
    values = []
    for claim in claims:
        values.append((power, claim.value - claim.constant))
        for part in claim.blocks:
            shape = shapes.setdefault((part.block.highs, part.block.lows), _Shape(part.block.highs, part.block.lows))
            key = digest(part.weight.high), digest(part.weight.low)
            _, coefficients = shape.linear.setdefault(key, (part.weight, {}))
            name = part.block.name
            coefficients[name] = (coefficients.get(name, 0) + power * part.weight.coefficient) % MODULUS
        for product in claim.products:
            _require_one_shape(product, layout)
            shape = shapes.setdefault((product.highs, product.lows), _Shape(product.highs, product.lows))
            weight = product.weight
            scaled = Weight(power * weight.coefficient % MODULUS, weight.high, weight.low)
            shape.products.setdefault((product.left, product.right), []).append(scaled)
        power = power * chi % MODULUS
    return list(shapes.values()), combination(values)


def _require_one_shape(product: ProductPart, layout: Layout) -> None:
    for _, name in (*product.left.terms, *product.right.terms):
        block = layout.named[name]
        if (block.highs, block.lows) != (product.highs, product.lows):
            raise ValueError(f"a product over {product.highs} x {product.lows} entries cannot take block '{name}'")


def _sums(shape: _Shape, tables: Mapping[str, Any], folded: LowFolded) -> list[sumcheck.Sum]:
    """The prover's sums: the weighted blocks, and for each left form all it is multiplied with."""
    sums: list[sumcheck.Sum] = []
    if shape.linear:
        sums += linear_sums([WeightedBlocks(*part) for part in shape.linear.values()], tables, folded)
    lefts: dict[Form, list[WeightedProduct]] = {}
    for (left, right), weights in shape.products.items():
        lefts.setdefault(left, []).append(WeightedProduct(right, weights))
    return sums + [product_sum(left, parts, (shape.highs, shape.lows), tables) for left, parts in lefts.items()]


def _final_products(
    shapes: Sequence[_Shape], named: Mapping[str, Linear], equalities: _Equalities
) -> list[tuple[_Shape, tuple[Linear, Linear]]]:
    """Products of hidden values left at the point: for each left form, the weighted sum of its right forms."""
    found = []
    for shape in shapes:
        rights: dict[Form, list[tuple[int, Linear]]] = {}
        for (left, right), weights in shape.products.items():
            at_point = sum(equalities.weight(weight) for weight in weights) % MODULUS
            rights.setdefault(left, []).append((at_point, _form_value(right, named)))
        found += [(shape, (_form_value(left, named), combination(pairs))) for left, pairs in rights.items()]
    return found


def _close(
    shapes: Sequence[_Shape],
    products: list[tuple[int, Linear]],
    claim: Linear,
    named: Mapping[str, Linear],
    equalities: _Equalities,
    layout: Layout,
    channel: Channel,
) -> None:
    """The final claim is what the blocks' values say; the values are what the commitments hold."""
    terms = list(products)
    for shape in shapes:
        factor = sumcheck.missing_factor(equalities.point, shape.variables)
        for weight, coefficients in shape.linear.values():
            at_point = equalities.outer(weight) * factor % MODULUS
            terms += [(c * at_point % MODULUS, named[name]) for name, c in coefficients.items()]
    channel.require_zero(combination(terms) - claim, "gathered claims")
    powers = field.to_ints(field.powers(channel.challenge("open blocks"), len(layout.blocks)))
    opened = combination((power, named[block.name]) for power, block in zip(powers, layout.blocks, strict=True))
    channel.open(layout.blocks, powers, equalities.point, opened)


class _Equalities:
    """eq tables of slices of the final point, and weights evaluated there."""

    def __init__(self, point: Sequence[int]) -> None:
        self.point = list(point)
        self._tables: dict[tuple[int, int], Array] = {}
        self._dots: dict[tuple[int, int, bytes], int] = {}
        self._digest = _Digests()

    def __call__(self, stride: int, length: int) -> Array:
        """eq of the variables that index a table of `length` entries of size `stride`."""
        if (stride, length) not in self._tables:
            first = stride.bit_length() - 1
            self._tables[stride, length] = mle.eq_table(self.point[first : first + length.bit_length() - 1])
        return self._tables[stride, length]

    def outer(self, weight: Weight) -> int:
        """The extension of the outer product at the point."""
        return self._dot(weight.high, len(weight.low)) * self._dot(weight.low, 1) % MODULUS

    def weight(self, weight: Weight) -> int:
        """The same with the coefficient."""
        return weight.coefficient * self.outer(weight) % MODULUS

    def _dot(self, vector: Array, stride: int) -> int:
        key = stride, len(vector), self._digest(vector)
        if key not in self._dots:
            self._dots[key] = field.dot(vector, self(stride, len(vector)))
        return self._dots[key]


def _form_value(form: Form, named: Mapping[str, Linear]) -> Linear:
    return combination((c, named[name]) for c, name in form.terms) + form.constant


class _Digests:
    """Vectors by content; each array is read once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Array, bytes]] = {}  # holds the arrays, so that no identity is used twice

    def __call__(self, vector: Array) -> bytes:
        if id(vector) not in self._known:
            self._known[id(vector)] = vector, sha256(vector.tobytes()).digest()
        return self._known[id(vector)][1]
