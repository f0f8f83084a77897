"""What updates of federated fine-tuning leak: fifteen tests with expected and measured figures, and attacks side by side.

    python benchmarks/attacks.py                         # all of it
    python benchmarks/attacks.py --quick --tests 1,3,5   # some tests, on the smallest models
    python benchmarks/attacks.py --tests compare,matching

Everything is made here from configurations; nothing is downloaded. Parts that the JSON file holds for the same parameters are
not run again, so a run that was stopped goes on where it was. The exit code is 1 if a hard gate (1, 3, 5, 7, 11, 15) is missed.
Tests 13 and 14 take most of the time; with three seeds, --records 72 makes them 216 records.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from leakage.rows import Plan

RESULTS = Path(__file__).parent / "results/attacks.json"

# Number, title, gate, module and function.
TESTS = (
    ("1", "full gradient, n below the width", "hard", "spans", "full_gradient"),
    ("2", "full gradient, n above the width", "", "spans", "beyond_the_width"),
    ("3", "LoRA, n up to the rank K", "hard", "spans", "lora_within_rank"),
    ("4", "LoRA, n of 2K and 4K", "direction", "spans", "lora_beyond_rank"),
    ("5", "first round, B = 0", "hard", "spans", "first_round"),
    ("6", "q, k and v stacked", "", "spans", "stacking"),
    ("7", "trained embedding", "hard", "spans", "trained_embedding"),
    ("8", "prompt tuning, IA3, BitFit", "", "spans", "no_span"),
    ("9", "low precision, dropout", "direction", "protection", "precision_and_dropout"),
    ("10", "one step of AdamW", "direction", "protection", "adamw"),
    ("11", "DP-SGD", "hard", "protection", "private"),
    ("12", "encoder", "", "language", "encoder"),
    ("13", "personal notes", "sign", "notes", "personal_notes"),
    ("14", "whole records", "sign", "notes", "whole_records"),
    ("15", "controls", "hard", "language", "controls"),
    ("matching", "gradient matching", "", "matched", "matching"),
)
COMPARED = ("nano-llama", "nano-gpt2", "micro-llama", "micro-gpt2")


@dataclass(frozen=True)
class Part:
    """A piece of work that is run, and kept, as a whole."""

    name: str
    title: str
    gate: str
    module: str
    function: str
    plan: Plan

    @property
    def key(self) -> str:
        """Under which the JSON file holds it."""
        records = f", records {self.plan.records}" if self.module == "notes" else ""
        return f"{self.name}, seeds {self.plan.seeds}{', quick' if self.plan.quick else ''}{records}"


def main() -> int:
    """Run what is missing, print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE", help="results, read and written")
    parser.add_argument("--tests", default="all", help="numbers, matching, compare or compare:MODEL, with commas between")
    parser.add_argument("--seeds", type=int, default=3, help="observations of each kind (2 with --quick)")
    parser.add_argument("--records", type=int, default=24, help="records a seed in tests 13 and 14 (4 with --quick)")
    parser.add_argument("--quick", action="store_true", help="smaller models and fewer cells")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes, of one thread each")
    options = parser.parse_args()
    seeds, records = (min(options.seeds, 2), 4) if options.quick else (options.seeds, options.records)
    parts = list(chosen(options.tests, Plan(seeds, options.quick, records)))
    if not parts:
        parser.error(f"no test is named '{options.tests}'")
    kept: dict[str, Any] = json.loads(options.json.read_text()) if options.json.exists() else {}
    missing = [part for part in parts if part.key not in kept]
    os.environ["OMP_NUM_THREADS"] = "1"  # before a worker imports torch
    for number, (part, result) in enumerate(finished(missing, options.jobs), 1):
        kept[part.key] = result
        save(options.json, kept)
        told = result.get("error") or f"{result['seconds']:.0f} s, {result['peak_bytes'] / 1e6:.0f} MB"
        print(f"[{number}/{len(missing)}] {part.name} {part.title}: {told}", file=sys.stderr, flush=True)
    from leakage import tables

    done = [(part, kept[part.key]) for part in parts if part.key in kept]
    for line in tables.report([(part.name, part.title, part.gate, result) for part, result in done]):
        print(line)
    missed = any(row["outcome"] == "miss" for part, result in done if part.gate == "hard" for row in result.get("rows", ()))
    return 1 if missed or any("error" in result for _, result in done) else 0


def chosen(text: str, plan: Plan) -> Iterator[Part]:
    """The parts that --tests names, in order."""
    names = {name.strip() for name in text.split(",")}
    everything = "all" in names
    for name, title, gate, module, function in TESTS:
        if everything or name in names:
            yield Part(name, title, gate, module, function, plan)
    for model in COMPARED:
        wanted = not (plan.quick and model.startswith("micro")) and (everything or "compare" in names)
        if wanted or f"compare:{model}" in names:
            yield Part(f"compare:{model}", "attacks side by side", "", "beside", "compared", plan)


def finished(parts: Sequence[Part], jobs: int) -> Iterator[tuple[Part, Mapping[str, Any]]]:
    """Parts with their results as they are done."""
    if jobs < 2 or len(parts) < 2:
        for part in parts:
            yield part, run(part)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(run, part): part for part in parts}
        for future in as_completed(futures):
            yield futures[future], future.result()


def run(part: Part) -> dict[str, Any]:
    """Rows or cells of one part with its cost; an error is a result too."""
    import importlib
    import traceback

    import torch

    torch.set_num_threads(1)
    from zkaudit.attacks.ledger import PeakMemory

    result: dict[str, Any] = {"title": part.title, "gate": part.gate, "plan": asdict(part.plan)}
    started, used = time.perf_counter(), time.process_time()
    with PeakMemory() as memory:
        try:
            function = getattr(importlib.import_module(f"leakage.{part.module}"), part.function)
            if part.module == "beside":
                model = part.name.partition(":")[2]
                result["cells"] = function(model, part.plan, partial(told, part.name))
            else:
                result["rows"] = [row.to_dict() for row in function(part.plan)]
        except Exception as error:
            result["error"] = f"{type(error).__name__}: {error}"
            traceback.print_exc()
    cost = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - used, "peak_bytes": memory.bytes}
    return result | cost


def told(name: str, what: str, fraction: float) -> None:
    """Progress of a long part."""
    print(f"  {name}: {100 * fraction:.0f} % {what}", file=sys.stderr, flush=True)


def save(path: Path, kept: Mapping[str, Any]) -> None:
    """Write the results, or leave the old ones in place; parts that failed are not kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps({key: part for key, part in kept.items() if "error" not in part}, indent=1) + "\n")
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
