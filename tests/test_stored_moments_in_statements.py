"""What a statement says of moments stored in 8 bits: canonical, bounded, and bound to proof and successor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stored_liars
from method_segments import VARIANTS, honest, next_segment, train
from test_methods_in_statements import NOT_INTEGERS, assert_bad, changed, header_with, with_field, without_header
from test_proved_methods import proved
from tiny_runs import succeed
from weakened import is_accepted

from zkaudit.zk import argument, proof_file
from zkaudit.zk.circuit import casts
from zkaudit.zk.errors import BadInput, InvalidProof
from zkaudit.zk.layout import Layout
from zkaudit.zk.proof_file import ProofFile
from zkaudit.zk.statement import Statement, check, check_succession, parse
from zkaudit.zk.testing.segments import prove_in_the_clear, verify_in_the_clear
from zkaudit.zk.verifier import verify_segment

STORED, GROUPED = VARIANTS["galore, stored"], VARIANTS["galore, stored by groups"]
FIELDS = {"first_exponents": 15, "second_exponents": 16}
EXACT: dict[str, Any] = {"first_exponents": (), "second_exponents": ()}


@pytest.mark.parametrize("field", FIELDS)
def test_one_kind_of_exponents_without_the_other_is_refused(field: str) -> None:
    assert_bad(header_with(STORED, "galore", lambda content: {k: v for k, v in content.items() if k != field}))
    assert_bad(with_field(VARIANTS["galore"], "galore", field, [13, 13, 13]))
    assert_bad(with_field(STORED, "galore", field, []))


def test_empty_lists_are_not_how_exact_moments_are_said() -> None:
    assert_bad(header_with(VARIANTS["galore"], "galore", lambda content: {**content, **{name: [] for name in FIELDS}}))


@pytest.mark.parametrize("field", FIELDS)
def test_exponents_out_of_range_or_of_another_type_are_refused(field: str) -> None:
    for i in range(3):
        for value in (0, FIELDS[field] + 1, -(1 << 70), 1 << 70, [[3]], [3, 3], *NOT_INTEGERS):
            if value != [3]:  # one group of units may have a list of one
                assert_bad(with_field(STORED, "galore", field, [value if i == j else 3 for j in range(3)]))
        for value in (1, FIELDS[field]):
            check(changed(STORED, "galore", **{field: tuple(value if i == j else 3 for j in range(3))}))
    for whole in (None, 3, "3", [3, 3], [3, 3, 3, 3], {"0": [3, 3, 3]}):
        assert_bad(with_field(STORED, "galore", field, whole))


@pytest.mark.parametrize("field", FIELDS)
def test_groups_that_do_not_fit_the_kept_units_are_refused(field: str) -> None:
    for groups in ((9,), (9, 9, 9), ()):
        with pytest.raises(BadInput, match=f"galore.{field}' must have one entry or 2 for 20 units"):
            check(changed(GROUPED, "galore", **{field: (groups, 9, 9)}))
    with pytest.raises(BadInput, match=f"galore.{field}"):
        check(changed(GROUPED, "galore", **{field: ((9, 17), 9, 9)}))
    right = changed(GROUPED, "galore", sides=("right",) * 3, first_exponents=(9, (9, 9), (9, 9)), second_exponents=(9, 9, 9))
    check(right)  # 6, 21 and 19 kept units


def test_sgd_has_no_moments_to_store() -> None:
    with pytest.raises(BadInput, match="are of Adam's moments"):
        check(changed(STORED, "galore", optimizer="sgd"))


def test_tables_are_numbered_behind_those_of_fp8_kind_after_kind() -> None:
    assert list(casts.tables(VARIANTS["fp8 with galore, stored"]).values()) == [
        ("p", -1), ("ga", -6), ("first", 13), ("second", 12),
    ]  # fmt: skip
    expected = [*(("first", e) for e in (13, 9, 8, 15, 12)), *(("second", e) for e in (12, 11, 10, 16))]
    assert list(casts.tables(GROUPED).items()) == list(enumerate(expected, casts.FIRST_TABLE))


def test_a_proof_is_refused_for_other_exponents_and_for_exact_moments(tmp_path: Path) -> None:
    proof = proof_file.read(proved("galore, stored", tmp_path)[0])
    verify_segment(proof)
    told = succeed("verify", tmp_path / "proof.zkp")
    assert "stored after every step, ranges 2^(15), roots of second ones 2^(16)" in told
    others = [fields for fields in other_values_of(proof.statement) if fields.keys() & FIELDS.keys()]
    for fields in [*others, EXACT]:
        other = changed(proof.statement, "galore", **fields)
        check(other)
        with pytest.raises(InvalidProof):
            verify_segment(ProofFile(other, proof.proof))


def other_values_of(s: Statement) -> list[dict[str, Any]]:
    """Changes of one field each; the optimizer has no other value."""
    assert s.galore
    found = []
    for field in FIELDS:
        values = getattr(s.galore, field)
        found += [{field: (*values[:i], x - 1, *values[i + 1 :])} for i, x in enumerate(values)]
    return found


def test_exponents_enter_the_equations(monkeypatch: pytest.MonkeyPatch) -> None:
    """A verifier whose challenges do not depend on the statement's header refuses other exponents, decays and epsilons."""
    monkeypatch.setattr(argument, "_absorb", without_header)
    s = stored_liars.STORED
    witness = honest(stored_liars.HONEST)
    proof = prove_in_the_clear(s, witness)
    verify_in_the_clear(s, witness.tables, proof)
    assert s.galore
    changes = [{field: getattr(s.galore, field) - 1} for field in ("beta1", "beta2", "epsilon")]
    tried = set[str]()
    for fields in [*changes, *other_values_of(s)]:
        other = changed(s, "galore", **fields)
        if Layout(other).blocks == Layout(s).blocks:
            assert not is_accepted(lambda other=other: verify_in_the_clear(other, witness.tables, proof)), fields
            tried |= fields.keys()
    assert tried == {"beta1", "beta2", "epsilon", *FIELDS}


def test_a_segment_with_other_exponents_continues_nothing() -> None:
    made = train(STORED)
    before = replace(made.statement, end=b"e")
    after = replace(next_segment(replace(made, statement=before))[0], start=before.end)
    check_succession(before, after)
    for fields in [*other_values_of(after), EXACT]:
        with pytest.raises(BadInput, match="'galore' differs"):
            check_succession(before, changed(after, "galore", **fields))


def test_the_longest_lists_of_exponents_are_no_nesting_that_is_refused() -> None:
    """64 layers, each with groups for activations, gradients and both moments."""
    s = VARIANTS["fp8 with galore, stored"]
    assert s.galore
    assert s.fp8
    widths, two = (20,) * 65, ((1, 2),) * 64
    galore = replace(s.galore, ranks=(1,) * 64, sides=("left",) * 64, first_exponents=two, second_exponents=two)
    fp8 = replace(s.fp8, activation_exponents=((-1, -2),) * 63, gradient_exponents=((-6, -7),) * 63)
    long = replace(s, widths=widths, galore=galore, fp8=fp8)

    assert parse(long.header(), b"", b"", b"") == long
