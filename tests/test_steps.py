"""Step records: one encoding, an unbroken chain, strict reading, and seeds that belong to one component and step each."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkaudit.training.errors import TrainingError
from zkaudit.training.step_file import NAME, StepFile, StepWriter
from zkaudit.training.steps import RunHeader, StepRecord, derive_seed, parse_header, parse_record

RECORD = StepRecord(
    0, (3, 1), weights=(1.0, 0.5), mixture={"web": 0.25, "code": 0.75}, scores=((5, -6), (7, 8)), learning_rate=0.1
)


def test_a_seed_is_the_framed_hash_of_run_component_and_step() -> None:
    parts = [b"zkaudit seed", "räume".encode(), b"sampler", b"7"]
    framed = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
    assert derive_seed("räume", "sampler", 7) == int.from_bytes(hashlib.sha256(framed).digest()[:8], "little")


@given(
    st.tuples(st.text(max_size=3), st.text(max_size=3), st.integers(0, 99)),
    st.tuples(st.text(max_size=3), st.text(max_size=3), st.integers(0, 99)),
)
def test_seeds_of_different_names_differ(one: tuple[str, str, int], other: tuple[str, str, int]) -> None:
    """Also where the run's and the component's names run together: ("ab", "c") is not ("a", "bc")."""
    try:
        assert (derive_seed(*one) == derive_seed(*other)) == (one == other)
    except TrainingError:
        assert any("\ud800" <= character <= "\udfff" for character in "".join((*one[:2], *other[:2])))


@pytest.mark.parametrize(("arguments", "sentence"), [(("a", "b", -1), "step = -1"), (("\ud800", "b", 0), "surrogates")])
def test_what_has_no_seed_is_named(arguments: tuple[str, str, int], sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        derive_seed(*arguments)


whole = st.integers(0, 2**64 - 1)
shares = st.floats(0, 1e300)
plain = st.characters(exclude_categories=["Cs"])


@st.composite
def records(draw: st.DrawFn) -> StepRecord:
    ids = tuple(draw(st.lists(whole, min_size=1, max_size=4)))
    weights = draw(st.sampled_from([(), tuple(draw(st.floats(1e-9, 1e9)) for _ in ids)]))
    return StepRecord(
        draw(whole), ids, draw(whole), (*ids, draw(whole)), weights, view_seeds=tuple(draw(whole) for _ in ids),
        objective_id=draw(st.text(plain, max_size=5)), objective_seed=draw(st.none() | whole),
        mixture=draw(st.dictionaries(st.text(plain, max_size=3), shares, max_size=3)),
        learning_rate=draw(shares), scores=tuple(draw(st.lists(st.tuples(st.integers(-(2**64) + 1, 2**64 - 1)), max_size=3))),
    )  # fmt: skip


@given(records())
def test_a_record_is_read_as_it_was_written(record: StepRecord) -> None:
    line = record.encoded()
    assert parse_record(line) == record
    assert line == json.dumps(json.loads(line), sort_keys=True, separators=(",", ":")).encode()
    assert b"\n" not in line


def test_the_digest_covers_every_field() -> None:
    changed = [
        dict(step=1), dict(ids=(1, 3)), dict(epoch=1), dict(candidate_ids=(1, 3)), dict(weights=()), dict(view_ids=(0, 0)),
        dict(view_seeds=(0, 0)), dict(bins=(0, 0)), dict(seq_len=1), dict(n_tokens=1), dict(objective_id="a"),
        dict(objective_seed=0), dict(mixture={}), dict(learning_rate=0.2), dict(selector="a"), dict(selector_state="a"),
        dict(scores=()), dict(prev_hash="a"),
    ]  # fmt: skip
    assert {name for change in changed for name in change} == set(vars(RECORD))
    digests = {StepRecord(**vars(RECORD) | change).digest() for change in changed}
    assert len(digests | {RECORD.digest()}) == len(changed) + 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict(ids=()), "ids are empty"),
        (dict(ids=[1]), "must be a tuple"),
        (dict(ids=(-1, 1)), "ids holds -1"),
        (dict(ids=(True, 1)), "ids holds True"),
        (dict(weights=(1.0,)), "weights has 1 entries for 2 ids"),
        (dict(weights=(0.0, 0.0)), "all 0"),
        (dict(weights=(1, 2)), "must be a float"),
        (dict(learning_rate=float("nan")), "nan"),
        (dict(mixture={"a": -1.0}), "-1.0"),
        (dict(candidate_ids=(1, 2)), "row 3, which is not among candidate_ids"),
        (dict(scores=((1.5,),)), "scores holds 1.5"),
        (dict(view_ids=(1,)), "view_ids has 1"),
        (dict(selector="\ud800"), "selector"),
    ],
)
def test_a_field_that_cannot_be_is_named(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        StepRecord(**vars(RECORD) | change)  # type: ignore[arg-type]


def swapped(line: bytes, old: bytes, new: bytes) -> bytes:
    assert old in line
    return line.replace(old, new)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda line: line[:-1], "not JSON"),
        (lambda line: b"[" * 100_000, "not JSON"),
        (lambda line: b"[]", "not a JSON object"),
        (lambda line: b"\xff" + line, "not JSON"),
        (lambda line: b" " + line, "canonical"),
        (lambda line: swapped(line, b'"step":0', b'"step": 0'), "canonical"),
        (lambda line: swapped(line, b"0.1", b"0.10"), "canonical"),
        (lambda line: swapped(line, b'"step":0', b'"step":0,"step":0'), "canonical"),
        (lambda line: swapped(line, b'"step":0', b'"stop":0'), "'step' is missing"),
        (lambda line: swapped(line, b'"step":0', b'"step":0,"zeal":0'), "'zeal' is unknown"),
        (lambda line: swapped(line, b"0.1", b"NaN"), "nan"),
    ],
)
def test_other_bytes_are_no_record(spoil: Callable[[bytes], bytes], sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        parse_record(spoil(RECORD.encoded()))


def test_a_header_names_its_format_and_version() -> None:
    line = RunHeader("seed", 4, {"uniform": {"batch": 2}}).encoded()
    assert parse_header(line).rules == {"uniform": {"batch": 2}}
    with pytest.raises(TrainingError, match="version is not 1"):
        parse_header(swapped(line, b'"version":1', b'"version":2'))


def write(folder: Path, steps: int = 4, **options: object) -> str:
    with StepWriter(folder, "seed", 10, columns={"length": np.arange(10)}, **options) as writer:
        for step in range(writer.step, steps):
            writer.write(StepRecord(step, (step, step + 1)))
    return writer.head


def test_each_record_names_the_digest_of_the_one_before(tmp_path: Path) -> None:
    head = write(tmp_path)
    file = StepFile(tmp_path)
    found = list(file.records())
    assert [record.prev_hash for record in found] == [file.header.digest(), *(record.digest() for record in found[:-1])]
    assert head == found[-1].digest()
    assert (file.columns["length"] == np.arange(10)).all()


@pytest.mark.parametrize("torn", [b"", b'{"bins":[', b"x" * 300])
def test_a_stopped_run_goes_on_to_the_same_file(tmp_path: Path, torn: bytes) -> None:
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    write(straight)
    write(stopped, 2)
    with (stopped / NAME).open("ab") as file:
        file.write(torn)
    write(stopped)
    assert (stopped / NAME).read_bytes() == (straight / NAME).read_bytes()


def test_a_run_goes_back_to_its_checkpoint(tmp_path: Path) -> None:
    head = write(tmp_path)
    assert StepWriter(tmp_path, "seed", 10, columns={"length": np.arange(10)}, at=1).step == 1
    assert len(list(StepFile(tmp_path).records())) == 1
    assert write(tmp_path) == head
    with pytest.raises(TrainingError, match="ends before step 9"):
        write(tmp_path, at=9)
    with pytest.raises(TrainingError, match="no run can go on at step 2"):
        write(tmp_path / "none", at=2)


def test_records_are_their_owner_s_alone_and_there_as_soon_as_written(tmp_path: Path) -> None:
    writer = StepWriter(tmp_path, "seed", 10)
    writer.write(StepRecord(0, (1,)))
    assert len(list(StepFile(tmp_path).records())) == 1
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600
    writer.close()


def test_another_run_cannot_be_continued(tmp_path: Path) -> None:
    write(tmp_path)
    for seed, columns in (("other", np.arange(10)), ("seed", np.arange(1, 11))):
        with pytest.raises(TrainingError, match="of another run"):
            StepWriter(tmp_path, seed, 10, columns={"length": columns})


def test_a_writer_refuses_other_steps_rows_and_columns(tmp_path: Path) -> None:
    writer = StepWriter(tmp_path, "seed", 3)
    for record, sentence in ((StepRecord(1, (0,)), "step 0 is next"), (StepRecord(0, (3,)), "names row 3 of 3")):
        with pytest.raises(TrainingError, match=sentence):
            writer.write(record)
    with pytest.raises(TrainingError, match="column 'length'"):
        StepWriter(tmp_path / "a", "seed", 3, columns={"length": np.arange(4)})
    with pytest.raises(TrainingError, match=r"column '\.\./x'"):
        StepWriter(tmp_path / "b", "seed", 3, columns={"../x": np.arange(3)})


def with_line(number: int, change: Callable[[bytes], bytes]) -> Callable[[list[bytes]], list[bytes]]:
    return lambda lines: [change(line) if place == number else line for place, line in enumerate(lines)]


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (with_line(2, lambda line: b"{}\n"), "line 3: field"),
        (with_line(3, lambda line: line[:-1] + b" \n"), "line 4: not in canonical form"),
        (with_line(1, lambda line: swapped(line, b"[0,1]", b"[0,2]")), "line 3: prev_hash is"),
        (with_line(1, lambda line: swapped(line, b"[0,1]", b"[0,10]")), "line 2: row 10 is named"),
        (lambda lines: [*lines[:2], *lines[3:]], "line 3: step is 2, but 1"),
        (lambda lines: [*lines[:2], lines[3], lines[2]], "line 3: step is 2, but 1"),
        (with_line(0, lambda line: swapped(line, b'"seed"', b'"seat"')), "line 2: prev_hash is"),
        (with_line(4, lambda line: line[:-1]), "line 5 has no end"),
        (lambda lines: [], "line 1, the header, is not JSON"),
    ],
)
def test_the_first_bad_line_is_named(tmp_path: Path, spoil: Callable[[list[bytes]], list[bytes]], sentence: str) -> None:
    write(tmp_path)
    path = tmp_path / NAME
    path.write_bytes(b"".join(spoil(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(TrainingError, match=sentence):
        list(StepFile(tmp_path).records())


def test_a_column_is_the_one_of_the_header(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "columns" / "length.npy"
    for content, sentence in (
        (np.arange(1, 11), "digest differs"),
        (np.arange(9), "each of 10 rows"),
        (np.arange(10.0), "64-bit"),
    ):
        np.save(path, content)
        with pytest.raises(TrainingError, match=sentence):
            StepFile(tmp_path)
    path.write_bytes(b"no array")
    with pytest.raises(TrainingError, match="is not an array"):
        StepFile(tmp_path)
    path.unlink()
    with pytest.raises(TrainingError, match="cannot read"):
        StepFile(tmp_path)
