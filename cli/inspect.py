"""`zkaudit inspect`: what a proof file states, without checking whether it is true."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from zkaudit.cli.command import Command
from zkaudit.cli.outcome import DONE
from zkaudit.cli.summary import named_line, statement_lines


def run(arguments: argparse.Namespace) -> int:
    """Print the statement and the sizes of the file's sections."""
    from zkaudit.zk import proof_file  # loads native code, which --help can do without

    proof = proof_file.read(arguments.file)
    statement, sizes = proof.statement.to_json(), proof.sizes()
    if arguments.json:
        print(json.dumps({"statement": statement, "section_bytes": sizes}, indent=2))
        return DONE
    print(f"{arguments.file}: states the following (zkaudit verify tells whether it holds)")
    for line in statement_lines(statement):
        print(line)
    print(named_line("bytes", ", ".join(f"{name} {size}" for name, size in sizes.items())))
    return DONE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """FILE, --json."""
    parser.add_argument("file", metavar="FILE", type=Path, help="a proof file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


EXAMPLES = """\
examples:
  zkaudit inspect digits.zkp
  zkaudit inspect digits.zkp --json
"""

COMMAND = Command("inspect", "show what a proof file states, without checking it", EXAMPLES, add_arguments, run)
