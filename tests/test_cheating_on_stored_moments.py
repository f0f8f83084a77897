"""For every relation of moments stored in 8 bits, a prover that breaks just that one and computes all that follows honestly is
refused, in the clear."""

from __future__ import annotations

from functools import partial

import galore_liars
import pytest
import stored_liars as liars
from left_out import OF_LATER_STORED, OF_STORED, Change, Cheat, both, of_layer, pairs, ranges
from method_segments import honest, lying, train
from test_cheating_on_methods import assert_bound_to, assert_one_relation_is_broken

ONE = 1 << liars.SPEC.moment_bits


def relation(name: str, layer: int) -> Change:
    return of_layer(name, layer, OF_STORED)


def of_kind(kind: str, j: int) -> dict[str, Cheat]:
    """About the first or the second moment of layer j."""
    cast, averaged = pairs(f"{kind}{j}"), relation("rounded" if kind == "first" else "root", j)
    return {
        "one code up": Cheat(liars.miscast(kind, j, liars.next_code), cast),
        "not cast": Cheat(liars.miscast(kind, j, liars.uncast), cast),
        "saturation hidden": Cheat(liars.miscast(kind, j, liars.unsaturated, liars.NARROW), cast),
        "the number before its cast": Cheat(liars.before(kind, j, liars.never_cast(kind)), averaged),
        "that of the step before": Cheat(liars.before(kind, j, liars.of_step(kind, 0)), averaged),
        "that of the step itself": Cheat(liars.before(kind, j, liars.of_step(kind, 2)), averaged),
        "two steps' changed places": Cheat(partial(liars.swapped, kind, j), both(cast, averaged)),
        "not decayed": Cheat(liars.not_decayed(kind, j), averaged),
        "averaged with another step's numbers": Cheat(liars.of_another_step(kind, j), averaged),
        "another average": Cheat(liars.average(kind, j, ONE), averaged),
        "not zero at first": Cheat(
            partial(galore_liars.begun_with, int(kind == "second"), j, liars.HONEST), relation(f"{kind} zero", j)
        ),
        "another one at the end": Cheat(partial(galore_liars.other_end, kind, j, liars.HONEST), relation(f"{kind} end", j)),
    }


def of_step(j: int) -> dict[str, Cheat]:
    """About what a step of layer j makes of its moments."""
    root, direction = f"root{j}", f"direction{j}"
    off_by_one = partial(galore_liars.off_by_one, layer=j, statement=liars.STORED)
    return {
        "rest one more": Cheat(liars.average("first", j, 1), relation("rounded", j)),
        "x one more, out of range": Cheat(liars.exact(j, 1), ranges(f"first{j}.rest")),
        "x one less, out of range": Cheat(liars.exact(j, -1), ranges(f"first{j}.rest")),
        "root one more, out of range": Cheat(off_by_one("root", amount=1), ranges(f"{root}.above")),
        "root one less, out of range": Cheat(off_by_one("root", amount=-1), ranges(f"{root}.below")),
        "root one less, not fitting": Cheat(
            off_by_one("root", amount=-1, repair=galore_liars.root_slacks(j)), relation("root below", j)
        ),
        "direction one more, out of range": Cheat(off_by_one("direction", amount=1), ranges(f"{direction}.rest")),
        "direction one more, not fitting": Cheat(
            off_by_one("direction", amount=1, repair=galore_liars.quotient_slacks(j)), relation("quotient", j)
        ),
        "direction one less, not fitting": Cheat(
            off_by_one("direction", amount=-1, repair=galore_liars.quotient_slacks(j)), relation("quotient below", j)
        ),
    }


KINDS = [
    pytest.param(kind, j, name, marks=[] if (kind == "second") == bool(j) else [pytest.mark.slow])
    for kind in ("first", "second")
    for j in (0, 1)
    for name in of_kind(kind, j)
]


@pytest.mark.parametrize(("kind", "layer", "name"), KINDS)
def test_another_stored_moment_is_refused(kind: str, layer: int, name: str) -> None:
    assert_one_relation_is_broken(of_kind(kind, layer)[name])


@pytest.mark.parametrize("layer", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", of_step(0))
def test_another_step_is_refused(layer: int, name: str) -> None:
    assert_one_relation_is_broken(of_step(layer)[name])


@pytest.mark.parametrize("kind", ["first", "second"])
def test_a_cast_of_another_group_s_range_is_refused(kind: str) -> None:
    assert_one_relation_is_broken(Cheat(liars.miscast(kind, 0, liars.another_group_s, liars.GROUPED), pairs(f"{kind}0")))


@pytest.mark.parametrize("moment", [0, 1])
def test_stored_moments_that_the_segment_before_did_not_commit_to_are_refused(moment: int) -> None:
    """Neither opened as what they are, nor used in place of what is opened."""
    assert_bound_to(*galore_liars.handed_on(moment, liars.HONEST))
    name = ("rounded", "root")[moment]
    assert_one_relation_is_broken(
        Cheat(partial(galore_liars.handed_on_as_committed, moment, liars.HONEST), of_layer(name, 0, OF_LATER_STORED))
    )


@pytest.mark.parametrize("statement", [liars.STORED, liars.NARROW, liars.GROUPED])
def test_the_honest_trainer_is_accepted(statement: liars.Statement) -> None:
    made = train(statement)
    assert Cheat(lambda: honest(made), both()).succeeds()
    assert Cheat(lambda: lying(made), both()).succeeds()
