"""Cost against parameters, batch, depth, steps and threads: runs `zkaudit bench prove` once a point of each curve.

    python benchmarks/scaling.py                       # all curves, about a quarter of an hour on two cores
    python benchmarks/scaling.py --curves batch depth
    python benchmarks/scaling.py --tiny --results /tmp/results    # the same curves in miniature, to try the scripts

Each point is a file of its own in the results folder, CURVE-LABEL.json. A point whose file is there is not measured again, so a
run that was stopped goes on where it was; delete files to measure anew. A point that fails (memory, say) is told and left out.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
DIGITS = (64, 128, 64, 10)


@dataclass(frozen=True)
class Point:
    """One measurement: its curve, its label on it, and the options of `zkaudit bench prove`."""

    curve: str
    label: str
    options: tuple[str, ...]


def points(tiny: bool) -> Iterator[Point]:
    """All points, curve by curve; with `tiny`, networks that take a moment."""
    width, steps, samples = (8, 2, 4) if tiny else (256, 8, 64)
    # As many hidden units each time, hence as many activations, in networks of about 1, 10 and 50 million parameters. Of two
    # segments only the first pays for the start weights' commitment and ranges; the second shows what a long run costs.
    networks = {"1M": (64, *(128,) * 56, 10), "10M": (3584, *(1024,) * 7, 10), "50M": (42624, *(1024,) * 7, 10)}
    if tiny:
        networks = {"1": (4, *(8,) * 4, 3), "2": (16, *(16,) * 2, 3), "3": (64, *(16,) * 2, 3)}
    batch, length = (4, 2) if tiny else (64, 32)
    for label, widths in networks.items():
        rows = ("--rows", str(batch), "--segment-steps", str(length))
        yield Point("parameters", label, (*shape(widths, batch, 2 * length), *rows))
    for factor in (1, 2, 4, 8, 16):
        yield Point("batch", str(samples // 4 * factor), shape((width, *(width,) * 3, 10), samples // 4 * factor, steps))
    for layers in (2, 4, 8, 16, 32):
        yield Point("depth", str(layers), shape((width, *(width,) * (layers - 1), 10), samples, steps))
    digits, most = ((8, 4, 3), 4) if tiny else (DIGITS, 25)
    for factor in (1, 2, 4, 8, 16):
        yield Point("steps", str(most * factor), shape(digits, samples, most * factor))
    threads = 1
    while threads <= (os.cpu_count() or 1):
        yield Point("threads", str(threads), (*shape(digits, samples, 4 * most), "--threads", str(threads)))
        threads *= 2


def shape(widths: tuple[int, ...], batch: int, steps: int) -> tuple[str, ...]:
    """The options that name a network and its training."""
    return "--widths", ",".join(map(str, widths)), "--batch", str(batch), "--steps", str(steps)


def main() -> int:
    """Measure what is missing; the exit code is 1 if a point failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(dict.fromkeys(point.curve for point in points(True)))
    parser.add_argument("--curves", nargs="+", choices=names, default=names, help="(default: all)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the results folder")
    parser.add_argument("--tiny", action="store_true", help="networks that take a moment, to try the scripts")
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    failed = [point for point in points(options.tiny) if point.curve in options.curves and not measured(point, options.results)]
    return 1 if failed else 0


def measured(point: Point, results: Path) -> bool:
    """Whether the point's file is there, after measuring it if it was not."""
    path = results / f"{point.curve}-{point.label}.json"
    if path.exists():
        return True
    print(f"{point.curve} {point.label}: zkaudit bench prove {' '.join(point.options)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "zkaudit.cli", "bench", "prove", *point.options, "--json", str(path)])
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
