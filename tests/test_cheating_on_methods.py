"""For every relation of GaLore, LoRA and FP8, a prover that breaks just that one and computes all that follows honestly is
refused, in the clear.

Each cheat is tried twice: without the relation that it breaks it must be accepted, which shows that nothing else is broken."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import fp8_liars
import galore_liars as liars
import lora_liars
import pytest
from left_out import OF_LATER_LAYER, OF_PROJECTION, Change, Cheat, both, claim, of_layer, ranges
from method_segments import honest, lying, train

from zkaudit.zk import fac4dnn, history
from zkaudit.zk.circuit import projection
from zkaudit.zk.statement import Statement
from zkaudit.zk.witness import Witness

PROJECTION = {name: claim(projection, i) for i, name in enumerate(OF_PROJECTION)}
FORWARD, BACKWARD = claim(fac4dnn, 0), claim(fac4dnn, 2)  # the results of the products
BEGUN, LEFT, RIGHT = (claim(history, i) for i in (0, 2, 3))  # the start weights; the history's two sides


def galore_by_one(j: int, amount: int) -> dict[str, Cheat]:
    """A number off by one, in layer j: once with slacks that leave their range, once with such as fit no equation."""
    above = amount > 0
    one = partial(liars.off_by_one, layer=j, amount=amount)
    root, direction = f"root{j}", f"direction{j}"
    return {
        "projection, out of range": Cheat(liars.projected(j, amount, True), ranges(f"projected{j}.rest")),
        "projection, not fitting": Cheat(liars.projected(j, amount, False), PROJECTION["result"]),
        "root, out of range": Cheat(one("root"), ranges(f"{root}.above" if above else f"{root}.below")),
        "root, not fitting": Cheat(one("root", repair=liars.root_slacks(j)), of_layer("root" if above else "root below", j)),
        "quotient, out of range": Cheat(one("direction"), ranges(f"{direction}.rest" if above else f"{direction}.slack")),
        "quotient, not fitting": Cheat(
            one("direction", repair=liars.quotient_slacks(j)), of_layer("quotient" if above else "quotient below", j)
        ),
    }


def galore_moments(j: int, k: int) -> dict[str, Cheat]:
    """About the first (k = 0) or the second moment of layer j."""
    kind, name, part = (("first", "mean", "quotient"), ("second", "square", "root"))[k]
    rest, moment = f"{kind}{j}.rest", partial(liars.off_by_one, kind, j)
    clipped = liars.clipped(rest, liars.SPEC.moment_bits)
    return {
        "another period's, out of range": Cheat(moment(1), ranges(rest)),
        "another period's, not fitting": Cheat(moment(1, repair=clipped), of_layer(f"{kind} rounded", j)),
        "not decayed": Cheat(liars.average(name, j, liars.not_decayed(j, k)), of_layer(part, j)),
        "forgotten": Cheat(liars.average(name, j, liars.forgotten(j, k)), of_layer(part, j)),
        "not zero at first": Cheat(partial(liars.begun_with, k, j), of_layer(f"{kind} zero", j)),
        "another one at the end": Cheat(partial(liars.other_end, kind, j), of_layer(f"{kind} end", j)),
    }


def galore_bases() -> dict[str, Cheat]:
    """About bases and updates."""
    clipped = liars.clipped("basis0.products", liars.SPEC.basis_bits + 3)
    return {
        "the rests of others": Cheat(partial(liars.spread, 1), PROJECTION["result"]),
        "projection of SGD": Cheat(liars.projected(0, 1, True, liars.SGD), ranges("projected0.rest")),
        "scaled column, out of range": Cheat(liars.basis(liars.scaled, None), ranges("basis0.products")),
        "scaled column, not fitting": Cheat(liars.basis(liars.scaled, clipped), PROJECTION["products"]),
        "equal columns, out of range": Cheat(liars.basis(liars.equal, None), ranges("basis0.products")),
        "equal columns, not fitting": Cheat(liars.basis(liars.equal, clipped), PROJECTION["products"]),
        "another basis in the update than in the projection": Cheat(partial(liars.other_basis, True), LEFT),
        "another basis in the projection than in the update": Cheat(partial(liars.other_basis, False), PROJECTION["basis"]),
        "signs of another seed": Cheat(liars.other_signs, both(PROJECTION["basis"], LEFT)),
        "another rate": Cheat(liars.another_rate, BEGUN),
        **{
            f"{kind} moments in another order": Cheat(
                partial(liars.handed_on_as_committed, k), of_layer(f"{kind} start", 0, OF_LATER_LAYER)
            )
            for k, kind in enumerate(("first", "second"))
        },
    }


def lora() -> dict[str, Cheat]:
    """About adapters."""
    found: dict[str, Cheat] = {}
    for name, relation, j in (("h", FORWARD, 0), ("gh", BACKWARD, 1)):
        off_by_one = partial(lora_liars.off_by_one, name, j)
        found |= {
            f"{name} one more, out of range": Cheat(off_by_one(1, True), ranges(f"{name}{j}.r")),
            f"{name} one less, not fitting": Cheat(off_by_one(-1, False), relation),
            f"{name} of another product": Cheat(lora_liars.other_product(name, j), relation),
        }
    return found | {
        "first matrix, twice the rate": Cheat(lora_liars.update("dfirst", 2), BEGUN),
        "second matrix, no step": Cheat(lora_liars.update("dsecond", 0), BEGUN),
        "second matrix, the first one's rate": Cheat(lora_liars.second_rate_of_the_first, BEGUN),
        "gradient through the first matrix": Cheat(lora_liars.through_the_first_matrix, BACKWARD),
        "gradient through the second matrix": Cheat(lora_liars.through_the_second_matrix, BACKWARD),
        "gradient past the adapter": Cheat(lora_liars.not_handed_down, BACKWARD),
        "other frozen weights than committed to": Cheat(lambda: lora_liars.other_frozen()[1], BEGUN),
    }


def fp8() -> dict[str, Cheat]:
    """About casts."""
    e5m2 = fp8_liars.CASTING_E5M2
    found = {
        "one code up": miscast("cast", fp8_liars.one_code_up),
        "one code down": miscast("cast", fp8_liars.one_code_down),
        "tie to the odd code": miscast("cast", fp8_liars.to_the_odd_code),
        "saturation hidden": miscast("cast", fp8_liars.unsaturated),
        "saturation invented": miscast("cast", fp8_liars.saturated),
        "gradient one code up": miscast("gcast", fp8_liars.one_code_up),
        "gradient's tie to the odd code": miscast("gcast", fp8_liars.to_the_odd_code),
        "E5M2 gradient one code down": miscast("gcast", fp8_liars.one_code_down, e5m2),
        "E5M2 gradient's tie to the odd code": miscast("gcast", fp8_liars.to_the_odd_code, e5m2),
    }
    spec = fp8_liars.CASTING.fp8
    assert spec
    activations, gradients = spec.activation_exponents, spec.gradient_exponents
    others: dict[str, tuple[dict[str, Any], Change]] = {
        "another scale of activations": (
            {"activation_exponents": (activations[0] + 1, activations[1])}, ranges("p0.cast")
        ),
        "another scale of gradients": ({"gradient_exponents": (gradients[0], gradients[1] + 1)}, ranges("ga1.cast")),
        "another format": ({"gradient_format": "e5m2"}, ranges("ga0.cast", "ga1.cast")),
    }  # fmt: skip
    found |= {what: Cheat(partial(fp8_liars.of_other_scales, **fields), drop) for what, (fields, drop) in others.items()}
    return found | {
        "another scale of activations in the update": Cheat(partial(fp8_liars.two_scales, "activation"), LEFT),
        "another scale of gradients in the update": Cheat(partial(fp8_liars.two_scales, "gradient"), RIGHT),
    }


def miscast(name: str, rule: fp8_liars.Rule, statement: Statement = fp8_liars.CASTING) -> Cheat:
    """One cast that is another."""

    def relation(patch: pytest.MonkeyPatch) -> None:
        ranges(f"{'p' if name == 'cast' else 'ga'}{fp8_liars.miscast(name, rule, statement)[1]}.cast")(patch)

    return Cheat(lambda: fp8_liars.miscast(name, rule, statement)[0], relation)


def assert_one_relation_is_broken(cheat: Cheat) -> None:
    assert cheat.succeeds_without_the_relation()
    assert not cheat.succeeds()


BY_ONE = [
    pytest.param(name, j, amount, marks=[] if (j, amount) in ((0, 1), (1, -1)) else [pytest.mark.slow])
    for j in (0, 1)
    for amount in (1, -1)
    for name in galore_by_one(j, amount)
]
MOMENTS = [
    pytest.param(name, j, k, marks=[] if j == k else [pytest.mark.slow])
    for j in (0, 1)
    for k in (0, 1)
    for name in galore_moments(j, k)
]


@pytest.mark.parametrize(("name", "layer", "amount"), BY_ONE)
def test_galore_off_by_one_is_refused(name: str, layer: int, amount: int) -> None:
    assert_one_relation_is_broken(galore_by_one(layer, amount)[name])


@pytest.mark.parametrize(("name", "layer", "moment"), MOMENTS)
def test_other_moments_are_refused(name: str, layer: int, moment: int) -> None:
    assert_one_relation_is_broken(galore_moments(layer, moment)[name])


@pytest.mark.parametrize("name", galore_bases())
def test_other_bases_and_updates_are_refused(name: str) -> None:
    assert_one_relation_is_broken(galore_bases()[name])


@pytest.mark.parametrize("name", lora())
def test_cheating_on_an_adapter_is_refused(name: str) -> None:
    assert_one_relation_is_broken(lora()[name])


@pytest.mark.parametrize("name", fp8())
def test_cheating_on_a_cast_is_refused(name: str) -> None:
    assert_one_relation_is_broken(fp8()[name])


def assert_bound_to(witness: Witness, committed: dict[str, Any]) -> None:
    """The segment is true of its own commitments, and refused for those that stand."""
    cheat = Cheat(lambda: witness, both())
    assert cheat.succeeds()
    assert not replace(cheat, adopted=lambda witness: {**witness.tables, **committed}).succeeds()


@pytest.mark.parametrize("moment", [0, 1])
def test_moments_that_the_segment_before_did_not_commit_to_are_refused(moment: int) -> None:
    assert_bound_to(*liars.handed_on(moment))


def test_frozen_weights_that_change_between_segments_are_refused() -> None:
    witness, _, committed = lora_liars.other_frozen()
    assert_bound_to(witness, committed)


HONEST = [liars.ADAM, liars.RANDOM, liars.SGD, lora_liars.ADAPTED, fp8_liars.CASTING, fp8_liars.CASTING_E5M2]


@pytest.mark.parametrize("place", range(len(HONEST)))
def test_the_honest_trainer_is_accepted(place: int) -> None:
    made = train(HONEST[place])
    assert Cheat(lambda: honest(made), both()).succeeds()
    assert Cheat(lambda: lying(made), both()).succeeds()
