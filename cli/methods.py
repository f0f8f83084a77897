"""`zkaudit methods`: the training methods there are."""

from __future__ import annotations

import argparse
import dataclasses
import json

from zkaudit.cli.command import Command
from zkaudit.cli.outcome import DONE
from zkaudit.training.method import CHANGES, Method


def run(arguments: argparse.Namespace) -> int:
    """Print all of them, those that change something, or one in full."""
    from zkaudit.training.catalogue import catalogue  # loads torch, which --help can do without
    from zkaudit.training.errors import TrainingError

    methods = catalogue()
    if arguments.name is not None and arguments.name not in methods:
        raise TrainingError(f"there is no method {arguments.name!r}; there are {', '.join(methods)}")
    chosen = [
        method
        for method in methods.values()
        if arguments.name in (None, method.name) and (arguments.changes is None or arguments.changes in method.changes)
    ]
    if arguments.json:
        print(json.dumps([dataclasses.asdict(method) for method in chosen], indent=2))
    elif arguments.name is not None:
        _show_whole(chosen[0])
    else:
        for method in chosen:
            print(f"{method.name:24}{', '.join(method.changes):20}{method.title}")
    return DONE


def _show_whole(method: Method) -> None:
    from zkaudit.training.catalogue import described

    print(f"{method.name}: {method.title}\n{method.paper}")
    for head, text in described(method):
        print(f"  {head:16}{text.strip('`')}")
    print("\n" + "\n".join(f"    {line}" for line in method.use.strip().splitlines()))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """[NAME], --changes, --json."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="one method, in full")
    parser.add_argument("--changes", choices=CHANGES, help="only those that change this")
    parser.add_argument("--json", action="store_true", help="print a JSON array")


EXAMPLES = """\
examples:
  zkaudit methods
  zkaudit methods --changes memory
  zkaudit methods galore
  zkaudit methods --json
"""

COMMAND = Command(
    "methods", "list training methods, what each changes and whether it can be proved", EXAMPLES, add_arguments, run
)
