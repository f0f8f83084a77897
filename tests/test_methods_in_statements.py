"""What a statement says of GaLore, LoRA and FP8: canonical, bounded, and every field of it bound to proof and successor."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fp8_liars
import galore_liars
import lora_liars
import pytest
from hypothesis import given
from hypothesis import strategies as st
from method_segments import PLAIN, VARIANTS, fp8_of, honest, next_segment, train
from test_proved_methods import proved
from weakened import is_accepted

from zkaudit.zk import argument, methods, proof_file
from zkaudit.zk.errors import BadInput, InvalidProof
from zkaudit.zk.layout import Layout
from zkaudit.zk.methods import FP8
from zkaudit.zk.proof_file import ProofFile
from zkaudit.zk.statement import Statement, check, check_succession, parse
from zkaudit.zk.testing.segments import prove_in_the_clear, verify_in_the_clear
from zkaudit.zk.trace import read_trace
from zkaudit.zk.verifier import verify_segment

SAMPLES = {"galore": VARIANTS["galore"], "lora": VARIANTS["lora"], "fp8": VARIANTS["fp8"]}
FIELDS = [(name, field) for name, s in SAMPLES.items() for field in methods.written(getattr(s, name))]
MOST = {  # least and greatest value of the numbers
    ("galore", "gap"): (1, 1 << 12),
    ("galore", "basis_bits"): (6, 13),
    ("galore", "shift"): (1, 47),
    ("galore", "moment_bits"): (8, 14),
    ("galore", "beta1"): (0, 1023),
    ("galore", "beta2"): (0, 1023),
    ("galore", "epsilon"): (1, 1 << 14),
    ("lora", "factor"): (1, 1 << 16),
    ("lora", "divisor"): (1, 1 << 16),
}
LISTS = {  # of an entry, with the widths (5, 6, 4, 3) and the formats of SAMPLES
    ("galore", "ranks"): [(1, 6), (1, 4), (1, 5)],
    ("lora", "ranks"): [(0, 5), (0, 4), (0, 3)],
    ("fp8", "activation_exponents"): [(-13, -1)] * 2,
    ("fp8", "gradient_exponents"): [(-18, -6)] * 2,
}
NOT_INTEGERS = [None, "3", 3.0, True, [], [3], {}, 1e999]
OTHERS = [None, "", "other", 3, True, [], ["adam"], {}]


def changed(s: Statement, name: str, **fields: Any) -> Statement:
    """With other fields of a method."""
    return replace(s, **{name: replace(getattr(s, name), **fields)})


def header_with(s: Statement, name: str, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """The canonical header in which `change` gives the method's object."""
    content = json.loads(s.header())
    content[name] = change(content[name])
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def with_field(s: Statement, name: str, field: str, value: Any) -> bytes:
    return header_with(s, name, lambda content: {**content, field: value})


def assert_bad(header: bytes) -> None:
    with pytest.raises(BadInput):
        parse(header, b"", b"", b"")


@pytest.mark.parametrize("name", VARIANTS)
def test_a_statement_survives_its_encoding(name: str) -> None:
    s = replace(VARIANTS[name], data=b"d", start=b"s", end=b"e")
    assert parse(s.header(), s.data, s.start, s.end) == s


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_a_missing_field_is_refused(name: str, field: str) -> None:
    assert_bad(header_with(SAMPLES[name], name, lambda content: {k: v for k, v in content.items() if k != field}))


@pytest.mark.parametrize("name", SAMPLES)
def test_an_additional_field_is_refused(name: str) -> None:
    assert_bad(with_field(SAMPLES[name], name, "more", 1))


@pytest.mark.parametrize("value", [None, [], {}, "galore", 1, True, [{}]], ids=str)
@pytest.mark.parametrize("name", SAMPLES)
def test_an_object_that_is_none_is_refused(name: str, value: Any) -> None:
    """Null as well: a method that is not used is not there."""
    assert_bad(header_with(SAMPLES[name], name, lambda _: value))


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_a_value_of_another_type_is_refused(name: str, field: str) -> None:
    s = SAMPLES[name]
    if (name, field) in MOST:
        wrong = [with_field(s, name, field, value) for value in NOT_INTEGERS]
    elif isinstance(getattr(getattr(s, name), field), tuple):
        values = list(getattr(getattr(s, name), field))
        entries = OTHERS if field == "sides" else NOT_INTEGERS
        lists = [[*values[:i], entry, *values[i + 1 :]] for i in range(len(values)) for entry in entries]
        lists += [None, values[0], [], values[1:], [*values, values[0]], {"0": values}]
        wrong = [with_field(s, name, field, value) for value in lists]
    else:
        wrong = [with_field(s, name, field, value) for value in OTHERS]
    for header in wrong:
        assert_bad(header)


@pytest.mark.parametrize(("name", "field"), MOST)
def test_numbers_out_of_range_are_refused(name: str, field: str) -> None:
    s, (low, high) = SAMPLES[name], MOST[name, field]
    for value in (low - 1, high + 1, -(1 << 70), 1 << 70):
        assert_bad(with_field(s, name, field, value))
    if name == "lora":
        s = changed(replace(s, rates=(1 << 16,) * 2), name, factor=1, divisor=1)
    for value in (low, high):
        check(changed(s, name, **{field: value}))


@pytest.mark.parametrize(("name", "field"), LISTS)
def test_entries_out_of_range_are_refused(name: str, field: str) -> None:
    s = SAMPLES[name]
    values = getattr(getattr(s, name), field)
    for i, (low, high) in enumerate(LISTS[name, field]):
        for value, is_in in ((low, True), (high, True), (low - 1, False), (high + 1, False), (1 << 70, False)):
            entries = [*values[:i], value, *values[i + 1 :]]
            if is_in:
                check(changed(s, name, **{field: tuple(entries)}))
            else:
                assert_bad(with_field(s, name, field, entries))


def test_what_does_not_go_together_is_refused() -> None:
    both = replace(SAMPLES["galore"], lora=SAMPLES["lora"].lora)
    with pytest.raises(BadInput, match="one of the two"):
        check(both)
    assert_bad(both.header())
    for wrong, words in (
        (changed(SAMPLES["lora"], "lora", ranks=(0, 0, 0)), "no layer with an adapter"),
        (changed(SAMPLES["lora"], "lora", divisor=7), "no multiple of lora.divisor"),
        (replace(SAMPLES["galore"], first_step=3, segment=1, previous="00" * 32), "no multiple of galore.gap"),
    ):
        with pytest.raises(BadInput, match=words):
            check(wrong)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from(["left", "adam", "e4m3"]),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=4), inside, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(FIELDS), values)
def test_any_value_is_read_or_refused(place: tuple[str, str], value: Any) -> None:
    """And what is read is written as it was."""
    name, field = place
    header = with_field(SAMPLES[name], name, field, value)
    try:
        s = parse(header, b"", b"", b"")
    except BadInput:
        return
    assert s.header() == header


def other_values(name: str, s: Statement) -> list[dict[str, Any]]:
    """Changes of one field each, all to what a statement may say; every field is among them."""
    spec, found = getattr(s, name), list[dict[str, Any]]()
    for field, value in methods.written(spec).items():
        known = {"optimizer": methods.OPTIMIZERS, "basis": methods.BASES, "gradient_format": methods.GRADIENT_FORMATS}
        if field in known:
            candidates = [x for x in known[field] if x != value]
        elif field == "sides":
            flip = {"left": "right", "right": "left"}
            candidates = [(*value[:i], flip[side], *value[i + 1 :]) for i, side in enumerate(value)]
        elif isinstance(value, tuple):
            candidates = [(*value[:i], x + d, *value[i + 1 :]) for i, x in enumerate(value) for d in (1, -1)]
        else:
            candidates = [value + 1, value - 1]
        fitting = [{field: x} for x in candidates if is_stated(changed(s, name, **{field: x}))]
        assert fitting, field
        found += fitting
    return found


def is_stated(s: Statement) -> bool:
    try:
        check(s)
    except BadInput:
        return False
    return True


@pytest.fixture(scope="module", params=["galore", "lora", "fp8"])
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ProofFile]:
    """A real proof of a run with the method."""
    return request.param, proof_file.read(proved(request.param, tmp_path_factory.mktemp(request.param))[0])


def test_a_proof_is_refused_for_every_other_method(file: tuple[str, ProofFile]) -> None:
    """Each field changed alone, and the method left out."""
    name, proof = file
    verify_segment(proof)
    others = [changed(proof.statement, name, **fields) for fields in other_values(name, proof.statement)]
    for other in [*others, replace(proof.statement, **{name: None})]:
        assert other.digest() != proof.statement.digest()
        check(other)
        with pytest.raises(InvalidProof):
            verify_segment(ProofFile(other, proof.proof))


@dataclass(frozen=True)
class Bound:
    """A statement with a method, its data, and fields whose change leaves all tables as they are."""

    statement: Statement
    data: Any
    fields: tuple[str, ...]


APART = replace(fp8_liars.CASTING, fp8=FP8((-9, -11), (-13, -15), "e4m3"))  # each scale with a table of its own
EQUATIONS = {
    "galore": Bound(galore_liars.ADAM, galore_liars.DATA, ("gap", "beta1", "beta2", "epsilon")),
    "lora": Bound(lora_liars.ADAPTED, lora_liars.DATA, ("factor",)),
    "fp8": Bound(APART, fp8_liars.DATA, ("activation_exponents", "gradient_exponents", "gradient_format")),
}


def without_header(statement: Statement, channel: Any) -> None:
    for name, data in statement.sections()[1:]:
        channel.transcript.absorb(name, data)


@pytest.mark.parametrize("name", EQUATIONS)
def test_fields_enter_the_equations(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verifier whose challenges do not depend on the statement's header refuses another method all the same."""
    monkeypatch.setattr(argument, "_absorb", without_header)
    bound = EQUATIONS[name]
    s, witness = bound.statement, honest(train(bound.statement, bound.data))
    proof, tried = prove_in_the_clear(s, witness), set()
    verify_in_the_clear(s, witness.tables, proof)
    for fields in other_values(name, s):
        other = changed(s, name, **fields)
        if Layout(other).blocks == Layout(s).blocks:
            assert not is_accepted(lambda other=other: verify_in_the_clear(other, witness.tables, proof)), fields
            tried |= fields.keys()
    assert tried >= set(bound.fields)


@pytest.mark.parametrize("name", ["galore", "galore, random", "lora"])
def test_a_segment_with_another_method_continues_nothing(name: str) -> None:
    made = train(VARIANTS[name])
    before = replace(made.statement, end=b"e")
    after = replace(next_segment(replace(made, statement=before))[0], start=before.end)
    check_succession(before, after)
    method = "galore" if name.startswith("galore") else "lora"
    for fields in other_values(method, after):
        with pytest.raises(BadInput, match=f"'{method}' differs"):
            check_succession(before, changed(after, method, **fields))
    with pytest.raises(BadInput, match=f"'{method}' differs"):
        check_succession(before, replace(after, **{method: None}))
    with pytest.raises(BadInput, match="'fp8' differs"):
        check_succession(before, replace(after, fp8=SAMPLES["fp8"].fp8))


def test_scales_of_fp8_are_the_same_through_a_chain() -> None:
    before = replace(fp8_of(PLAIN, gradient=-14), end=b"e")  # which both formats may have
    after = replace(next_segment(train(before))[0], start=b"e")
    check_succession(before, after)
    for fields in other_values("fp8", after):
        with pytest.raises(BadInput, match="'fp8' differs"):
            check_succession(before, changed(after, "fp8", **fields))


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_a_manifest_that_lacks_a_field_is_refused(name: str, field: str, tmp_path: Path) -> None:
    s = SAMPLES[name]
    manifest = {
        "format": "zkaudit-trace", "version": 1, "widths": list(s.widths), "loss": s.loss, "batch": s.batch, "steps": s.steps,
        "rows": s.rows, "activation_bits": 8, "gradient_bits": 12, "weight_bits": 32, "learning_rate": list(s.rates),
        "seed": "", "chunk_steps": 2, name: methods.written(getattr(s, name)),
    }  # fmt: skip
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(manifest))
    assert getattr(read_trace(tmp_path), name) == getattr(s, name)
    for value in ({k: v for k, v in manifest[name].items() if k != field}, {**manifest[name], "more": 1}, [], "x"):
        path.write_text(json.dumps({**manifest, name: value}))
        with pytest.raises(BadInput, match=f"'{name}'"):
            read_trace(tmp_path)
