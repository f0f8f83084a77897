"""Runs whose batches are drawn by views or by length buckets: proved, verified, and refused where the sampler is changed."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from hashlib import shake_256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import CONFIG as TINY
from tiny_runs import assert_refused, command, succeed

from zkaudit.training.errors import TrainingError
from zkaudit.training.sampler_config import LengthBucketsConfig, sampler_of
from zkaudit.zk import proof_file
from zkaudit.zk.errors import BadInput
from zkaudit.zk.proof_file import ProofFile
from zkaudit.zk.samplers import Buckets, Sampler, ViewBatch, read, written
from zkaudit.zk.sampling import LengthBuckets, batch_rows, batches, buckets_of, length_bucket_rows, view_batch_rows
from zkaudit.zk.statement import Statement, check, check_succession, derive_batch_seed, end_bound, parse
from zkaudit.zk.testing.segments import statement_of
from zkaudit.zk.trace import read_trace
from zkaudit.zk.verifier import work

ROWS = 48
CONFIG = TINY.format(loss="cross_entropy", batch=4, steps=10, seed="samplers")
VIEWS = 'sampler = "view-batch"\n[view_batch]\nviews = 2\n'
BUCKETS = 'sampler = "length-buckets"\n[length_buckets]\nlengths = "lengths.npy"\nodds = [4, 2, 1]\ncycles = 2\n'
LENGTHS = np.random.default_rng(3).choice([1, 3, 9], size=ROWS)
DRAWN: dict[str, Sampler] = {"views": ViewBatch(2), "buckets": Buckets((1, 3, 1, 2, 3, 9, 8, 9, 1, 1, 2), (4, 2, 1), 3)}


def configured(folder: Path, rest: str) -> Path:
    random = np.random.default_rng(7)
    inputs = random.normal(size=(ROWS, 4)) * (random.random((ROWS, 4)) < 0.7)
    np.savez(folder / "set.npz", X=inputs, y=np.arange(ROWS) % 2)
    np.save(folder / "lengths.npy", LENGTHS)
    (folder / "config.toml").write_text(CONFIG + rest)
    return folder / "config.toml"


@pytest.fixture(scope="module", params=[VIEWS, BUCKETS], ids=["views", "buckets"])
def proved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """A run, and its proof in three segments."""
    folder = tmp_path_factory.mktemp("samplers")
    succeed("train", configured(folder, request.param), "--out", folder / "run")
    succeed("prove", folder / "run", "--out", folder / "proofs", "--segment-steps", "4")
    return folder / "run", sorted((folder / "proofs").glob("*.zkp"))


def test_a_run_is_trained_proved_and_verified(proved: tuple[Path, list[Path]]) -> None:
    run, files = proved
    assert len(files) == 3
    assert succeed("verify", *files).startswith("VALID: 10 steps")
    statements = [proof_file.read(file).statement for file in files]
    for before, after in itertools.pairwise(statements):
        check_succession(before, after)
    assert statements[0].sampler is not None
    assert statements[0].batch_seed == derive_batch_seed(statements[0])
    stated = np.concatenate([batches(statement) for statement in statements])
    assert (read_trace(run / "trace").batches(0, 10) == stated).all()


def test_what_is_trained_on_is_what_the_sampler_is_for(proved: tuple[Path, list[Path]]) -> None:
    run, files = proved
    stated, drawn = proof_file.read(files[0]).statement, read_trace(run / "trace").batches(0, 10)
    if isinstance(stated.sampler, ViewBatch):
        assert all(set(Counter(rows).values()) == {2} for rows in drawn.tolist())
        assert "2 times on end" in succeed("inspect", files[0])
    else:
        assert isinstance(stated.sampler, Buckets)
        kinds = [{stated.sampler.lengths[row].bit_length() for row in rows} for rows in drawn.tolist()]
        assert all(len(kind) == 1 for kind in kinds)
        assert sorted(stated.sampler.lengths) != sorted(LENGTHS.tolist())  # test rows have gone
        assert Counter(stated.sampler.lengths) <= Counter(LENGTHS.tolist())
        assert "of like lengths" in succeed("inspect", files[0])


def tampered(file: ProofFile) -> dict[str, Statement]:
    """The statement with another sampler, and with the batch seed that this gives."""
    statement, found = file.statement, file.statement.sampler
    others: dict[str, Sampler | None] = {"none": None}
    if isinstance(found, ViewBatch):
        others["views"] = ViewBatch(3)
    else:
        assert isinstance(found, Buckets)
        others["lengths"] = replace(found, lengths=(found.lengths[0] ^ 8, *found.lengths[1:]))
        others["odds"] = replace(found, odds=(4, 2, 2))
        others["cycles"] = replace(found, cycles=3)
    changed = {name: replace(statement, sampler=other) for name, other in others.items()}
    return changed | {f"{name}, seed too": replace(s, batch_seed=derive_batch_seed(s)) for name, s in changed.items()}


def test_another_sampler_in_the_statement_is_refused(proved: tuple[Path, list[Path]], tmp_path: Path) -> None:
    file = proof_file.read(proved[1][0])
    for name, statement in tampered(file).items():
        assert statement != file.statement
        path = tmp_path / f"{name}.zkp"
        path.write_bytes(proof_file.encode(ProofFile(statement, file.proof)))
        done = command("verify", path)
        assert (done.code, done.out[:7]) == (1, "INVALID"), name


def test_batches_go_on_where_a_run_was_stopped(proved: tuple[Path, list[Path]]) -> None:
    """A later segment's batches are those steps of the whole run."""
    statement = proof_file.read(proved[1][0]).statement
    whole = batches(replace(statement, rates=(1,) * 40))
    for first in (3, 9, 17, 30):
        assert (batches(replace(statement, first_step=first, rates=(1,) * 10)) == whole[first : first + 10]).all()


def words(tag: bytes, seed: bytes, number: int, count: int) -> list[int]:
    framed = b"".join(len(part).to_bytes(8, "little") + part for part in (tag, seed)) + number.to_bytes(8, "little")
    stream = shake_256(framed).digest(8 * count)
    return [int.from_bytes(stream[8 * i : 8 * i + 8], "little") for i in range(count)]


def order(tag: bytes, seed: bytes, number: int, rows: list[int]) -> list[int]:
    drawn = words(tag, seed, number, len(rows))
    return [row for _, row in sorted(zip(drawn, rows, strict=True))]


def by_the_document(s: Statement) -> list[list[int]]:
    """Batches of the steps from 0, as docs/proof-format.md, section 3.1, says it, one entry after the other."""
    seed, found, n = bytes.fromhex(s.batch_seed), s.sampler, s.batch
    if isinstance(found, ViewBatch):
        per_cycle = found.views * s.rows // n
        places = [divmod(step, per_cycle) for step in range(s.steps)]
        orders = {a: order(b"zkaudit view batches", seed, a, list(range(s.rows))) for a, _ in places}
        return [[orders[a][(q * n + b) // found.views] for b in range(n)] for a, q in places]
    assert isinstance(found, Buckets)
    buckets = {k: [i for i, x in enumerate(found.lengths) if 2**k <= x < 2 ** (k + 1)] for k in range(41)}
    buckets = {k: rows for k, rows in buckets.items() if rows}
    odds = dict(zip(buckets, found.odds or [1] * len(buckets), strict=True))
    steps: list[list[int]] = []
    for a in itertools.count():
        batches_of = {}
        for k, rows in buckets.items():
            ordered = order(b"zkaudit bucket " + str(k).encode(), seed, a, rows)
            batches_of[k] = [ordered[n * i : n * i + n] for i in range(len(rows) // n)]
        total_of = {k: len(cut) for k, cut in batches_of.items()}
        for c in range(found.cycles):
            left = {k: f * (c + 1) // found.cycles - f * c // found.cycles for k, f in total_of.items()}
            weight, m = {k: 2**k * n * odds[k] * count for k, count in left.items()}, sum(left.values())
            w = words(b"zkaudit bucket draws", seed, a * found.cycles + c, 2 * m)
            for i in range(m):
                there = [k for k in left if left[k]]
                point = (2**64 * w[2 * i] + w[2 * i + 1]) * sum(weight[k] for k in there) // 2**128
                k = next(k for k in there if point < sum(weight[other] for other in there if other <= k))
                left[k] -= 1
                steps.append(batches_of[k].pop(0))
                if len(steps) == s.steps:
                    return steps
    raise AssertionError


@given(
    st.lists(st.sampled_from([1, 2, 3, 5, 9, 1 << 40]), min_size=4, max_size=40), st.integers(1, 3), st.integers(1, 5),
    st.integers(0, 9), st.binary(min_size=32, max_size=32),
)  # fmt: skip
def test_batches_are_those_of_the_document(lengths: list[int], batch: int, number: int, odd: int, seed: bytes) -> None:
    """number: of views or cycles."""
    used = len(buckets_of(np.array(lengths)))
    base = replace(statement_of(rows=len(lengths), batch=batch), batch_seed=seed.hex(), rates=(1,) * 50)
    for sampler in (ViewBatch(number), Buckets(tuple(lengths), tuple(odd + i for i in range(used)) if odd else (), number)):
        s = replace(base, sampler=sampler)
        try:
            check(s)
        except BadInput:
            continue  # no bucket fills a batch
        assert batches(s).tolist() == by_the_document(s)


def test_without_a_sampler_batches_are_fresh_orders() -> None:
    s = statement_of()
    assert b"sampler" not in s.header()
    assert b"records" not in s.header()
    assert (batches(s) == batch_rows(bytes.fromhex(s.batch_seed), s.rows, s.batch, 0, s.steps)).all()


@pytest.mark.parametrize("name", DRAWN)
def test_a_statement_draws_by_its_sampler(name: str) -> None:
    sampler = DRAWN[name]
    s = replace(statement_of(), sampler=sampler, first_step=5, segment=1, previous="00" * 32)
    check(s)
    seed, lengths = bytes.fromhex(s.batch_seed), getattr(sampler, "lengths", ())
    if isinstance(sampler, ViewBatch):
        oracle = view_batch_rows(seed, s.rows, s.batch, 5, s.steps, 2)
    else:
        oracle = length_bucket_rows(seed, np.array(lengths), s.batch, 5, s.steps, (4, 2, 1), 3)
    assert (batches(s) == oracle).all()


@pytest.mark.parametrize("name", DRAWN)
def test_a_sampler_survives_its_encoding_and_is_carried_on(name: str) -> None:
    before = replace(statement_of(), sampler=DRAWN[name], data=b"d", start=b"s", end=b"e")
    assert parse(before.header(), b"d", b"s", b"e") == before
    assert read(json.loads(json.dumps(written(DRAWN[name])))) == DRAWN[name]
    after = replace(
        before, segment=1, first_step=before.steps, start=b"e", start_bound=end_bound(before), previous=before.digest()
    )  # fmt: skip
    check_succession(before, after)
    with pytest.raises(BadInput, match="'sampler' differs"):
        check_succession(before, replace(after, sampler=ViewBatch(7)))
    with pytest.raises(BadInput, match="'sampler' differs"):
        check_succession(before, replace(after, sampler=None))


def test_the_batch_seed_depends_on_the_whole_sampler() -> None:
    """Otherwise lengths and views could be chosen by the batches that they give."""
    base, found = statement_of(), DRAWN["buckets"]
    assert isinstance(found, Buckets)
    lengths = (*found.lengths[:-1], found.lengths[-1] + 1)
    samplers: list[Sampler | None] = [
        *(None, ViewBatch(1), ViewBatch(2), found, replace(found, lengths=lengths), replace(found, odds=(4, 2, 2))),
        replace(found, cycles=4),
    ]
    assert len({derive_batch_seed(replace(base, sampler=sampler)) for sampler in samplers}) == len(samplers)


MALFORMED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "null": lambda s: None,
    "a list": lambda s: [s],
    "another kind": lambda s: {**s, "kind": "hard-batch"},
    "no kind": lambda s: {name: x for name, x in s.items() if name != "kind"},
    "a field more": lambda s: {**s, "more": 1},
    "a field less": lambda s: {name: x for name, x in s.items() if name not in ("cycles", "views")},
    "true": lambda s: {**s, ("views" if "views" in s else "cycles"): True},
    "zero": lambda s: {**s, ("views" if "views" in s else "cycles"): 0},
    "too much": lambda s: {**s, ("views" if "views" in s else "cycles"): 1 << 20},
}
BAD_BUCKETS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a length of 0": lambda s: {**s, "lengths": [0, *s["lengths"][1:]]},
    "a length too large": lambda s: {**s, "lengths": [1 << 41, *s["lengths"][1:]]},
    "a fraction": lambda s: {**s, "lengths": [1.0, *s["lengths"][1:]]},
    "a length less": lambda s: {**s, "lengths": s["lengths"][1:]},
    "no list": lambda s: {**s, "lengths": 5},
    "odds of 0": lambda s: {**s, "odds": [1, 1, 0]},
    "odds for too few": lambda s: {**s, "odds": [1, 1]},
    "all lengths differ": lambda s: {**s, "lengths": [1 << k for k in range(11)], "odds": []},
}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *((name, change) for name in DRAWN for change in MALFORMED.values()),
        *(("buckets", change) for change in BAD_BUCKETS.values()),
    ],
)
def test_a_sampler_that_cannot_be_is_refused(name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    fields = json.loads(replace(statement_of(), sampler=DRAWN[name]).header())
    fields["sampler"] = change(fields["sampler"])
    with pytest.raises(BadInput):
        parse(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode(), b"", b"", b"")


def test_lengths_that_leave_no_room_in_the_header_are_refused() -> None:
    rows = 1 << 19
    sampler = Buckets((1 << 40,) * rows, (), 1)
    s = replace(statement_of(rows=rows, batch=1), sampler=sampler)
    check(s)
    with pytest.raises(BadInput, match="more than 16793600 bytes"):
        check(replace(s, rates=(1 << 39,) * (1 << 20)))


def test_draws_count_as_work() -> None:
    """Lengths of a few bytes each make a verifier draw: as much work as the budget is told of."""
    plain = statement_of(rows=512, batch=1)
    drawn = replace(plain, sampler=Buckets((1,) * 512, (), 1))
    more = len(drawn.header()) - len(plain.header())
    assert work(ProofFile(drawn, b"")) - work(ProofFile(plain, b"")) == more + 16 * (512 + plain.steps)


@given(st.lists(st.sampled_from([1, 2, 5, 9]), min_size=8, max_size=60), st.integers(1, 4), st.integers(1, 9))
def test_an_epoch_of_buckets_has_as_many_steps_as_a_pass(lengths: list[int], batch: int, cycles: int) -> None:
    plan_of = {k: batch for k in buckets_of(np.array(lengths))}
    steps = Buckets(tuple(lengths), (), cycles).epoch_steps(len(lengths), batch)
    if not steps:
        return
    assert steps == LengthBuckets(b"seed", np.array(lengths), plan_of, (), cycles).steps_of_a_pass


def test_nonzero_lengths_are_counted_and_never_0() -> None:
    x = np.array([[0, 0, 0], [1, 0, -2], [3, 4, 5], [0, 7, 0]])
    sampler = sampler_of(LengthBucketsConfig(), x, 1, None)
    assert isinstance(sampler, Buckets)
    assert sampler.lengths == (1, 2, 3, 1)


def test_buckets_that_fill_no_batch_are_named_with_the_data() -> None:
    with pytest.raises(TrainingError, match="rows enough for a batch of 3"):
        sampler_of(LengthBucketsConfig(), np.eye(4, dtype=np.int64)[:2], 3, None)


BAD_CONFIGS = {
    "unknown": ('sampler = "shuffled"\n', "sampler is 'shuffled'"),
    "section of another": ('sampler = "length-buckets"\n[view_batch]\nviews = 2\n', "[view_batch]"),
    "section without": ("[length_buckets]\ncycles = 2\n", "sampler is 'uniform'"),
    "views": ('sampler = "view-batch"\n[view_batch]\nviews = 0\n', "[view_batch] views is 0"),
    "key": ('sampler = "view-batch"\n[view_batch]\nview = 2\n', "unknown key 'view'"),
    "lengths": ('sampler = "length-buckets"\n[length_buckets]\nlengths = "tokens"\n', '"nonzero" or a path'),
    "no file": ('sampler = "length-buckets"\n[length_buckets]\nlengths = "none.npy"\n', "cannot read"),
    "odds": ('sampler = "length-buckets"\n[length_buckets]\nodds = [0]\n', "odds is 0"),
    "odds for buckets": (BUCKETS.replace("[4, 2, 1]", "[1]"), "no entry or 3"),
    "cycles": ('sampler = "length-buckets"\n[length_buckets]\ncycles = true\n', "cycles is True"),
    "records": ("records = 1\n", "true or false"),
}


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_a_configuration_that_cannot_be_is_named(name: str, tmp_path: Path) -> None:
    rest, words = BAD_CONFIGS[name]
    assert_refused(command("train", configured(tmp_path, rest), "--out", tmp_path / "run"), 2, words)


@pytest.mark.parametrize("lengths", [[1, 2], np.ones(ROWS), np.zeros(ROWS, np.int64), np.ones((ROWS, 1), np.int64)])
def test_a_file_of_other_lengths_is_refused(lengths: Any, tmp_path: Path) -> None:
    config = configured(tmp_path, BUCKETS)
    np.save(tmp_path / "lengths.npy", lengths)
    assert_refused(command("train", config, "--out", tmp_path / "run"), 2, "lengths.npy")


def test_a_run_is_not_gone_on_with_by_another_sampler(proved: tuple[Path, list[Path]], tmp_path: Path) -> None:
    run, _ = proved
    assert_refused(command("train", configured(tmp_path, ""), "--out", run), 2, "sampler", "another folder")
