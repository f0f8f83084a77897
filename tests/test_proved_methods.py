"""Honest training with GaLore, LoRA or FP8 is proved and verified: in the clear all variants and chains, hidden one of each."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from method_reference import Data
from method_segments import VARIANTS, Trained, honest, method_tables, next_segment, train
from test_exact_methods import problems
from tiny_runs import command, succeed

from zkaudit.zk import proof_file
from zkaudit.zk.errors import BadInput
from zkaudit.zk.statement import Statement, check, check_succession
from zkaudit.zk.testing.reference_trainer import OutOfRange
from zkaudit.zk.testing.segments import prove_in_the_clear, verify_in_the_clear
from zkaudit.zk.witness import Witness


def accepted(made: Trained, before: Witness | None = None) -> Witness:
    """Its witness, proved and verified in the clear; what the data and start commitments hold is what `before` committed to."""
    witness = honest(made)
    adopted = dict(witness.tables)
    if before is not None:
        layout = witness.layout
        adopted |= {block.name: before.tables[block.name.replace("start", "end", 1)] for block in layout.start}
        adopted |= {block.name: before.tables[block.name] for block in layout.data}
    verify_in_the_clear(made.statement, adopted, prove_in_the_clear(made.statement, witness, check_trace=True))
    return witness


@pytest.mark.parametrize("name", VARIANTS)
def test_an_honest_segment_is_accepted(name: str) -> None:
    accepted(train(VARIANTS[name]))


@pytest.mark.parametrize("name", VARIANTS)
def test_the_witness_holds_what_the_reference_computes(name: str) -> None:
    made = train(VARIANTS[name])
    witness, expected = honest(made), method_tables(made)
    assert expected.keys() <= witness.tables.keys()
    for block, table in expected.items():
        assert (witness.tables[block] == table).all(), block
    assert all((a == b).all() for a, b in zip(witness.end_state, made.end, strict=True))


@settings(max_examples=20)
@given(problems())
def test_any_honest_segment_is_accepted(problem: tuple[Statement, Data]) -> None:
    """Any shape, format, rank, side and gap that can be stated."""
    try:
        check(problem[0])
        made = train(*problem)
    except (BadInput, OutOfRange):
        assume(False)
    accepted(made)


CHAINED = [
    *("galore", "galore, gap of 1", "galore, random", "galore, sgd", "galore, stored", "galore, stored by groups", "lora"),
    *("fp8 with galore", "fp8 with galore, stored"),
]


@pytest.mark.parametrize("name", CHAINED)
def test_a_chain_of_segments_is_accepted(name: str) -> None:
    """Each begins with the weights and moments that the one before committed to."""
    made = train(VARIANTS[name])
    witness = accepted(made)
    for _ in range(2):
        made = train(*next_segment(made))
        witness = accepted(made, witness)
    assert made.statement.segment == 2
    if made.statement.galore is not None and made.statement.galore.is_adam:
        assert all(np.any(moment) for moment in made.moments)


def test_segments_of_a_chain_make_the_run_that_they_cut() -> None:
    """Two segments of four steps are one of eight: moments are handed on between them as between periods."""
    first = train(VARIANTS["galore, random"])
    second = train(*next_segment(first))
    whole = replace(first.statement, rates=(*first.statement.rates, *second.statement.rates))
    assert all((a == b).all() for a, b in zip(train(whole, first.data).end, second.end, strict=True))


def test_a_period_cannot_be_cut() -> None:
    """A segment begins where a period does, so that a basis serves the whole of one."""
    made = train(VARIANTS["galore, broken gap"])
    with pytest.raises(BadInput, match=r"step 4, which is no multiple of galore.gap 3"):
        next_segment(made)


CONFIG = """
[data]
source = "set.npz"
test_fraction = 0.25
[model]
hidden = [4, 3]
init_seed = 1
[training]
loss = "cross_entropy"
batch = 3
steps = 5
learning_rate = {rate}
seed = "methods"
{rest}
"""
RUNS = {
    "galore": (0.05, 'method = "galore"\n[galore]\nrank = 2\ngap = 2\nscale = 1.0\nside = "small"'),
    "lora": (0.1, 'method = "lora"\n[lora]\nrank = 2\nalpha = 3\nlayers = [1, 3]'),
    "fp8": (0.1, 'precision = "fp8"\n[fp8]\ngradient_format = "e5m2"\ngradient_exponents = -14'),
    "galore, stored": (0.05, 'method = "galore"\n[galore]\nrank = 2\ngap = 2\nscale = 1.0\nstates = "fp8"'),
    "stored galore in fp8": (
        0.05,
        'method = "galore"\nprecision = "fp8"\n[galore]\nrank = 2\ngap = 2\nstates = "fp8"\n'
        "first_exponents = [12, 10, 12]\nsecond_exponents = 12",
    ),
    "random galore in fp8": (0.05, 'method = "galore"\nprecision = "fp8"\n[galore]\nrank = 2\ngap = 3\nbasis = "random"'),
}


def proved(name: str, folder: Path, *options: str) -> tuple[Path, list[Path]]:
    """A run of a 4-4-3-2 network on random records, and its proofs."""
    random = np.random.default_rng(7)
    np.savez(folder / "set.npz", X=random.normal(size=(32, 4)), y=np.arange(32) % 2)
    rate, rest = RUNS[name]
    (folder / "config.toml").write_text(CONFIG.format(rate=rate, rest=rest))
    succeed("train", folder / "config.toml", "--out", folder / "run")
    out = folder / ("proofs" if options else "proof.zkp")
    succeed("prove", folder / "run", "--out", out, *options)
    return out, sorted(out.glob("*.zkp")) if options else [out]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_trained_proved_and_verified(name: str, tmp_path: Path) -> None:
    """Through the command line, hidden as it is shipped; one bit changed in the proof, and it is refused."""
    out, _ = proved(name, tmp_path)
    assert succeed("verify", out).startswith("VALID")
    data = bytearray(out.read_bytes())
    data[-40] ^= 1
    out.write_bytes(data)
    assert command("verify", out).code != 0


@pytest.mark.parametrize(
    ("name", "steps", "segments"), [("galore", 2, 3), ("galore", 3, 3), ("galore, stored", 2, 3), ("lora", 2, 3)]
)
def test_a_hidden_chain_is_proved_and_verified(name: str, steps: int, segments: int, tmp_path: Path) -> None:
    """GaLore's moments and bases go from segment to segment, LoRA's frozen weights stay; segments have whole periods."""
    out, files = proved(name, tmp_path, "--segment-steps", str(steps))
    assert len(files) == segments
    assert succeed("verify", out).startswith("VALID")
    statements = [proof_file.read(file).statement for file in files]
    for before, after in itertools.pairwise(statements):
        check_succession(before, after)
        assert after.start == before.end != before.start
        assert after.data == before.data
    assert command("verify", files[0], files[2]).code != 0
