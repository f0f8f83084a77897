"""Every table that GaLore, LoRA or FP8 adds has its range, by itself: an entry beyond it is caught by the lookup alone."""

from __future__ import annotations

import fp8_liars
import galore_liars
import lora_liars
import numpy as np
import pytest
import stored_liars
from left_out import Cheat, altered, both
from method_segments import honest, train
from test_relations import accepted, changed

from zkaudit.zk.circuit import casts, galore, lora
from zkaudit.zk.layout import Layout
from zkaudit.zk.tables import narrow
from zkaudit.zk.witness import Witness

GALORE = honest(galore_liars.HONEST)
STORED = honest(stored_liars.HONEST)
LORA = honest(train(lora_liars.ADAPTED, lora_liars.DATA))
FP8 = honest(train(fp8_liars.CASTING, fp8_liars.DATA))


def ranged(witness: Witness) -> dict[str, int]:
    """Bits of what the witness's method adds."""
    s = witness.layout.statement
    return {block.name: bits for block, bits in [*galore.ranges(s), *lora.ranges(s, witness.layout.samples)]}


NAMES = [(witness, name) for witness in (GALORE, STORED, LORA) for name in ranged(witness)]


@pytest.mark.parametrize(("witness", "name"), NAMES)
def test_an_entry_outside_its_range_is_caught(witness: Witness, name: str) -> None:
    assert not accepted("lookup", witness, changed(witness, name, 0, 0, 1 << ranged(witness)[name]))


@pytest.mark.slow
@pytest.mark.parametrize(("witness", "name"), NAMES)
def test_padding_below_zero_is_caught(witness: Witness, name: str) -> None:
    block = witness.layout.named[name]
    assert not accepted("lookup", witness, changed(witness, name, block.highs - 1, block.lows - 1, -1))


@pytest.mark.parametrize("witness", [GALORE, STORED, LORA, FP8])
def test_the_largest_and_least_entries_are_in_range(witness: Witness) -> None:
    """The lookup refuses nothing that it need not."""
    changes = {}
    for name, bits in ranged(witness).items():
        table = witness.tables[name].astype(np.int64)
        table.flat[0], table.flat[-1] = (1 << bits) - 1, 0
        changes[name] = narrow(table)
    assert accepted("lookup", witness, changes)


PAIRS = [
    *((FP8, casts.of_layer(fp8_liars.CASTING, kind, j)) for kind in ("p", "ga") for j in (0, 1)),
    *((STORED, cast) for cast in casts.of_moments(stored_liars.STORED)),
]


@pytest.mark.parametrize(("witness", "cast"), PAIRS, ids=lambda x: x.result if isinstance(x, casts.Cast) else "")
def test_a_pair_that_is_no_row_of_its_table_is_caught(witness: Witness, cast: casts.Cast) -> None:
    """A number beside the cast of another, and a number beyond 16 bits beside any."""
    block, number = witness.layout.named[cast.result], int(witness.tables[cast.argument][0, 0])
    padding = int(witness.tables[cast.result][-1, -1])
    assert not accepted("lookup", witness, changed(witness, cast.result, 0, 0, int(witness.tables[cast.result][0, 0]) + 1))
    assert not accepted("lookup", witness, changed(witness, cast.result, block.highs - 1, block.lows - 1, padding + 1))
    assert not accepted("lookup", witness, changed(witness, cast.argument, 0, 0, (1 << 16) + number))


def test_casts_of_gradients_are_not_looked_up_among_activations() -> None:
    """Tables have numbers: with one scale and format for both, a pair of one kind is none of the other."""
    s = fp8_liars.CASTING
    tables = casts.tables(s)
    assert len(set(tables.values())) == len(tables) == 2
    numbers = {casts.groups(casts.of_layer(s, name, j), casts.numbers(s), 8)[0].table for name in ("p", "ga") for j in (0, 1)}
    assert numbers == tables.keys()


LIMBS = ["start0.first.0", "start1.second.1", "frozen0.2", "frozen1.bias.1"]


@pytest.mark.parametrize("name", LIMBS)
def test_limbs_are_those_of_adapters_and_frozen_weights(name: str) -> None:
    """All of which a chain begins with, the frozen ones included, lie in their bound."""
    assert set(LIMBS) <= {block.name for block in Layout(lora_liars.ADAPTED).witness}
    table = LORA.tables[name].astype(np.int64)
    table[0, 0] ^= 1
    assert not Cheat(lambda: altered(LORA, **{name: narrow(table)}), both()).succeeds()
