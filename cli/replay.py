"""`zkaudit replay`: whether the choices that a run wrote down are those that its seed, data and rules give."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from zkaudit.cli.command import Command
from zkaudit.cli.outcome import DONE, INVALID
from zkaudit.cli.summary import named_line


def run(arguments: argparse.Namespace) -> int:
    """Print the verdict: REPLAYED with what was recomputed and what was not, or DIFFERS with the first difference."""
    from zkaudit.training.replay import replay  # loads numpy, and a method's module the libraries it needs

    done = replay(arguments.folder, seed=arguments.seed, head=arguments.head)
    if arguments.json:
        print(json.dumps(asdict(done), default=str))
    elif done.difference is not None:
        print(f"DIFFERS: {done.difference.sentence()}")
    else:
        print(f"REPLAYED: {done.steps} step{'' if done.steps == 1 else 's'} as recorded")
        print(
            named_line("rules", ", ".join(f"{name} {json.dumps(rule)}" for name, rule in done.header.rules.items()) or "none")
        )
        print(named_line("seed", f"{done.header.run_seed!r}, {done.header.rows} rows"))
        print(named_line("recomputed", ", ".join(done.recomputed) or "nothing"))
        if done.declared:
            print(named_line("declared", f"{', '.join(done.declared)}: bound by the chain, taken at their word"))
        print(named_line("head", done.head))
        if "ids" not in done.recomputed:
            print(named_line("not shown", "how the rows of a step were chosen: no rule decides it"))
        if "exact" in done.header.rules:
            print(named_line("not shown", "where the batch seed comes from (zkaudit verify --records does, by the proof)"))
        for option, given, what in (
            ("--seed", arguments.seed, "that the seed was fixed before the data were known"),
            ("--head", arguments.head, "that no records are missing at the end"),
        ):
            if given is None:
                print(named_line("not shown", f"{what} (give {option} as it was published)"))
    return DONE if done.difference is None else INVALID


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, --seed, --head, --json."""
    parser.add_argument("folder", metavar="RUN", type=Path, help="the folder with steps.jsonl")
    parser.add_argument("--seed", metavar="SEED", help="the run's seed, as it was published before the run")
    parser.add_argument("--head", metavar="HASH", help="the hash after the last record, as it was published")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


EXAMPLES = """\
examples:
  zkaudit replay runs/language
  zkaudit replay runs/language --seed "drand 4711" --head 5f0c...
  zkaudit replay runs/language --json
  zkaudit replay runs/digits --seed digits    # of an exact run with [training] records = true

exit codes: 0 as recorded, 1 something differs, 2 the records cannot be used
"""

COMMAND = Command("replay", "make a run's recorded choices again and compare them", EXAMPLES, add_arguments, run)
