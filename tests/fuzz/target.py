"""One input: what the verifier makes of it, how long it takes, and whether that is a fault."""

from __future__ import annotations

import resource
import time
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from zkaudit.zk.errors import BadInput
from zkaudit.zk.verifier import verify_files

BUDGET = 1_000_000
SECONDS = 1.0
MEMORY = 256 << 20  # bytes beyond what the process has when it is ready
STAGES = ("parser", "budget", "statement", "dialogue", "final equation", "valid")


@dataclass(frozen=True)
class Outcome:
    """How far an input came, and what is wrong with that: no fault if it was refused in time, or is honest and was not.

    Seconds are the process's own, or those on the clock if they are fewer: several threads make the one larger than the
    work takes, other programs on the machine the other.
    """

    stage: str
    seconds: float
    fault: str = ""


def examine(path: Path, data: bytes, honest: Container[bytes]) -> Outcome:
    """Verify the file at `path`, which holds `data`, within the budget. An input that seems slow gets a second chance."""
    outcome = _once(path, data, honest)
    if outcome.seconds > SECONDS:
        outcome = min(outcome, _once(path, data, honest), key=lambda one: one.seconds)
    if outcome.seconds > SECONDS and not outcome.fault:
        return Outcome(outcome.stage, outcome.seconds, "slow")
    return outcome


def _once(path: Path, data: bytes, honest: Container[bytes]) -> Outcome:
    started, used, fault = time.perf_counter(), time.process_time(), ""
    try:
        verdict = verify_files([path], BUDGET)
        stage = "valid" if verdict.valid else _refused_at(verdict.reason)
    except BadInput as error:
        stage = "budget" if "units of work" in str(error) or "may have at most" in str(error) else "parser"
    except Exception as error:
        stage, fault = "parser", f"crash-{type(error).__name__}"
    seconds = min(time.perf_counter() - started, time.process_time() - used)
    if not fault and (stage == "valid") != (data in honest):
        fault = "accepted" if stage == "valid" else "honest-refused"
    return Outcome(stage, seconds, fault)


def _refused_at(reason: str) -> str:
    if reason.startswith("the final equation"):
        return "final equation"
    before = ("the data commitment", "the start commitment", "the end commitment", "the proof has", "the batch seed")
    return "statement" if reason.startswith(before) else "dialogue"


def peak_bytes() -> int:
    """The most memory that this process has had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def limit_memory() -> None:
    """Let this process have MEMORY more data than it has now: beyond that, memory is refused."""
    status = Path("/proc/self/status").read_text()
    used = int(status.partition("VmData:")[2].split()[0]) << 10
    resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, used + MEMORY))
