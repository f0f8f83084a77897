"""GaLore's part of the witness: what a segment commits to of projected gradients, bases and moments.

Made from the projected gradients and bases that the trace holds; all else follows from them, as circuit/galore.py says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from zkaudit.zk.backend import place_of
from zkaudit.zk.block import LIMB, SIGN_OFFSET, limb_bits
from zkaudit.zk.circuit import galore
from zkaudit.zk.circuit.arithmetic import split
from zkaudit.zk.layout import Layout
from zkaudit.zk.methods import Kernel
from zkaudit.zk.trace import Integers, Trace, require_range


def galore_tables(trace: Trace, layout: Layout) -> dict[str, Integers]:
    """Projected gradients, and all that follows from them and from the moments before the segment."""
    s, tables = layout.statement, dict[str, Integers]()
    state = trace.state_before(s.first_step)[1][s.layers :]
    for layer in galore.layers(s):
        j, projected, rest = layer.layer, trace.projected("projected", layer), trace.projected("rest", layer)
        require_range(f"projected gradients of layer {j}", projected, -SIGN_OFFSET, SIGN_OFFSET)
        made = {f"projected{j}": projected + SIGN_OFFSET, **split(f"projected{j}.rest", rest, layer.spec.shift)}
        if layer.spec.is_committed:
            made |= _basis_tables(layer, trace.bases(layer))
        if layer.spec.is_adam:
            made |= moment_tables(layer, projected, *state[2 * j : 2 * j + 2])
        tables |= made
    return tables


def _basis_tables(layer: galore.Projected, bases: Integers) -> dict[str, Integers]:
    """Bases (units, periods * rank), and the products of their columns less what they should be."""
    require_range(f"bases of layer {layer.layer}", bases, -SIGN_OFFSET, SIGN_OFFSET)
    rank, products = layer.rank, []
    for k in range(layer.periods):
        basis = bases[:, k * rank : (k + 1) * rank]
        products.append(basis.T @ basis - (np.eye(rank, dtype=np.int64) << (2 * layer.spec.basis_bits)))
    name, bound = f"basis{layer.layer}", layer.spec.product_bound
    require_range(f"products of two columns of a basis of layer {layer.layer}", np.stack(products), -bound, bound)
    return {name: bases + SIGN_OFFSET, f"{name}.products": np.concatenate(products, axis=1) + bound}


def moment_tables(layer: galore.Projected, projected: Integers, first: Integers, second: Integers) -> dict[str, Integers]:
    """What Adam commits to, from projected gradients, (kept units, steps * rank), and moments before, (kept units, rank)."""
    spec, rank, steps = layer.spec, layer.rank, layer.statement.steps
    firsts, seconds = [first], [second]
    first_rests, second_rests, means, squares = (list[Integers]() for _ in range(4))
    for begin in range(0, steps, spec.gap):
        count = min(spec.gap, steps - begin)
        fresh = projected[:, begin * rank : (begin + count) * rank].reshape(-1, count, rank)
        mean, square = averages(spec.first_kernel, fresh, firsts[-1]), averages(spec.second_kernel, fresh**2, seconds[-1])
        for moments, rests, average in ((firsts, first_rests, mean), (seconds, second_rests, square)):
            last = average[:, -1]
            moments.append(last >> spec.moment_bits)
            rests.append(last - (moments[-1] << spec.moment_bits))
        means.append(mean.reshape(len(projected), -1))
        squares.append(square.reshape(len(projected), -1))
    root = layer.root.tables(np.concatenate(squares, axis=1))
    quotient = layer.quotient.tables(np.concatenate(means, axis=1), root[layer.root.name] + spec.epsilon)
    j = layer.layer
    made = {f"first{j}": np.concatenate(firsts, axis=1) + SIGN_OFFSET, f"first{j}.rest": np.concatenate(first_rests, axis=1)}
    made |= split(f"second{j}", np.concatenate(seconds, axis=1), galore.SECOND_BITS)
    return {**root, **quotient, **made, f"second{j}.rest": np.concatenate(second_rests, axis=1)}


def averages(kernel: Kernel, fresh: Integers, before: Integers) -> Integers:
    """A period's averages, (units, steps, rank), of what arises in it and of what was before, (units, rank)."""
    steps = fresh.shape[1]
    lags = np.arange(steps)[:, None] - np.arange(steps)
    matrix = np.where(lags >= 0, np.array(kernel.weights)[np.maximum(lags, 0)], 0)
    decayed = np.array(kernel.decay)[1 : steps + 1, None] * before[:, None]
    # Exact in float64, whose products are faster: fresh numbers have 31 bits, and a kernel's weights add up to 2^15 at most.
    return np.asarray((matrix.astype(np.float64) @ fresh.astype(np.float64)).astype(np.int64) + decayed)


def moments_after(layer: galore.Projected, tables: Mapping[str, Any]) -> list[Integers]:
    """A layer's moments after the witness's last step, (kept units, rank) each."""
    if not layer.spec.is_adam:
        return []
    last = slice(layer.periods * layer.rank, (layer.periods + 1) * layer.rank)

    def at_end(name: str) -> Integers:
        table = tables[name]
        return place_of(table).get(table)[: layer.kept, last].astype(np.int64)  # type: ignore[no-any-return]

    limbs = [at_end(f"second{layer.layer}.{k}") << (LIMB * k) for k, _ in enumerate(limb_bits(galore.SECOND_BITS))]
    return [at_end(f"first{layer.layer}") - SIGN_OFFSET, np.sum(limbs, axis=0)]
