"""Many inputs from a seed. They run in a process of their own, which may die of one: that input is kept and the next one tried.

Input i follows from the seed and i alone, so a run repeats, and goes on where its process died.
"""

from __future__ import annotations

import mmap
import multiprocessing
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

from fuzz import seeds
from fuzz.drafts import Draft
from fuzz.mutations import begun, mutated
from fuzz.target import MEMORY, Outcome, examine, limit_memory, peak_bytes
from zkaudit.zk import pedersen
from zkaudit.zk.verifier import verify_segment

HANGS = 20.0  # seconds of one input after which its process is ended
REPORTS = 2.0  # seconds between two reports
SHIFT = 100_000  # inputs that one process takes


@dataclass
class Tally:
    """What happened so far. Memory is the process's peak beyond what it had when it was ready, with what the allocator keeps of
    earlier inputs."""

    inputs: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    slowest_input: int = -1
    memory: int = 0
    stages: Counter[str] = field(default_factory=Counter)
    spent: Counter[str] = field(default_factory=Counter)
    findings: list[Path] = field(default_factory=list)

    def add(self, i: int, outcome: Outcome, memory: int) -> None:
        """Input i, and what the process's peak is after it."""
        self.inputs += 1
        self.stages[outcome.stage] += 1
        self.spent[outcome.stage] += outcome.seconds
        if outcome.seconds > self.slowest:
            self.slowest, self.slowest_input = outcome.seconds, i
        self.memory = max(self.memory, memory)

    def line(self) -> str:
        return (
            f"{self.inputs} inputs, {self.inputs / max(self.seconds, 1e-9):.0f} a second, slowest {self.slowest:.2f} s, "
            f"memory {self.memory / 2**20:.0f} MiB, {len(self.findings)} findings"
        )

    def summary(self, seed: int) -> str:
        names = {stage: "honest, accepted" if stage == "valid" else f"refused by the {stage}" for stage in self.stages}
        lines = [f"{self.line()}, {self.seconds:.0f} s, seed {seed}"]
        lines += [f"  {names[stage]}: {count} in {self.spent[stage]:.0f} s" for stage, count in self.stages.most_common()]
        lines += [f"  slowest: input {self.slowest_input}"]
        return "\n".join(lines + [f"  finding: {path}" for path in self.findings])


def fuzz(seed: int, inputs: int, seconds: float, findings: Path, report: Callable[[Tally], None] = lambda _: None) -> Tally:
    """Try inputs until there have been `inputs`, or for `seconds`; those that go wrong are written to `findings`."""
    tally, started, spawn = Tally(), time.monotonic(), multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        work = Path(folder)
        (work / "next").write_bytes(bytes(8))
        following = 0
        while following < inputs and (left := seconds - (time.monotonic() - started)) > 0:
            ours, theirs = spawn.Pipe(duplex=False)
            process = spawn.Process(
                target=_run, args=(seed, following, min(inputs, following + SHIFT), left, work, findings, theirs)
            )
            process.start()
            theirs.close()
            before = tally
            try:
                while True:
                    tally = _joined(before, ours.recv(), time.monotonic() - started)
                    report(tally)
            except EOFError:
                process.join()
            following = int.from_bytes((work / "next").read_bytes(), "little")
            if process.exitcode is None or process.exitcode > 0:
                raise RuntimeError(f"the fuzzer itself failed at input {following - 1} of seed {seed}")
            if process.exitcode < 0:
                tally.inputs = following
                tally.findings.append(kept(findings, _cause(-process.exitcode), (work / "input.zkp").read_bytes()))
    return tally


def kept(findings: Path, fault: str, data: bytes) -> Path:
    """The input in the folder of findings, named after what went wrong."""
    findings.mkdir(parents=True, exist_ok=True)
    path = findings / f"{fault}-{sha256(data).hexdigest()[:12]}.zkp"
    path.write_bytes(data)
    return path


def prepare() -> frozenset[bytes]:
    """Have ready what every verification shares: code, generators and memory of the core. Returns the honest files."""
    pedersen.columns(1 << 15), pedersen.slots(1 << 12)
    for honest in seeds.honest():
        verify_segment(honest.file)
    return frozenset(Draft.of(honest).encode() for honest in seeds.honest())


def _run(seed: int, first: int, stop: int, seconds: float, work: Path, findings: Path, report: Connection) -> None:
    honest, path = prepare(), work / "input.zkp"
    limit_memory()
    ready, started, reported = peak_bytes(), time.monotonic(), time.monotonic()
    tally = Tally()
    with (work / "next").open("r+b") as stream, mmap.mmap(stream.fileno(), 8) as following:
        for i in range(first, stop):
            following[:] = (i + 1).to_bytes(8, "little")
            rng = Random(f"{seed} {i}")
            data = mutated(rng, begun(rng))
            path.write_bytes(data)
            signal.setitimer(signal.ITIMER_REAL, HANGS)
            outcome = examine(path, data, honest)
            signal.setitimer(signal.ITIMER_REAL, 0)
            grown = peak_bytes() - ready
            fault = outcome.fault or ("memory" if grown > max(tally.memory, MEMORY) else "")
            if fault:
                tally.findings.append(kept(findings, fault, data))
            tally.add(i, outcome, grown)
            now = time.monotonic()
            if now - reported > REPORTS:
                report.send(tally)
                reported = now
            if now - started > seconds:
                break
    report.send(tally)


def _joined(before: Tally, now: Tally, seconds: float) -> Tally:
    """The tally of processes that have ended and the one that runs."""
    slowest = max(before, now, key=lambda one: one.slowest)
    return Tally(
        before.inputs + now.inputs, seconds, slowest.slowest, slowest.slowest_input, max(before.memory, now.memory),
        before.stages + now.stages, before.spent + now.spent, before.findings + now.findings,
    )  # fmt: skip


def _cause(number: int) -> str:
    return "hang" if number == signal.SIGALRM else f"signal-{number}"
