"""Exact products of integer matrices on float64 BLAS.

A matrix is a float64 tensor that holds integers of at most 53 bits. A product is exact, in whatever order it is summed, if
    (largest sum of |left| over a row) * (largest |right|) <= 2^53,
which is computed from the operands each time (the caller keeps the largest |weight|, to look at the weights once a step).
Where it does not hold, the right operand is split into limbs for which it does, and the partial products are put together in
int64, whose bound is checked as well."""

from __future__ import annotations

import torch
from torch import Tensor

from zkaudit.training.errors import TrainingError

EXACT = 1 << 53  # float64 holds every integer up to here
LARGEST = 1 << 62  # int64 sums stay within it


def rescaled_product(left: Tensor, right: Tensor, largest: int, bits: int) -> tuple[Tensor, Tensor]:
    """Quotient and remainder, int64, of left right + 2^(bits-1) divided by 2^bits; the remainder lies in [0, 2^bits).

    largest: no entry of `right` is larger in size.
    """
    parts, shift = _limb_products(left, right, largest, bits)
    low = parts[0] + (1 << (bits - 1))
    if len(parts) == 1:
        return low >> bits, _low_bits(low, bits)
    high = _joined(parts[1:], shift) + (low >> shift)
    return high >> (bits - shift), _low_bits(low, shift) + (_low_bits(high, bits - shift) << shift)


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


def magnitude(values: Tensor) -> int:
    """The largest absolute value; 0 for an empty tensor."""
    if values.numel() == 0:
        return 0
    low, high = torch.aminmax(values)
    return max(-int(low), int(high))


def _reach(left: Tensor) -> int:
    """The largest sum of absolute values over a row."""
    return int(left.abs().sum(dim=1).max())


def _limb_products(left: Tensor, right: Tensor, largest: int, most: int) -> tuple[list[Tensor], int]:
    """Exact int64 tensors P and a shift <= `most` such that left right = sum of P[i] 2^(i shift)."""
    reach = max(_reach(left), 1)
    shift = min((EXACT // reach).bit_length() - 1, most)
    if shift < 8:
        raise TrainingError("the left operand of a product exceeds 45 bits")
    limbs, rest = [], right
    while reach * largest > EXACT:
        above = torch.floor(rest * 2.0**-shift)
        limbs.append(rest - above * 2.0**shift)
        rest, largest = above, (largest >> shift) + 1
    return [(left @ limb).to(torch.int64) for limb in [*limbs, rest]], shift


def _joined(parts: list[Tensor], shift: int) -> Tensor:
    """Sum of parts[i] 2^(i shift); TrainingError if it could leave int64."""
    bound = sum(magnitude(part) << (i * shift) for i, part in enumerate(parts))
    if bound > LARGEST:
        raise TrainingError("a sum of products exceeds 62 bits")
    total = parts[0].clone()
    for i, part in enumerate(parts[1:], 1):
        total += part << (i * shift)
    return total


def _low_bits(values: Tensor, bits: int) -> Tensor:
    return values & ((1 << bits) - 1)
