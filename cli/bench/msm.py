"""`zkaudit bench msm`: multi-exponentiations and field multiplications of ours and of others, side by side in one run."""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zkaudit.cli import threads
from zkaudit.cli.bench import contestants
from zkaudit.cli.bench.machine import machine
from zkaudit.cli.bench.output import add_json_option, check_writable, write_json
from zkaudit.cli.bench.process import Worker
from zkaudit.cli.command import Command
from zkaudit.cli.outcome import DONE
from zkaudit.cli.progress import ProgressBar

POINTS = (4096, 32768)
BLOB_POINTS = 4096
ROWS = 512
REPEATS = 7
INSTALL = "pip install 'zkaudit[bench]'"


@dataclass(frozen=True)
class Entry:
    """One thing to time: `run` returns the seconds of one pass over `points` points."""

    name: str
    lanes: str
    points: int
    threads: int
    run: Callable[[], float]


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, write."""
    check_writable(arguments.json)
    result = measure(arguments.points or list(POINTS), arguments.threads or 1)
    for line in _lines(result):
        print(line)
    write_json(arguments.json, result)
    return DONE


def measure(points: Sequence[int], thread_count: int, rows: int = ROWS, repeats: int = REPEATS) -> dict[str, Any]:
    """Medians over interleaved repeats: what disturbs one contestant disturbs all."""
    with ExitStack() as stack, ProgressBar() as bar:
        bar("preparing", 0.0)
        workers = {lanes: stack.enter_context(Worker({"ZKAUDIT_LANES": lanes})) for lanes in _lanes()}
        entries = [entry for lanes, worker in workers.items() for entry in _ours(worker, lanes, points, rows, thread_count)]
        multiplications = [_multiplications(worker, lanes) for lanes, worker in workers.items()]
        theirs, missing = stack.enter_context(_peers(points))
        entries += theirs
        times: list[list[float]] = [[] for _ in entries]
        for entry in entries:
            entry.run()  # inputs are made on the first call
        for repeat in range(repeats):
            for i, entry in enumerate(entries):
                bar(f"{entry.name}, {entry.points} points", (repeat + i / len(entries)) / repeats)
                times[i].append(entry.run())
    rates = [entry.points / statistics.median(taken) / entry.threads for entry, taken in zip(entries, times, strict=True)]
    reference = next((rate for entry, rate in zip(entries, rates, strict=True) if entry.name == "blst"), None)
    return {
        "machine": machine(),
        "repeats": repeats,
        "entries": [
            {
                "name": entry.name,
                "lanes": entry.lanes,
                "points": entry.points,
                "threads": entry.threads,
                "points_per_second": rate,
                "ratio_to_blst": rate / reference if reference else None,
            }
            for entry, rate in zip(entries, rates, strict=True)
        ],
        "field_multiplications": multiplications,
        "missing": missing,
    }


def _lanes() -> list[str]:
    """The lanes that this machine has."""
    with Worker({"ZKAUDIT_LANES": "scalar"}) as worker:
        return ["scalar", "ifma"] if worker(_has_ifma) else ["scalar"]


def _has_ifma() -> bool:
    from zkaudit.zk.backend import core

    return bool(core.has_ifma()) and find_spec("zkaudit.zk._field_ifma") is not None


def _ours(worker: Worker, lanes: str, points: Sequence[int], rows: int, thread_count: int) -> Iterator[Entry]:
    for count in points:
        yield Entry("zkaudit", lanes, count, thread_count, lambda n=count: worker(contestants.ours, n, thread_count))  # type: ignore[misc]
    columns = min(points)
    name = f"zkaudit, {rows} rows of 16-bit numbers"
    yield Entry(name, lanes, columns * rows, thread_count, lambda: worker(contestants.our_rows, columns, rows, thread_count))


def _multiplications(worker: Worker, lanes: str) -> dict[str, Any]:
    tight, streamed = worker(_time_multiplications)
    return {"lanes": lanes, "tight_loop_per_second": 1 / tight, "streamed_per_second": 1 / streamed}


def _time_multiplications() -> tuple[float, float]:
    from zkaudit.cli.bench import rates
    from zkaudit.zk import field

    field.set_threads(1)
    return rates.tight_multiplication(), rates.streamed_multiplication()


@contextmanager
def _peers(points: Sequence[int]) -> Iterator[tuple[list[Entry], list[dict[str, str]]]]:
    """The peers that are installed, checked against our sums, and those that are not, with how to get them."""
    found: list[Entry] = []
    missing = [{"name": name, "install": INSTALL} for name, module in _MODULES.items() if not find_spec(module)]
    absent = {one["name"] for one in missing}
    with tempfile.TemporaryDirectory() as folder, Worker({"RAYON_NUM_THREADS": "1"}) as worker:
        set_up = None
        if "blst" not in absent:
            set_up = worker(_write_set_up, Path(folder) / "trusted_setup.txt")
            found.append(Entry("blst", "-", BLOB_POINTS, 1, lambda: worker(contestants.blst, set_up, BLOB_POINTS)))
        if "arkworks" not in absent:
            for count in points:
                found.append(Entry("arkworks", "-", count, 1, lambda n=count: worker(contestants.arkworks, n)))  # type: ignore[misc]
        if not worker(contestants.results_agree, set_up, "arkworks" not in absent, BLOB_POINTS):
            raise AssertionError("the peers' sums differ from ours")
        yield found, missing


_MODULES = {"blst": "ckzg", "arkworks": "py_arkworks_bls12381"}


def _write_set_up(path: Path) -> Path:
    from zkaudit.cli.bench import trusted_setup

    return trusted_setup.write(path)


def _lines(result: dict[str, Any]) -> list[str]:
    """The result for people."""
    lines = [result["machine"], f"{'points a second and core':44}{'lanes':8}{'points':>9}{'rate':>12}{'to blst':>10}"]
    for entry in result["entries"]:
        ratio = f"{entry['ratio_to_blst']:.2f}" if entry["ratio_to_blst"] else "-"
        rate = f"{entry['points_per_second']:,.0f}"
        lines.append(f"  {entry['name']:42}{entry['lanes']:8}{entry['points']:>9}{rate:>12}{ratio:>10}")
    lines.append(f"{'field multiplications a second, one thread':44}{'lanes':8}{'tight loop':>21}{'through memory':>16}")
    for one in result["field_multiplications"]:
        tight, streamed = one["tight_loop_per_second"], one["streamed_per_second"]
        lines.append(f"  {'':42}{one['lanes']:8}{tight:>21,.0f}{streamed:>16,.0f}")
    return [*lines, *(f"missing: {peer['name']} ({peer['install']})" for peer in result["missing"])]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--points, --threads, --json."""
    help_points = f"points of a sum, one or more counts (default: {' '.join(map(str, POINTS))})"
    parser.add_argument("--points", type=threads.positive, nargs="+", metavar="N", help=help_points)
    parser.add_argument(
        "--threads", type=threads.positive, metavar="N", help="threads of ours; the peers have one (default: 1)"
    )
    add_json_option(parser)


EXAMPLES = """\
examples:
  zkaudit bench msm --json msm.json
  zkaudit bench msm --points 1024 4096

Peers: blst through ckzg, whose blob commitment is a sum over 4096 points with scalars of full width, and arkworks through
py_arkworks_bls12381. They come with the extra `bench`; one that is not installed is reported as missing. Sums are checked
against each other first. Rates are medians of interleaved repeats, for each core; our lanes are both measured where the CPU
has both. The tight loop is the rate of field multiplications when neither memory nor calls are in the way: the limit of every
pass over tables.
"""

COMMAND = Command("msm", "multi-exponentiations and multiplications, beside blst and arkworks", EXAMPLES, add_arguments, run)
