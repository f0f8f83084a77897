"""Proving segments elsewhere: the same proofs everywhere, and what happens when workers die, fail or are stopped."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from engine_faults import Fatal
from test_packaging import without_heavy_packages
from zkaudit_process import Proved, assert_refused, start, succeed, wait_for, zkaudit

from zkaudit.zk.channel import Blinder
from zkaudit.zk.engine import Engine, Job, Processes, Proof, RayTasks, ThisProcess
from zkaudit.zk.engine.job import Report, Supplies, answer
from zkaudit.zk.errors import BadInput
from zkaudit.zk.prover import prove_run
from zkaudit.zk.testing.segments import statement_of
from zkaudit.zk.verifier import verify_files

SEED = b"seed"


class Backwards:
    """The last segment first."""

    def prove(self, jobs: Sequence[Job], report: Report) -> Generator[Proof, None, None]:
        yield from ThisProcess().prove(jobs[::-1], report)


@pytest.fixture(scope="module")
def ray_of_two() -> Iterator[None]:
    """A Ray with two workers on this machine, to which this process is connected."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # for the blinders that kill
        import ray

        ray.init("local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        yield
        ray.shutdown()


def engine(name: str, request: pytest.FixtureRequest) -> Engine:
    if name == "ray":
        request.getfixturevalue("ray_of_two")
        return RayTasks(workers=2)
    return {"one": Processes(1, 1), "two": Processes(2, 2), "backwards": Backwards(), "here": ThisProcess()}[name]


BOTH = ("two", pytest.param("ray", marks=pytest.mark.slow))


@pytest.fixture
def run(chain: Proved, tmp_path: Path) -> Path:
    """A run of five steps that has not been planned."""
    shutil.copytree(chain.run, tmp_path / "run")
    for path in (tmp_path / "run" / "openings").glob("weights-*.json"):
        if path.name != "weights-00000000.json":
            path.unlink()
    return tmp_path / "run"


@pytest.fixture(scope="module")
def expected(chain: Proved, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """What this process proves from the seed, a segment a step."""
    folder = tmp_path_factory.mktemp("expected")
    shutil.copytree(chain.run, folder / "run")
    for path in (folder / "run" / "openings").glob("weights-0000000[1-9].json"):
        path.unlink()
    return contents(prove_run(folder / "run", folder / "out", 1, blinder=Blinder(SEED)))


def contents(paths: Sequence[Path]) -> list[bytes]:
    return [path.read_bytes() for path in paths]


@pytest.mark.parametrize("where", [pytest.param("one", marks=pytest.mark.slow), "backwards", *BOTH])
def test_proofs_are_the_same_bytes_wherever_they_are_made(
    where: str, run: Path, expected: list[bytes], request: pytest.FixtureRequest
) -> None:
    seconds: dict[str, float] = {}
    seen: list[tuple[str, float]] = []
    proofs = prove_run(
        run, run.parent / "out", 1, lambda *said: seen.append(said), Blinder(SEED), seconds, engine(where, request)
    )
    assert contents(proofs) == expected
    assert seconds.keys() >= {"witness", "commit", "lookup", "matmul", "relu", "opening"}
    assert {"0 of 5 segments proved", "4 of 5 segments proved"} <= {what for what, _ in seen}
    assert all(0 <= share <= 1 for _, share in seen)
    assert seen[-1] == ("done", 1.0)


def test_proofs_without_a_seed_share_no_blinding(run: Path) -> None:
    first = contents(prove_run(run, run.parent / "a", 3, engine=Processes(2)))
    again = contents(prove_run(run, run.parent / "b", 3, engine=Processes(2)))
    points = [{proof[i : i + 48] for i in range(len(proof) - 48 * 60, len(proof), 48)} for proof in (first[1], again[1])]
    assert not points[0] & points[1]
    assert verify_files([run.parent / "a"]).valid
    assert verify_files([run.parent / "b"]).valid


@pytest.mark.slow
def test_worker_that_does_not_see_the_run_gets_what_it_needs(
    run: Path, expected: list[bytes], request: pytest.FixtureRequest
) -> None:
    """Through a descriptor of this process, a path is there for this process only."""
    descriptor = os.open(run.parent, os.O_RDONLY)
    here = Path(f"/proc/self/fd/{descriptor}")
    try:
        proofs = prove_run(here / "run", run.parent / "out", 1, blinder=Blinder(SEED), engine=engine("ray", request))
    finally:
        os.close(descriptor)
    assert contents(proofs) == expected


@pytest.mark.parametrize("where", BOTH)
def test_segment_of_a_killed_worker_is_proved_again(
    where: str, run: Path, expected: list[bytes], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    graves = run.parent / "graves"
    graves.mkdir()
    proofs = prove_run(run, run.parent / "out", 1, blinder=Fatal(SEED, graves, 2), engine=engine(where, request))
    assert len(list(graves.iterdir())) == 2
    assert contents(proofs) == expected


@pytest.mark.parametrize("where", BOTH)
def test_segment_that_kills_every_worker_is_given_up_by_name(
    where: str, run: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    graves = run.parent / "graves"
    graves.mkdir()
    with pytest.raises(BadInput, match=r"segment [0-4] was given up: 3 workers were lost"):
        prove_run(run, run.parent / "out", 1, blinder=Fatal(SEED, graves, 100), engine=engine(where, request))
    assert not list((run.parent / "out").iterdir())


@pytest.mark.parametrize("where", BOTH)
def test_bad_input_of_a_worker_is_raised_as_it_is(where: str, run: Path, request: pytest.FixtureRequest) -> None:
    spoil(run)
    with pytest.raises(BadInput, match="the trace does not satisfy the relation"):
        prove_run(run, run.parent / "out", 1, engine=engine(where, request))


@pytest.mark.parametrize(
    "options", [["--workers", "2"], pytest.param(["--engine", "ray", "--workers", "2"], marks=pytest.mark.slow)]
)
def test_bad_input_of_a_worker_is_one_sentence(options: list[str], run: Path) -> None:
    spoil(run)
    done = zkaudit("prove", run, "--out", run.parent / "out", "--segment-steps", "1", *options)
    assert_refused(done, "the trace does not satisfy the relation")


@pytest.mark.slow
def test_ray_that_is_started_for_one_command_proves_and_ends(run: Path) -> None:
    options = ["--segment-steps", "2", "--engine", "ray", "--workers", "2", "--threads", "2"]
    done = zkaudit("prove", run, "--out", run.parent / "out", *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert succeed("verify", run.parent / "out").startswith("VALID: 5 steps")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense"])
def test_cluster_that_is_not_there_is_one_sentence(address: str, run: Path) -> None:
    options = ["--engine", "ray", "--ray-address", address]
    assert_refused(zkaudit("prove", run, "--out", run.parent / "out", *options), address)


def test_missing_ray_is_one_sentence(run: Path) -> None:
    program = "from zkaudit.cli import main; sys.exit(main(sys.argv[1:]))"
    done = without_heavy_packages(program, "prove", str(run), "--out", str(run.parent / "out"), "--engine", "ray")
    assert_refused(done, "pip install 'zkaudit[ray]'")


@pytest.mark.parametrize(("device", "offered", "asked"), [("cpu", {"CPU": 2}, 0), ("cuda", {"CPU": 2, "GPU": 1}, 1)])
def test_ray_tasks_ask_for_the_gpu_that_they_need(device: str, offered: dict[str, int], asked: int) -> None:
    cluster = SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": offered}])
    assert RayTasks()._gpus(cluster, [SimpleNamespace(device=device)]) == asked


def test_a_cluster_without_a_gpu_is_one_sentence() -> None:
    cluster = SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": {"CPU": 2}}])
    with pytest.raises(BadInput, match="no machine of the Ray cluster offers a GPU"):
        RayTasks()._gpus(cluster, [SimpleNamespace(device="cuda")])


def test_ray_address_without_ray_is_one_sentence(run: Path) -> None:
    assert_refused(zkaudit("prove", run, "--out", run.parent / "out", "--ray-address", "auto"), "--engine ray")


def test_error_that_cannot_travel_is_told_in_words() -> None:
    class Odd(Exception):
        pass

    def fail(_: Job) -> Supplies:
        raise Odd("seven")

    told = answer(Job(Path(), statement_of(), Blinder()), fail, lambda *_: None)
    assert (type(told), str(told)) == (RuntimeError, "Odd: seven")


class Stopped(Exception):
    pass


@pytest.mark.parametrize("where", ["here", *BOTH])
def test_interrupted_run_goes_on_elsewhere(
    where: str, run: Path, expected: list[bytes], request: pytest.FixtureRequest
) -> None:
    out = run.parent / "out"

    def progress(what: str, _: float) -> None:
        if what.startswith("2 of 5"):
            raise Stopped

    with pytest.raises(Stopped):
        prove_run(run, out, 1, progress, Blinder(SEED), engine=engine(where, request))
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert len(before) == 2
    assert contents(prove_run(run, out, 1, blinder=Blinder(SEED), engine=Backwards())) == expected
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_proof_of_another_statement_is_made_again(run: Path, chain: Proved) -> None:
    """The same run with other commitments between its segments: other statements, though all else is alike."""
    out = run.parent / "out"
    shutil.copytree(chain.proof, out)
    before = contents(sorted(out.iterdir()))
    after = contents(prove_run(run, out, 2))
    assert all(a != b for a, b in zip(before, after, strict=True))
    assert verify_files([out]).valid


@pytest.mark.slow
def test_killed_main_process_takes_its_workers_along_and_goes_on(run: Path) -> None:
    command = ("prove", run, "--out", run.parent / "out", "--segment-steps", "1", "--workers", "2")
    process = start(*command)
    first = run.parent / "out" / "segment-00000.zkp"
    wait_for(first.exists, process)
    workers = descendants(process.pid)
    process.kill()
    process.communicate()
    assert workers
    until_gone(workers)
    before = first.read_bytes()
    succeed(*command)
    assert first.read_bytes() == before
    assert succeed("verify", run.parent / "out").startswith("VALID: 5 steps")


@pytest.mark.slow
@pytest.mark.parametrize("where", ["local", "ray"])
def test_control_c_stops_the_workers(where: str, run: Path) -> None:
    """To the whole foreground group, as a terminal sends it."""
    options = ["--segment-steps", "1", "--workers", "2", "--engine", where]
    process = start("prove", run, "--out", run.parent / "out", *options, process_group=0)
    wait_for((run.parent / "out" / "segment-00000.zkp").exists, process)
    workers = descendants(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    _, complaint = process.communicate(timeout=60)
    assert (process.returncode, complaint) == (130, "zkaudit: stopped; run the same command again to go on\n")
    assert len(workers) >= 2
    until_gone(workers)


def spoil(run: Path) -> None:
    """Change one remainder of the last step by one: activations, and so the weights, stay what they were."""
    path = run / "trace" / "chunk-00000" / "r0.bin"
    data = bytearray(path.read_bytes())
    data[-4] ^= 1
    path.write_bytes(bytes(data))


def descendants(pid: int) -> list[int]:
    try:
        tasks = [task.read_text().split() for task in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:  # it has ended meanwhile
        return []
    children = [int(child) for task in tasks for child in task]
    return children + [found for child in children for found in descendants(child)]


def until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)
