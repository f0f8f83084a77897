"""GaLore's part of the witness: what a segment commits to of projected gradients, bases and moments.

Made from the projected gradients and bases that the trace holds; all else follows from them, as circuit/galore.py says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from zkaudit.zk.block import SIGN_OFFSET
from zkaudit.zk.circuit import galore
from zkaudit.zk.circuit.arithmetic import split
from zkaudit.zk.layout import Layout
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
        if layer.moments is not None:
            made |= layer.moments.tables(projected, *state[2 * j : 2 * j + 2])
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


def moments_after(layer: galore.Projected, tables: Mapping[str, Any]) -> list[Integers]:
    """A layer's moments after the witness's last step, (kept units, rank) each."""
    return layer.moments.after(tables) if layer.moments is not None else []
