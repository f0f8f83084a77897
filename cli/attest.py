"""`zkaudit attest`: an in-toto statement about a proof, a model and an audit, or a check of one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from zkaudit.cli import threads
from zkaudit.cli.command import Command
from zkaudit.cli.outcome import DONE
from zkaudit.cli.summary import named_line
from zkaudit.zk.errors import BadInput


def run(arguments: argparse.Namespace) -> int:
    """Write the statement, or say that one holds."""
    if (arguments.out is None) == (arguments.check is None):
        raise BadInput("give --out, the statement to write, or --check, the statement to look at again")
    from zkaudit.zk import attestation, proof_file  # loads native code, which --help can do without

    threads.use(arguments.threads)
    named = attestation.Named(arguments.files, arguments.model, arguments.opening, arguments.audit)
    if arguments.check is not None:
        statement = attestation.check(arguments.check, named)
        print(f"{arguments.check}: holds")
        _show(statement)
        if arguments.model is not None and arguments.opening is None:
            print(named_line("not shown", "that the model opens the commitment: that takes --opening"))
        return DONE
    statement = attestation.attest(named)
    proof_file.write_whole(arguments.out, attestation.encode(statement), 0o644)
    print(f"{arguments.out}: written, not signed")
    _show(statement)
    return DONE


def _show(statement: dict[str, Any]) -> None:
    subject, predicate = statement["subject"][0], statement["predicate"]
    ((algorithm, digest),) = subject["digest"].items()
    verdict, audit = predicate["verdict"], predicate.get("audit")
    steps = "1 step" if verdict["steps"] == 1 else f"{verdict['steps']} steps"
    chain = f" in a chain of {verdict['segments']} segments" if verdict["segments"] > 1 else ""
    print(named_line("subject", f"{subject.get('name', 'without a name')}, {algorithm} {digest}"))
    print(named_line("proof", f"valid, {steps}{chain}, soundness error below 2^-{verdict['soundnessBits']}"))
    if verdict["assumes"]:
        print(named_line("not shown", verdict["assumes"]))
    if audit is not None:
        tie = "of the very update that the proof is about" if audit["boundToProof"] else "not bound to the proof"
        print(named_line("audit", f"{audit['level']}, {tie}"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """PROOF..., --out or --check, --model, --opening, --audit, --threads."""
    parser.add_argument(
        "files", metavar="PROOF", type=Path, nargs="+", help="a proof, the segments of a chain, or their folder"
    )
    parser.add_argument("--out", metavar="STATEMENT", type=Path, help="the statement to write")
    parser.add_argument("--check", metavar="STATEMENT", type=Path, help="a statement to check again, with its files")
    parser.add_argument("--model", metavar="MODEL", type=Path, help="the model file that the statement is about")
    parser.add_argument("--opening", metavar="OPENING", type=Path, help="what `zkaudit reveal` wrote of its end weights")
    parser.add_argument("--audit", metavar="RESULT.json", type=Path, help="the result of an audit, to be named too")
    threads.add_option(parser)


EXAMPLES = """\
examples:
  zkaudit attest digits.zkp --out digits.intoto.json
  zkaudit attest digits.zkp --model model.safetensors --opening digits.opening --out digits.intoto.json
  zkaudit attest digits-proofs/ --audit audits/digits/result.json --out digits.intoto.json
  zkaudit attest --check digits.intoto.json digits.zkp --model model.safetensors

The proof is verified before it is named. The statement is not signed: docs/attestation.md.

exit codes: 0 written or holds, 1 the proof is invalid or the files belong to something else, 2 they cannot be used
"""

COMMAND = Command("attest", "write an in-toto statement about a proof and its model", EXAMPLES, add_arguments, run)
