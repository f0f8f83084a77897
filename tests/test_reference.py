"""The reference verifier and the fast one give the same verdict on every file; it stands alone, and is short."""

import ast
import random
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from curve_points import ours
from differences import Tally, compare, fast, slow
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import MUTATIONS, Original, canonical
from py_ecc.optimized_bls12_381 import FQ
from zkaudit_process import Proved, succeed

from zkaudit.zk import curve, hiding, hyrax, reference
from zkaudit.zk.curve import Points
from zkaudit.zk.errors import BadInput
from zkaudit.zk.hiding import HidingProver
from zkaudit.zk.proof_file import decode, encode
from zkaudit.zk.reference import Refused, verify_bytes, verify_chain
from zkaudit.zk.reference.statement import read_file
from zkaudit.zk.testing.segments import example, hidden_proof, statement_of
from zkaudit.zk.verifier import verify_files

FOLDER = Path(reference.__file__).parent
ROOT = Path(__file__).parent.parent
SHAPES = {
    "two layers": {"widths": (4, 3, 2), "batch": 2, "steps": 2, "rows": 5, "columns": 8},
    "one layer, square": {"widths": (5, 3), "loss": "square", "batch": 2, "steps": 3, "rows": 6, "columns": 8},
    "one sample": {"widths": (3, 2), "batch": 1, "steps": 1, "rows": 1, "columns": 8},
    "16-bit weights": {
        "widths": (2, 5, 1),
        "loss": "square",
        "batch": 3,
        "steps": 5,
        "rows": 7,
        "columns": 7,
        "bits": (2, 2, 16),
    },
}
SLOW_SHAPES = {
    "three layers": {"columns": 5},
    "shortest rows": {
        "widths": (3, 2, 2),
        "loss": "square",
        "batch": 2,
        "steps": 2,
        "rows": 3,
        "columns": 4,
        "bits": (8, 12, 33),
    },
    "one unit": {"widths": (1, 1), "batch": 1, "steps": 2, "rows": 3, "columns": 6, "bits": (6, 9, 20)},
    "most bits": {"widths": (3, 4, 2), "batch": 2, "steps": 1, "rows": 4, "columns": 7, "bits": (14, 15, 48)},
    "square, three layers": {"widths": (2, 2, 2, 2), "loss": "square", "batch": 3, "steps": 2, "rows": 4, "columns": 9},
}


def proved(shape: dict[str, object]) -> bytes:
    statement = statement_of(**shape)  # type: ignore[arg-type]
    return encode(hidden_proof(example(statement), statement))


@pytest.fixture(scope="module")
def honest() -> dict[str, bytes]:
    return {name: proved(shape) for name, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def segments(chain: Proved) -> list[Path]:
    return sorted(chain.proof.glob("segment-*.zkp"))


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zkaudit.zk.reference", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def agreed(files: list[Path]) -> bool:
    """Both verdicts on a chain, which must be one."""
    try:
        valid = verify_files(files).valid
    except BadInput:
        valid = False
    try:
        statements = verify_chain([path.read_bytes() for path in files])
    except Refused:
        assert not valid
        return False
    assert valid
    assert [s.segment for s in statements] == sorted(s.segment for s in statements)
    return True


@pytest.mark.parametrize("name", SHAPES)
def test_honest_proofs_are_accepted_by_both(honest: dict[str, bytes], name: str) -> None:
    assert fast(honest[name])
    statement = verify_bytes(honest[name])
    assert statement.widths == list(SHAPES[name]["widths"])  # type: ignore[call-overload]


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW_SHAPES)
def test_more_honest_proofs_are_accepted_by_both(name: str) -> None:
    file = proved(SLOW_SHAPES[name])
    assert fast(file)
    assert slow(file) == ""


def test_chains_are_accepted_in_any_order(segments: list[Path]) -> None:
    assert agreed(segments[::-1])


@pytest.mark.slow
def test_both_accept_a_chain_that_begins_later_and_refuse_what_is_none(segments: list[Path]) -> None:
    assert agreed(segments[1:])
    first, second, third = segments
    for files in ([first, third], [first, second, second], [second, second], [first, first, second]):
        assert not agreed(files)


def test_verdicts_on_mutated_files_are_the_same(honest: dict[str, bytes], segments: list[Path]) -> None:
    files = [honest["one layer, square"], honest["16-bit weights"], segments[1].read_bytes()]
    assert_same(files, seed=1, cases=24)


@pytest.mark.slow
def test_verdicts_on_more_mutated_files_are_the_same(honest: dict[str, bytes], segments: list[Path]) -> None:
    assert_same([*honest.values(), *(path.read_bytes() for path in segments)], seed=2, cases=300)


def assert_same(files: list[bytes], seed: int, cases: int) -> None:
    tallies: dict[str, Tally] = {}
    for kind, tally in islice(compare([Original(file, files) for file in files], random.Random(seed)), cases):
        tallies[kind] = tallies.get(kind, Tally()) + tally
    for kind, tally in sorted(tallies.items()):
        print(f"{kind}: {tally}")
    assert len(tallies) == len(MUTATIONS)
    assert sum(tally.to_the_end for tally in tallies.values()) > cases // 20
    assert all(tally.accepted == (tally.cases if kind == "unchanged" else tally.unchanged) for kind, tally in tallies.items())


class WithSmallOrder(HidingProver):
    """Adds a point of order 3 to every point that it sends."""

    def _write_points(self, points: Points, name: str) -> None:
        super()._write_points(with_small_order(points), name)


def with_small_order(points: Points) -> Points:
    return curve.add(points, np.repeat(ours([(FQ(0), FQ(2), FQ(1))]), len(points), axis=0))


def test_both_accept_points_with_a_part_of_small_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def commit(*arguments: Any) -> tuple[Points, Any]:
        points, blindings = honest_commit(*arguments)
        return with_small_order(points), blindings

    honest_commit = hyrax.commit
    monkeypatch.setattr(hyrax, "commit", commit)  # in the statement, too
    monkeypatch.setattr(hiding, "HidingProver", WithSmallOrder)
    file = proved(SHAPES["one sample"])
    assert not any(curve.in_subgroup(curve.decompress(Original(file).parts["data"], subgroup=False)))
    assert fast(file)
    assert slow(file) == ""


near = st.sampled_from([0, 1, 2, 3, *(2**k + i for k in (16, 20, 22, 32, 40) for i in (-1, 0, 1))])
LIMITS = {
    "widths": st.lists(st.sampled_from([1, 5, 2**16, 2**16 + 1]), min_size=1, max_size=3)
    | st.sampled_from([[2] * 65, [2] * 66]),
    "loss": st.sampled_from(["square", "cross_entropy", "Square"]),
    "rates": st.lists(st.sampled_from([1, 2**47, 2**48, 2**48 + 1]), max_size=3)
    | st.sampled_from([[1] * 2**20, [1] * (2**20 + 1)]),
    "start_bound": st.sampled_from([0, 1, *(2**k + i for k in (19, 35, 51, 200, 210, 220, 230, 240) for i in (-1, 0, 1))]),
    "seed": st.sampled_from(
        ["", "a" * 1024, "\U0001f600" * 1024, "[" * 1024, "a" * 1025, "\ud800", "\udc00\ud83d", '"\\\n\x7f/']
    ),
    "previous": st.sampled_from(["", "5a" * 32, "5A" * 32]),
    **{"activation_bits": st.integers(1, 15), "gradient_bits": st.integers(1, 16), "columns": st.integers(3, 16)},
    **{"weight_bits": st.integers(15, 49), **dict.fromkeys(("batch", "rows", "first_step", "segment"), near)},
}


@given(st.lists(st.sampled_from(sorted(LIMITS)), max_size=3, unique=True), st.booleans(), st.data())
@settings(max_examples=150)
def test_the_limits_of_statements_are_the_same(
    honest: dict[str, bytes], keys: list[str], later: bool, data: st.DataObject
) -> None:
    """Whether a header is one shows before any proof is looked at."""
    o = Original(honest["one sample"], traced=False)
    changes = {key: data.draw(LIMITS[key], label=key) for key in keys}
    bound = 2**60 if later else 2 ** (changes.get("weight_bits", 32) + 3)
    changes = {"start_bound": bound, **({"segment": 1, "previous": "5a" * 32, "first_step": 7} if later else {}), **changes}
    file = o.with_header(derive=True, **changes)
    assert readable(lambda: decode(file, "test"), BadInput) == readable(lambda: read_file(file), Refused)


def readable(read: Callable[[], object], refusal: type[Exception]) -> bool:
    try:
        read()
    except refusal:
        return False
    return True


@given(st.binary(max_size=300))
@settings(max_examples=200)
def test_neither_accepts_other_bytes(data: bytes) -> None:
    for file in (data, b"ZKAUDIT\0\1\0\0\0" + data):
        assert slow(file) != ""
        assert not fast(file)


def test_it_imports_the_standard_library_and_py_ecc_only() -> None:
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level in (0, 1)
                names = [str(node.module)] if node.level == 0 else []
            for name in names:
                assert name.split(".")[0] in {*sys.stdlib_module_names, "py_ecc"}, path


def test_it_is_below_800_lines() -> None:
    assert sum(len(path.read_text().splitlines()) for path in FOLDER.rglob("*.py")) < 800


@pytest.mark.slow
def test_the_folder_runs_by_itself(honest: dict[str, bytes], tmp_path: Path) -> None:
    """Copied elsewhere, in an interpreter that does not know this package."""
    copy = tmp_path / "verifier"
    copy.mkdir()
    for path in FOLDER.glob("*.py"):
        (copy / path.name).write_bytes(path.read_bytes())
    (tmp_path / "proof.zkp").write_bytes(honest["one sample"])
    program = "import sys, runpy; sys.modules['zkaudit'] = None; runpy.run_module('verifier', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", program, "proof.zkp"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.startswith("valid: segments 0 to 0, steps 0 to 0"), done.stderr
    assert done.returncode == 0


def test_its_command_says_in_one_sentence_what_is_wrong(honest: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"hello")
    (tmp_path / "cut").write_bytes(honest["one sample"][:-1])
    (tmp_path / "empty").mkdir()
    for name, code, words in (
        ("missing", 2, "cannot be read: No such file"), ("other", 2, "is not a zkaudit proof file"),
        ("empty", 2, "cannot be read"), ("cut", 1, "not valid: the file ends before its section 'proof'"),
    ):  # fmt: skip
        done = run(tmp_path / name)
        assert done.returncode == code
        assert words in done.stdout + done.stderr
        assert (done.stdout + done.stderr).count("\n") == 1
    assert "FILE" in run("--help").stdout


@pytest.mark.slow
def test_its_command_follows_a_chain(chain: Proved) -> None:
    done = run(chain.proof)
    assert done.stdout == "valid: segments 0 to 2, steps 0 to 4\n"
    assert done.returncode == 0
    assert "final equation" in done.stderr


@pytest.mark.slow
def test_the_digits_demo_is_verified(tmp_path: Path) -> None:
    """About twenty seconds, most of them for the generators."""
    succeed("train", ROOT / "examples" / "digits.toml", "--out", tmp_path / "run")
    succeed("prove", tmp_path / "run", "--out", tmp_path / "digits.zkp")
    done = run(tmp_path / "digits.zkp")
    assert done.stdout.startswith("valid: segments 0 to 0, steps 0 to 99"), done.stdout + done.stderr


@pytest.mark.parametrize("header", [b"[" * 10**6, b'{"a":' * 10**5, b"9" * 10**6, b"\xff", "\ufeff{}".encode("utf-16"), b""])
def test_hostile_headers_are_refused(header: bytes) -> None:
    file = b"ZKAUDIT\0\1\0\0\0" + len(header).to_bytes(8, "little") + header + bytes(32)
    assert not fast(file)
    with pytest.raises(Refused, match="header"):
        verify_bytes(file)


def test_large_statements_in_small_files_are_refused_at_once(honest: dict[str, bytes]) -> None:
    o = Original(honest["one layer, square"])
    changes = {"widths": [1 << 16] * 65, "rows": 1 << 22, "rates": [1] * 64, "batch": 1 << 16}
    file = o.with_header(derive=True, **changes)
    assert len(canonical({**o.header, **changes})) < 2000
    assert slow(file) == "the commitment 'data' has another size"
    assert not fast(file)
