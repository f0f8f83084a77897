"""A chain of segments: every splice of honest proofs that is not one run is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
from zkaudit_process import ODD, Proved, proved

from zkaudit.zk import proof_file
from zkaudit.zk.errors import BadInput, InvalidProof
from zkaudit.zk.proof_file import ProofFile, encode
from zkaudit.zk.prover import commit_start, prove_run
from zkaudit.zk.verifier import verify_files, verify_segment


@pytest.fixture(scope="module")
def segments(chain: Proved) -> list[Path]:
    return sorted(chain.proof.glob("segment-*.zkp"))


@pytest.fixture(scope="module")
def other_run(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    run = proved(tmp_path_factory.mktemp("other"), ODD, "--segment-steps", "2")
    return sorted(run.proof.glob("segment-*.zkp"))


def test_the_whole_chain_is_accepted(segments: list[Path]) -> None:
    verdict = verify_files(segments)
    assert (verdict.valid, verdict.steps, verdict.segments, verdict.assumes) == (True, 5, 3, "")


def test_a_later_segment_alone_says_what_it_assumes(segments: list[Path]) -> None:
    verdict = verify_files(segments[1:])
    assert verdict.valid
    assert "segments 0 to 0" in verdict.assumes


def test_a_missing_segment_is_refused(segments: list[Path]) -> None:
    verdict = verify_files([segments[0], segments[2]])
    assert not verdict.valid
    assert "does not continue" in verdict.reason


def test_a_repeated_segment_is_refused(segments: list[Path]) -> None:
    assert not verify_files([segments[0], segments[1], segments[1]]).valid


def test_a_segment_of_another_run_is_refused(segments: list[Path], other_run: list[Path]) -> None:
    for i in range(3):
        mixed = [*segments[:i], other_run[i], *segments[i + 1 :]]
        assert not verify_files(mixed).valid


def test_a_segment_is_no_proof_at_another_place(segments: list[Path]) -> None:
    file = proof_file.read(segments[1])
    for change in ({"first_step": 3}, {"segment": 2}, {"previous": "00" * 32}, {"start_bound": 1 << 60}):
        with pytest.raises(InvalidProof):
            verify_segment(ProofFile(replace(file.statement, **change), file.proof))


def test_batch_seed_of_the_first_segment_must_follow_from_its_commitments(segments: list[Path], tmp_path: Path) -> None:
    file = proof_file.read(segments[0])
    with pytest.raises(InvalidProof, match="batch seed"):
        verify_segment(ProofFile(replace(file.statement, batch_seed="ab" * 32), file.proof))


def test_proving_again_keeps_what_is_there(chain: Proved, segments: list[Path], tmp_path: Path) -> None:
    """A segment whose proof is lost is proved again; the others are left as they are, byte for byte."""
    folder = tmp_path / "proofs"
    folder.mkdir()
    for path in (segments[0], segments[2]):
        (folder / path.name).write_bytes(path.read_bytes())
    prove_run(chain.run, folder, 2)
    assert verify_files([folder]).valid
    assert (folder / segments[0].name).read_bytes() == segments[0].read_bytes()
    assert (folder / segments[2].name).read_bytes() == segments[2].read_bytes()
    assert proof_file.read(folder / segments[1].name).statement == proof_file.read(segments[1]).statement


def test_committing_again_gives_the_same_seed(chain: Proved) -> None:
    assert commit_start(chain.run) == commit_start(chain.run)


def test_a_trace_with_another_value_is_not_proved(chain: Proved, tmp_path: Path) -> None:
    """The prover notices what a verifier would refuse, and says which relation fails."""
    run = tmp_path / "run"
    _copy(chain.run, run)
    path = run / "trace" / "chunk-00000" / "z0.bin"
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(BadInput, match="trace"):
        prove_run(run, tmp_path / "out")


def test_a_file_without_its_proof_is_refused(segments: list[Path]) -> None:
    file = proof_file.read(segments[0])
    with pytest.raises(InvalidProof):
        verify_segment(ProofFile(file.statement, b""))
    assert len(encode(file)) > len(file.proof)


def _copy(source: Path, target: Path) -> None:
    import shutil

    shutil.copytree(source, target)
