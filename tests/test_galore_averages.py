"""Weights averaged backwards in time, whatever is done at once, and what that counts as work."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from method_segments import galore_of

from zkaudit.zk import field
from zkaudit.zk.circuit import galore, moments
from zkaudit.zk.field import MODULUS
from zkaudit.zk.proof_file import ProofFile
from zkaudit.zk.testing.segments import statement_of
from zkaudit.zk.verifier import work

STATEMENT = galore_of(statement_of(steps=7, rate=40), gap=3, ranks=(3, 2, 1))


@pytest.mark.parametrize("together", [1, 4, 1 << 18])
@pytest.mark.parametrize("layer", galore.layers(STATEMENT), ids=lambda layer: f"layer {layer.layer}")
def test_averaged_weights_are_those_of_the_sums(
    layer: galore.Projected, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments, "AVERAGED", together)
    rng = np.random.default_rng(3)
    weights = [int(x) for x in rng.integers(0, 1 << 60, layer.samples)]
    kernel, rank = layer.spec.second_kernel, layer.rank
    fresh, before = moments.averaged(layer, kernel, field.from_ints(weights))
    expected, begun = [0] * layer.samples, [0] * ((layer.periods + 1) * rank)
    for step in range(7):
        first = step // 3 * 3
        for place in range(rank):
            weight = weights[step * rank + place]
            begun[step // 3 * rank + place] += kernel.decay[step - first + 1] * weight
            for source in range(first, step + 1):
                expected[source * rank + place] += kernel.weights[step - source] * weight
    assert field.to_ints(fresh) == [x % MODULUS for x in expected]
    assert field.to_ints(before) == [x % MODULUS for x in begun]


def test_long_averages_and_public_bases_count_as_work() -> None:
    """A header of a few bytes can state periods and bases that a verifier is long about."""
    plain = statement_of(widths=(600, 512), batch=1, steps=512, rows=1024, rate=1)
    long = galore_of(plain, ranks=(512,), gap=512)
    assert work(ProofFile(long, b"")) > 512 * 512 * 512 // 32
    assert long.galore
    drawn = replace(plain, galore=replace(long.galore, basis="random"))
    assert work(ProofFile(drawn, b"")) > 512 * 512 * 512 // 32 + 601 * 512
