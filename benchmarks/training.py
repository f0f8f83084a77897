"""What each training method does here, beside what was published: small checks, and speed beside plain AdamW.

    python benchmarks/training.py --json benchmarks/results/training.json      # all of them
    python benchmarks/training.py galore fira                                   # of these methods
    python benchmarks/training.py --list

Workloads are small (digits, tiny language models on text that is at hand), so a miss may be the workload's; it is printed all
the same. Ratios are ours over the published effect. Each file of benchmarks/methods/ holds the checks of one kind of method."""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from methods.check import Check, Measured

FOLDER = Path(__file__).parent / "methods"


def checks() -> list[Check]:
    """Those of every file."""
    names = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "check"))
    modules = [import_module(f"methods.{name}") for name in names]
    return [check for module in modules for check in getattr(module, "CHECKS", [])]


def row(check: Check, found: Measured, seconds: float) -> dict[str, Any]:
    """One line of the result."""
    return {
        "method": check.method,
        "what": check.what,
        "unit": check.unit,
        "goal": check.goal,
        "published": found.published,
        "ours": found.ours,
        "ratio": check.ratio(found),
        "note": found.note,
        "seconds": round(seconds, 1),
    }


def show(line: dict[str, Any]) -> None:
    """For people."""
    published = "-" if line["published"] is None else f"{line['published']:.4g}"
    ratio = "" if line["ratio"] is None else f"  ratio {line['ratio']:.3g}"
    print(f"{line['method']:24}{line['what']}")
    print(f"{'':24}published {published}  ours {line['ours']:.4g} {line['unit']} ({line['goal']} is good){ratio}")
    if line["note"]:
        print(f"{'':24}{line['note']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", metavar="METHOD", nargs="*", help="only checks of these methods")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the results there, after each check")
    parser.add_argument("--list", action="store_true", help="say which checks there are")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    known = checks()
    if unknown := set(arguments.methods) - {check.method for check in known}:
        parser.error(f"no check of {sorted(unknown)[0]!r}; there are {', '.join(dict.fromkeys(c.method for c in known))}")
    chosen = [check for check in known if not arguments.methods or check.method in arguments.methods]
    lines: list[dict[str, Any]] = []
    for number, check in enumerate(chosen, 1):
        if arguments.list:
            print(f"{check.method:24}{check.what}")
            continue
        print(f"[{number}/{len(chosen)}] {check.method}: {check.what}", file=sys.stderr, flush=True)
        started = time.perf_counter()
        lines.append(row(check, check.run(), time.perf_counter() - started))
        show(lines[-1])
        if arguments.json:
            arguments.json.write_text(json.dumps({"threads": 1, "torch": torch.__version__, "checks": lines}, indent=2) + "\n")


if __name__ == "__main__":
    main()
