"""Captured energy: what a GaLore basis must capture is proved, refused where it does not, and asked of the trainer too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from method_reference import Data
from method_segments import PLAIN, data_of, fp8_of, galore_of, honest, next_segment, train
from test_exact_methods import run
from test_proved_methods import RUNS, proved
from tiny_runs import command, succeed
from weakened import is_accepted

from zkaudit.training.errors import TrainingError
from zkaudit.training.fixedpoint import exact
from zkaudit.training.method_config import GaLoreConfig
from zkaudit.training.provable import as_manifest
from zkaudit.zk import proof_file
from zkaudit.zk.circuit import energy, galore
from zkaudit.zk.circuit.arithmetic import split
from zkaudit.zk.circuit.step import Tensor
from zkaudit.zk.errors import BadInput
from zkaudit.zk.layout import Layout
from zkaudit.zk.statement import Statement, check, parse
from zkaudit.zk.tables import placed
from zkaudit.zk.testing.segments import prove_in_the_clear, statement_of, verify_in_the_clear
from zkaudit.zk.witness import Witness

torch.set_num_threads(1)
SGD = replace(PLAIN, rates=(1, 2, 1, 1))
ADAM = galore_of(statement_of(widths=(4, 5, 3), batch=2, steps=4, rate=40))  # layer 0 is a left one, layer 1 a right one
CASES = {
    "adam": galore_of(ADAM, ranks=(1, 1)),
    "broken gap": galore_of(PLAIN, gap=3),
    "gap of 1": galore_of(PLAIN, gap=1, sides=("right", "left", "left")),
    "one period, sgd": galore_of(SGD, optimizer="sgd", gap=4),
    "fp8": fp8_of(galore_of(PLAIN)),
    "one sample, one layer": galore_of(statement_of(widths=(5, 3), batch=1, steps=1, rate=40)),
    "coarse numbers": galore_of(statement_of(bits=(2, 4, 40), rate=2000), ranks=(1, 1, 1), basis_bits=13, shift=7),
    "square": galore_of(statement_of(loss="square", batch=1, steps=4), ranks=(4, 1, 3), sides=("left", "left", "right")),
}


def asking(s: Statement, share: int) -> Statement:
    """The statement whose bases must capture so many 256ths."""
    assert s.galore
    s = replace(s, galore=replace(s.galore, energy=share))
    check(s)
    return s


def with_singular_vectors(s: Statement) -> Data:
    """Data with the bases that the trainer makes of it."""
    data = data_of(s)
    return replace(data, bases=run(s, data).bases)


def gradients(witness: Witness, layer: galore.Projected) -> list[Any]:
    """D of each period's first step, in Python integers."""
    s, j = witness.layout.statement, layer.layer
    sides = [witness.activation(j).astype(object), witness.gradient(j).astype(object)]
    steps = [slice(k * layer.spec.gap * s.batch, (k * layer.spec.gap + 1) * s.batch) for k in range(layer.periods)]
    return [sides[0][:, step] @ sides[1][:, step].T for step in steps]


def shares(witness: Witness) -> dict[tuple[int, int], float]:
    """What the bases capture, by layer and period, with R as it is committed, in 256ths."""
    found = {}
    for layer in galore.layers(witness.layout.statement):
        signed = witness.tables[f"projected{layer.layer}"][: layer.kept].astype(object) - (1 << 15)
        for k, d in enumerate(gradients(witness, layer)):
            r = signed[:, k * layer.spec.gap * layer.rank :][:, : layer.rank]
            scale = 2 ** (2 * (layer.spec.basis_bits - layer.spec.shift))
            found[layer.layer, k] = 256 * int((r**2).sum()) / (scale * int((d**2).sum()))
    return found


@cache
def example(name: str) -> tuple[Statement, Data, dict[tuple[int, int], float]]:
    """A case with singular vectors, and what these capture."""
    s = CASES[name]
    data = with_singular_vectors(s)
    return s, data, shares(honest(train(s, data)))


def verified(witness: Witness) -> bool:
    s = witness.layout.statement
    proof = prove_in_the_clear(s, witness)
    return is_accepted(lambda: verify_in_the_clear(s, witness.tables, proof))


@pytest.mark.parametrize("name", CASES)
def test_singular_vectors_that_capture_enough_are_accepted(name: str) -> None:
    s, data, captured = example(name)
    most = min(255, int(min(captured.values())))
    assert most > 64
    s = asking(s, most)
    witness = honest(train(s, data))
    verify_in_the_clear(s, witness.tables, prove_in_the_clear(s, witness, check_trace=True))


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].batch > 1])
def test_bases_that_capture_a_little_less_are_refused(name: str) -> None:
    s, data, captured = example(name)
    share = int(min(captured.values())) + 1
    assert share < 256
    with pytest.raises(BadInput, match=rf"captures less than {share}/256 of its gradient's energy"):
        honest(train(asking(s, share), data))
    assert not verified(claiming(s, data, share))


def test_a_later_segment_is_held_to_it_too() -> None:
    s, data, captured = example("adam")
    s = asking(s, min(255, int(min(captured.values()))))
    before = train(s, data)
    after, given = next_segment(before)
    assert not verified(claiming(after, given, 250))


@pytest.mark.parametrize("name", ["adam", "broken gap"])
def test_slacks_are_the_difference_of_the_two_energies(name: str) -> None:
    s, data, _ = example(name)
    s = asking(s, 32)
    witness = honest(train(s, data))
    for layer in galore.layers(s):
        signed = witness.tables[f"projected{layer.layer}"][: layer.kept].astype(object) - (1 << 15)
        for k, (slack, d) in enumerate(zip(energy.slacks(witness, layer), gradients(witness, layer), strict=True)):
            r = signed[:, k * layer.spec.gap * layer.rank :][:, : layer.rank]
            whole = 32 * int((d**2).sum()) << (2 * layer.spec.basis_bits)
            assert slack * layer_scale(layer) == (int((r**2).sum()) << (2 * layer.spec.shift + 8)) - whole
            limbs = [int(witness.tables[f"energy{layer.layer}.{i}"][0, k]) for i in range(-(-layer.energy_bits // 16))]
            assert sum(limb << (16 * i) for i, limb in enumerate(limbs)) == slack


def layer_scale(layer: galore.Projected) -> int:
    return 1 << min(2 * layer.spec.shift + 8, 2 * layer.spec.basis_bits)


def claiming(s: Statement, data: Data, share: int, repair: Callable[[int], int] = lambda slack: max(0, slack)) -> Witness:
    """The witness of bases that capture what they capture, under a statement that asks for `share`; slacks are repaired."""
    made = train(replace(s, galore=replace(s.galore, energy=0)), data)  # type: ignore[type-var]
    plain, layout = honest(made), Layout(asking(s, share))
    found: dict[str, Any] = {}
    for layer in galore.layers(layout.statement):
        slacks = [repair(slack) for slack in energy.slacks(plain, layer)]
        limbs = split(f"energy{layer.layer}", np.array([slacks], object), layer.energy_bits)
        found |= {name: placed(layout, name, values) for name, values in limbs.items()}
    return Witness(layout, {**plain.tables, **found}, plain.batches)


def claim(place: int) -> Callable[[pytest.MonkeyPatch], None]:
    """A proof system in which the energy's claim at this place is left out: the equation, the activations', the gradients'."""

    def leave_out(patch: pytest.MonkeyPatch) -> None:
        for name in ("prove", "verify"):
            every = getattr(energy, name)
            patch.setattr(energy, name, lambda *given, every=every: [x for i, x in enumerate(every(*given)) if i != place])

    return leave_out


def no_ranges(patch: pytest.MonkeyPatch) -> None:
    """The slacks are not looked up."""
    every = Layout.lookups.func  # type: ignore[attr-defined]
    kept = property(lambda layout: [x for x in every(layout) if not x.blocks[-1].name.startswith("energy")])
    patch.setattr(Layout, "lookups", kept)


HIGH = 240


def random_basis(repair: Callable[[int], int]) -> Witness:
    """Random orthonormal vectors of rank 2 among 5, which capture some two fifths."""
    data = data_of(ADAM)
    assert min(shares(honest(train(ADAM, data))).values()) < HIGH
    return claiming(ADAM, data, HIGH, repair)


def negative_in_the_last_limb(slack: int) -> int:
    """As a prover would have it whose last limb is not looked up: the slack itself, its other limbs within their range."""
    return slack


@pytest.mark.parametrize(
    ("repair", "needed"),
    [(lambda slack: max(0, slack), claim(0)), (negative_in_the_last_limb, no_ranges)],
    ids=["fits", "sign"],
)
def test_random_orthonormal_vectors_are_refused(repair: Any, needed: Any) -> None:
    """With slacks in their range the equation catches it, and with slacks that fit it the range does; nothing else would."""
    assert not verified(random_basis(repair))
    with pytest.MonkeyPatch.context() as patch:
        needed(patch)
        assert verified(random_basis(repair))


@pytest.mark.parametrize(("kind", "place"), [("activation", 1), ("gradient", 2)])
def test_the_energy_of_a_smaller_gradient_is_refused(kind: str, place: int) -> None:
    """All of the argument is about activations, or gradients, a quarter in size; only their own claim knows the true ones."""
    true = energy._at

    def smaller(witness: Witness, tensor: Tensor, samples: Any) -> Any:
        found = true(witness, tensor, samples)
        return np.ascontiguousarray(found.astype(np.int64) // (4 if tensor.kind == kind else 1))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(energy, "_at", smaller)
        witness = random_basis(lambda slack: slack)
        assert min(slack for layer in galore.layers(witness.layout.statement) for slack in energy.slacks(witness, layer)) >= 0
        assert not verified(witness)
        claim(place)(patch)
        assert verified(witness)


def test_one_period_s_energy_does_not_make_up_for_another_s() -> None:
    """The slack of a period that captures more lends to one that captures less; in sum all is as it should be."""
    s, data, captured = example("adam")
    share, lent = int(min(captured.values())), iter([-1, 1, 0, 0])
    assert verified(claiming(s, data, share))
    assert not verified(claiming(s, data, share, lambda slack: slack + next(lent)))


def test_a_header_says_it_only_if_asked() -> None:
    """So headers of statements that do not ask are as they were; one that says 0 is not canonical."""
    assert b"energy" not in ADAM.header()
    header = asking(ADAM, 17).header()
    assert b'"energy":17' in header
    assert parse(header, b"", b"", b"").galore == asking(ADAM, 17).galore
    with pytest.raises(BadInput, match="canonical"):
        parse(header.replace(b'"energy":17', b'"energy":0'), b"", b"", b"")


@pytest.mark.parametrize(("share", "basis"), [(256, "svd"), (-1, "svd"), (1, "random")])
def test_shares_out_of_range_are_refused(share: int, basis: str) -> None:
    with pytest.raises(BadInput, match=r"'galore\.energy' is"):
        check(galore_of(PLAIN, basis=basis, energy=share))


@pytest.mark.parametrize("more", [-100, -1, 0, 1, 2])
@pytest.mark.parametrize("name", ["adam", "broken gap", "coarse numbers"])
def test_the_trainer_stops_exactly_where_the_prover_would(name: str, more: int) -> None:
    s, data, captured = example(name)
    share = int(min(captured.values())) + more
    s = asking(s, share)
    if share <= min(captured.values()):
        assert run(s, data).bases.keys() == data.bases.keys()
        honest(train(s, data))
    else:
        with pytest.raises(TrainingError, match="a basis captures"):
            run(s, data)
        with pytest.raises(BadInput, match="captures less than"):
            honest(train(s, data))


@given(st.lists(st.integers(-(1 << 62), 1 << 62), max_size=8))
def test_sums_of_squares_are_exact(values: list[int]) -> None:
    assert exact.sum_of_squares(torch.tensor(values, dtype=torch.int64)) == sum(x * x for x in values)


def test_the_sum_of_many_squares_is_exact() -> None:
    assert exact.sum_of_squares(torch.full(((1 << 20) + 5,), (1 << 31) - 1)) == ((1 << 20) + 5) * ((1 << 31) - 1) ** 2


def test_a_configuration_rounds_up_to_256ths() -> None:
    method = GaLoreConfig(2, energy=0.9).method((4, 5, 3), 2, 20)
    assert method.energy == 231
    assert as_manifest(method)["energy"] == 231
    assert "energy" not in as_manifest(GaLoreConfig(2).method((4, 5, 3), 2, 20))


@pytest.mark.parametrize(
    ("given", "message"),
    [({"energy": 1.0}, "a number from 0 to 0.99"), ({"energy": -0.1}, "a number"), ({"energy": 0.5, "basis": "random"}, "svd")],
)
def test_a_configuration_with_another_share_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        GaLoreConfig(2, **given)


def test_through_the_command_line_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rate, rest = RUNS["galore"]
    monkeypatch.setitem(RUNS, "galore", (rate, f"{rest}\nenergy = 0.5"))
    out, _ = proved("galore", tmp_path)
    said = succeed("verify", out)
    assert said.startswith("VALID")
    assert "every 2 steps, with 128/256 of their gradients' energy or more" in said
    spec = proof_file.read(out).statement.galore
    assert spec
    assert spec.energy == 128


def test_a_run_whose_bases_capture_less_stops_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rate, rest = RUNS["galore"]
    monkeypatch.setitem(RUNS, "galore", (rate, f"{rest}\nenergy = 0.995".replace("rank = 2", "rank = 1")))
    with pytest.raises(AssertionError):
        proved("galore", tmp_path)
    done = command("train", tmp_path / "config.toml", "--out", tmp_path / "again")
    assert done.code != 0
    assert "of its gradient's energy, and [galore] energy asks for 0.996; use a larger rank" in done.err
