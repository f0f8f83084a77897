"""FP8 with a scale for each 16 units of a layer: trained, proved, and no group passes with another's scale."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from method_segments import VARIANTS, honest, train
from tiny_runs import command, succeed

from zkaudit.zk.circuit import casts
from zkaudit.zk.errors import BadInput, InvalidProof
from zkaudit.zk.methods import FP8
from zkaudit.zk.statement import check, parse
from zkaudit.zk.tables import narrow
from zkaudit.zk.testing.segments import prove_in_the_clear, verify_in_the_clear
from zkaudit.zk.witness import Witness

GROUPED = VARIANTS["fp8 by groups"]
CONFIG = """
[data]
source = "digits"
[model]
hidden = [20, 8]
init_seed = 1
[training]
loss = "cross_entropy"
batch = 16
steps = 6
learning_rate = 0.1
seed = "groups"
precision = "fp8"
[fp8]
activation_exponents = [[-1, -3], -2]
gradient_exponents = [[-6, -8], -7]
"""


@pytest.mark.parametrize(("name", "layer"), [("p", 0), ("ga", 1)])
def test_a_group_cast_with_another_group_s_scale_is_refused(name: str, layer: int) -> None:
    witness = honest(train(GROUPED))
    cast = casts.of_layer(GROUPED, name, layer)
    stored, made = witness.tables[cast.argument], witness.tables[cast.result].copy()
    first, second = casts.groups(cast, casts.numbers(GROUPED), len(stored))
    # A number that the two scales cast otherwise, in the second group's padding, which no relation but the lookup is about.
    other = casts.table(GROUPED, first.table)[stored[second.begin : second.end]]
    differ = np.argwhere(other != made[second.begin : second.end])
    assert len(differ)
    unit, sample = differ[-1]
    made[second.begin + unit, sample] = other[unit, sample]
    lying = Witness(witness.layout, {**witness.tables, f"{name}{layer}.cast": narrow(made)}, witness.batches)
    with pytest.raises(InvalidProof):
        verify_in_the_clear(GROUPED, lying.tables, prove_in_the_clear(GROUPED, lying))


def test_a_proof_is_refused_if_groups_change_places() -> None:
    witness = honest(train(GROUPED))
    proof = prove_in_the_clear(GROUPED, witness, check_trace=True)
    verify_in_the_clear(GROUPED, witness.tables, proof)
    assert GROUPED.fp8
    other = replace(GROUPED, fp8=replace(GROUPED.fp8, activation_exponents=((-5, -1), -3)))
    with pytest.raises(InvalidProof):
        verify_in_the_clear(other, witness.tables, proof)


def test_a_header_with_groups_is_read_as_it_was_written() -> None:
    assert parse(GROUPED.header(), b"", b"", b"") == GROUPED


@pytest.mark.parametrize("exponents", [((-1, -2, -3), -1), ((), -1), ((-1, 9), -1), (((-1,), -2), -1)])
def test_groups_that_do_not_fit_are_refused(exponents: tuple[object, ...]) -> None:
    assert GROUPED.fp8
    with pytest.raises(BadInput, match=r"fp8.activation_exponents"):
        check(replace(GROUPED, fp8=FP8(exponents, GROUPED.fp8.gradient_exponents, "e4m3")))  # type: ignore[arg-type]


def test_through_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(CONFIG)
    succeed("train", tmp_path / "c.toml", "--out", tmp_path / "run")
    succeed("prove", tmp_path / "run", "--out", tmp_path / "proof.zkp")
    assert "scales 2^(-3 to -1) and 2^(-8 to -6)" in succeed("verify", tmp_path / "proof.zkp")
    (tmp_path / "c.toml").write_text(CONFIG.replace("[[-1, -3], -2]", "[[-1, -3, -2], -2]"))
    refused = command("train", tmp_path / "c.toml", "--out", tmp_path / "other")
    assert refused.code == 2
    assert "3 entries for a layer of 20 units; one or 2 are needed" in refused.err
