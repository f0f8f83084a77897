"""What selectors and samplers of batches leak: one small client, one attack, the way that batches are chosen on and off.

    cd benchmarks && python -m leakage.selectors          # some minutes on one core; results/leakage-selectors.json

Each run is recorded, replayed, and measured by its records; then the gradient of its last step is attacked, by pursuit and by
the span test, beside a random order of tokens. "Off" is the run on uniform batches of as many rows from the same start. A
third run says what the method does beyond its number of records: `BESIDE` has which. The method's own sentence,
`server_sees`, says what was expected; it held if the interval of the difference, over draws, lies on that side of 0."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from leakage import runs
from leakage.rows import Row
from leakage.tables import aligned
from zkaudit.attacks.attack import Attack
from zkaudit.attacks.controls import RandomTokens
from zkaudit.attacks.pursuit import Pursuit
from zkaudit.attacks.records_meter import measure_records
from zkaudit.attacks.span_test import SpanTest
from zkaudit.training.method import Method
from zkaudit.training.replay import replay
from zkaudit.training.step_file import StepFile

RESULTS = Path(__file__).parents[1] / "results/leakage-selectors.json"
DRAWS = 8
ATTACKS = ("pursuit", "span_test")
METRIC = "recall_at_n"

# Way of choosing -> what its `server_sees` expects of the share of tokens that is found, against "off".
EXPECTED = {
    "hard-batch": "higher",
    "view-batch": "higher",
    "length-buckets": "not said",
    "packing": "lower",
    "uds": "higher",
    "colm": "higher",
}
# Way of choosing -> the run beside it, and what that is.
BESIDE = {
    "hard-batch": ("hard-batch, one visit", "one visit of the batch"),
    "view-batch": ("uniform 2", "2 records at random"),
    "length-buckets": ("uniform pieces", "pieces at random"),
    "packing": ("packing, one a row", "the same records, one a row"),
    "uds": ("uniform 2", "2 records at random"),
    "colm": ("uniform 4", "4 records at random"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all ways and draws, print the table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE", help="results, written")
    parser.add_argument("--draws", type=int, default=DRAWS, help="runs of each way, of different records and seeds")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    started = time.process_time()
    measured: dict[str, list[dict[str, Any]]] = {}
    for name in runs.WAYS:
        measured[name] = [measure(name, draw) for draw in range(options.draws)]
        print(f"{name}: {time.process_time() - started:.0f} s so far", file=sys.stderr, flush=True)
    rows = [row(name, measured) for name in ("uniform", *EXPECTED)]
    result = {
        "rows": rows,
        "runs": measured,
        "client": runs.CLIENT,
        "steps": runs.STEPS,
        "draws": options.draws,
        "cpu_seconds": time.process_time() - started,
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    print("\n".join(table(rows)))
    return 0


def measure(name: str, draw: int) -> dict[str, Any]:
    """One run: whether its records replay, what they say of its batches, and what the attacks find in its last gradient."""
    with TemporaryDirectory() as place:
        case = runs.trained(name, draw, Path(place))
        if difference := replay(Path(place)).difference:
            raise AssertionError(f"{name}, draw {draw}: {difference.sentence()}")
        exposure, by_source = measure_records(Path(place)), times_seen(Path(place))
    found = {
        "distinct_records": [step.distinct_records for step in exposure.steps],
        "effective_n": [step.effective_n for step in exposure.steps],
        "most_seen_times": exposure.times,
        "times_seen_by_source": by_source,
        "rounds": len(case.run.rounds),
        "distinct_tokens": case.inputs,
    }
    for attack in attacks(draw):
        found[attack.name] = case.attack(attack)[1].value(METRIC)
    return found


def times_seen(folder: Path) -> dict[str, float]:
    """Source -> the mean number of steps behind which a row of it was; empty for runs without sources."""
    file = StepFile(folder)
    if (sources := file.columns.get("source")) is None:
        return {}
    counts = Counter(row for record in file.records() for row in set(record.ids))
    return {str(source): fmean(counts[int(row)] for row in np.flatnonzero(sources == source)) for source in np.unique(sources)}


def attacks(draw: int) -> Iterator[Attack]:
    yield Pursuit()
    yield SpanTest()
    yield RandomTokens(draw)


def row(name: str, measured: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """A line of the table."""
    ours = measured[name]
    beside, what = BESIDE.get(name, ("", ""))
    score = partial(_scores, measured)
    found: dict[str, Any] = {
        "name": name,
        "server_sees": method(name).server_sees if name in EXPECTED else "the plain gradient",
        "distinct_records": median(n for run in ours for n in run["distinct_records"]),
        "effective_n": median(n for run in ours for n in run["effective_n"]),
        "effective_n_worst": min(n for run in ours for n in run["effective_n"]),
        "most_seen_times": fmean(run["most_seen_times"] for run in ours),
        "times_seen_by_source": {
            source: fmean(run["times_seen_by_source"][source] for run in ours) for source in ours[0]["times_seen_by_source"]
        },
        "distinct_tokens": fmean(run["distinct_tokens"] for run in ours),
        "on": {attack: fmean(score(name, attack)) for attack in (*ATTACKS, "random")},
        "off": {attack: fmean(score("uniform", attack)) for attack in (*ATTACKS, "random")},
        "beside": {"what": what, **{attack: fmean(score(beside, attack)) for attack in ATTACKS if beside}},
    }
    if expected := EXPECTED.get(name):
        found["differences"] = {attack: judged(expected, score(name, attack), score("uniform", attack)) for attack in ATTACKS}
    return found


def judged(expected: str, on: Sequence[float], off: Sequence[float]) -> dict[str, Any]:
    """The difference draw by draw, as expected if its interval lies on the side that was."""
    gain = [a - b for a, b in zip(on, off, strict=True)]
    what, label = "recall at n, on less off", expected
    if expected == "higher":
        return Row(what, label, gain, least=1e-9, judged="low").to_dict()
    if expected == "lower":
        return Row(what, label, gain, most=-1e-9, judged="high").to_dict()
    return Row(what, label, gain).to_dict()


def method(name: str) -> Method:
    """The catalogue's entry, from the way's own module."""
    found: Method = importlib.import_module(f"zkaudit.training.batch.{name.replace('-', '_')}").METHOD
    return found


def table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Recall at n by pursuit / by the span test; records and effective number are medians over steps, with the worst step."""
    lines = []
    for row in rows:
        counts = (f"{row['distinct_records']:g}", f"{row['effective_n']:.1f} ({row['effective_n_worst']:.1f})")
        seen = (f"{row['most_seen_times']:.1f}", f"{row['distinct_tokens']:.0f}")
        control = f"{row['on']['random']:.2f}"
        if differences := row.get("differences"):
            found = (pair(row["on"]), pair(row["off"]), f"{pair(row['beside'])} {row['beside']['what']}", control)
            spans = [f"{d['value']:+.2f} ({d['low']:+.2f} to {d['high']:+.2f})" for d in differences.values()]
            outcomes = " / ".join(d["outcome"] for d in differences.values())
            lines.append((row["name"], *counts, *seen, *found, " / ".join(spans), differences["pursuit"]["expected"], outcomes))
        else:
            lines.append((row["name"], *counts, *seen, pair(row["on"]), "", "", control, "", "", ""))
    heads = ("batches", "records", "effective", "seen most", "tokens", "on", "off", "beside", "control", "on less off")
    yield from aligned((*heads, "expected", "outcome"), lines)


def pair(scores: Mapping[str, Any]) -> str:
    return " / ".join(f"{scores[attack]:.2f}" for attack in ATTACKS)


def _scores(measured: Mapping[str, Sequence[Mapping[str, Any]]], name: str, attack: str) -> list[float]:
    return [run[attack] for run in measured[name]]


if __name__ == "__main__":
    sys.exit(main())
