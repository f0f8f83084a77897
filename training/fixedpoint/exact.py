"""Exact products of integer matrices on float64 BLAS.

A matrix is a float64 tensor that holds integers of at most 53 bits. A product is exact, in whatever order it is summed, if
    (largest sum of |left| over a row) * (largest |right|) <= 2^53.
Where that does not hold, one operand is split into limbs for which it does, and the partial products are put together in int64,
whose bound is checked as well.

`rescaled_product` and `subtract_product` look at the operands and split the right one (the caller keeps the largest |weight|,
to look at the weights once a step). Their twins `bounded_product` and `bounded_update` are told bounds and look at nothing, so
that a GPU need not be waited for; they split the left operand, which is the small one, and put its limbs below each other, so
that the weights are read once. TrainingError from them says that the bounds prove too little."""

from __future__ import annotations

import torch
from torch import Tensor

from zkaudit.training.errors import TrainingError
from zkaudit.training.fixedpoint.rescale import rescale

EXACT = 1 << 53  # float64 holds every integer up to here
LARGEST = 1 << 62  # int64 sums stay within it
SHORTEST = 4  # bits of a limb of the left operand: with fewer, looking at the operands costs less


def rescaled_product(left: Tensor, right: Tensor, largest: int, bits: int) -> tuple[Tensor, Tensor]:
    """Quotient and remainder, int64, of left right + 2^(bits-1) divided by 2^bits; the remainder lies in [0, 2^bits).

    largest: no entry of `right` is larger in size.
    """
    parts, shift = _limb_products(left, right, largest, bits)
    _require_room(parts[1:], shift)
    return rescale(parts, shift, bits)


def bounded_product(left: Tensor, size: int, right: Tensor, largest: int, bits: int) -> tuple[Tensor, Tensor]:
    """The same as `rescaled_product`, given that no entry of `left` is larger than `size`, none of `right` than `largest`."""
    inner = left.shape[1]
    room = EXACT // (inner * max(largest, 1))
    shift = min(room.bit_length() - 1, bits)
    if shift < SHORTEST or inner * largest * ((size >> shift) + 1) > LARGEST:
        raise TrainingError("a product may exceed what its bounds allow")
    limbs = split(left, size, shift, room)
    products = torch.cat(limbs) @ right if len(limbs) > 1 else left @ right
    return rescale(products.reshape(len(limbs), len(left), -1), shift, bits)


def subtract_product(target: Tensor, largest: int, left: Tensor, right: Tensor, rate: int) -> int:
    """target -= rate * left right, in place; TrainingError if an entry leaves the 53 bits.

    largest: no entry of `target` is larger in size; returns the size of the largest one afterwards.
    """
    if rate * _reach(left) * magnitude(right) + largest <= EXACT:
        target.addmm_(left, right, alpha=-rate)
    else:
        product = _joined(*_limb_products(left, right, magnitude(right), 32))
        if rate * magnitude(product) > LARGEST:
            raise TrainingError("an update exceeds 62 bits")
        target.copy_(target.to(torch.int64) - rate * product)
    largest = magnitude(target)
    if largest >= EXACT:
        raise TrainingError("a weight exceeds 53 bits")
    return largest


def bounded_update(target: Tensor, largest: int, left: Tensor, right: Tensor, product: int, rate: int) -> Tensor:
    """target - rate * left right, a new tensor, given that no sum of |left| |right| over the inner index exceeds `product`."""
    if rate * product + largest > EXACT:
        raise TrainingError("an update may exceed what its bounds allow")
    return torch.addmm(target, left, right, alpha=-rate)


def product(left: Tensor, right: Tensor) -> Tensor:
    """left right, int64; TrainingError if it could leave 62 bits."""
    return _joined(*_limb_products(left, right, magnitude(right), 32))


def sum_of_squares(values: Tensor) -> int:
    """Of int64, exact, whatever its size: 2^20 products of limbs of 16 bits at a time stay within float64."""
    sizes = values.abs().reshape(-1)
    limbs = torch.stack([(sizes >> shift & 0xFFFF).to(torch.float64) for shift in range(0, 64, 16)])
    total = 0
    for first in range(0, len(sizes), 1 << 20):
        part = limbs[:, first : first + (1 << 20)]
        products = (part @ part.T).to(torch.int64).tolist()
        total += sum(x << (16 * (i + k)) for i, row in enumerate(products) for k, x in enumerate(row))
    return total


def magnitude(values: Tensor) -> int:
    """The largest absolute value; 0 for an empty tensor."""
    if values.numel() == 0:
        return 0
    low, high = torch.aminmax(values)
    return max(-int(low), int(high))


def split(values: Tensor, size: int, shift: int, room: int) -> list[Tensor]:
    """Limbs l, each at most `room` in size, such that values = sum of l[i] 2^(i shift); all but the last lie in [0, 2^shift).

    size: no value is larger in size. room >= 2^shift.
    """
    limbs, rest = [], values
    while size > room:
        above = torch.floor(rest * 2.0**-shift)
        limbs.append(rest - above * 2.0**shift)
        rest, size = above, (size >> shift) + 1
    return [*limbs, rest]


def _reach(left: Tensor) -> int:
    """The largest sum of absolute values over a row."""
    return int(left.abs().sum(dim=1).max())


def _limb_products(left: Tensor, right: Tensor, largest: int, most: int) -> tuple[Tensor, int]:
    """Exact products P, float64 (limbs, rows, columns), and a shift <= `most`: left right = sum of P[i] 2^(i shift)."""
    room = EXACT // max(_reach(left), 1)
    if room < 1 << 8:
        raise TrainingError("the left operand of a product exceeds 45 bits")
    shift = min(room.bit_length() - 1, most)
    limbs = split(right, largest, shift, room)
    return (torch.stack([left @ limb for limb in limbs]) if len(limbs) > 1 else (left @ right)[None]), shift


def _joined(parts: Tensor, shift: int) -> Tensor:
    """Sum of parts[i] 2^(i shift), int64; TrainingError if it could leave int64."""
    _require_room(parts, shift)
    total = parts[0].to(torch.int64)
    for i, part in enumerate(parts[1:], 1):
        total += part.to(torch.int64) << (i * shift)
    return total


def _require_room(parts: Tensor, shift: int) -> None:
    if sum(magnitude(part) << (i * shift) for i, part in enumerate(parts)) > LARGEST:
        raise TrainingError("a sum of products exceeds 62 bits")
