"""`zkaudit verify`: whether a proof, or a chain of proofs, holds."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zkaudit.cli import threads
from zkaudit.cli.command import Command
from zkaudit.cli.outcome import DONE, INVALID, explain
from zkaudit.cli.summary import named_line, run_lines
from zkaudit.zk.errors import BadInput, InvalidProof

if TYPE_CHECKING:
    from zkaudit.zk.verifier import Verdict


def run(arguments: argparse.Namespace) -> int:
    """Print the verdict: VALID with what was proved, or INVALID with the check that failed."""
    started = time.perf_counter()
    try:
        verdict, weights, records = _verdict(arguments)
    except Exception as error:
        if not arguments.json:
            raise
        reason, code = explain(error)
        print(json.dumps(_refused(reason, time.perf_counter() - started)))
        return code
    if arguments.json:
        print(json.dumps({**asdict(verdict), "model_weights": weights, "records": records}))
    else:
        _show(verdict, arguments.model, weights, records)
    return DONE if verdict.valid else INVALID


def _verdict(arguments: argparse.Namespace) -> tuple[Verdict, str | None, str | None]:
    """The verdict; which weights the model was found to hold, "start" or "end"; what was found of the step records.

    None without --model and without --records.
    """
    if (arguments.model is None) != (arguments.opening is None):
        raise BadInput("--model and --opening go together: the opening is what ties the model to the proof")
    from zkaudit.zk import verifier  # loads native code, which --help can do without

    threads.use(arguments.threads)
    verdict = verifier.verify_files(arguments.files, arguments.budget)
    if not verdict.valid:
        return verdict, None, None
    try:
        weights = None if arguments.model is None else _check_model(arguments)
        records = None if arguments.records is None else _check_records(arguments)
    except InvalidProof as error:
        return replace(verdict, valid=False, reason=str(error)), None, None
    return verdict, weights, records


def _check_records(arguments: argparse.Namespace) -> str:
    from zkaudit.cli import step_records
    from zkaudit.zk import proof_file, verifier

    paths = verifier.in_order(arguments.files)
    return step_records.check(arguments.records, [proof_file.read(path).statement for path in paths])


def _check_model(arguments: argparse.Namespace) -> str:
    from zkaudit.zk import opening, proof_file

    files = [file for path in arguments.files for file in (sorted(path.glob("segment-*.zkp")) if path.is_dir() else [path])]
    files.sort(key=lambda file: proof_file.read(file).statement.segment)
    # Weights between two segments are committed too, but they are neither where training began nor where it ended.
    commitment = opening.load(arguments.opening).commitment
    for which, file in (("end", files[-1]), ("start", files[0])):
        if commitment == getattr(proof_file.read(file).statement, which):
            opening.check_model(file, arguments.model, arguments.opening)
            return which
    raise InvalidProof(f"{arguments.opening} opens neither the start nor the end weights of this training")


def _refused(reason: str, seconds: float) -> dict[str, Any]:
    """What --json prints when there was nothing to verify: the keys of a verdict."""
    return {
        "valid": False,
        "reason": reason,
        "steps": 0,
        "segments": 0,
        "soundness_bits": 0,
        "seconds": seconds,
        "statements": [],
        "assumes": "",
        "model_weights": None,
        "records": None,
    }


def _show(verdict: Verdict, model: Path | None, weights: str | None, records: str | None) -> None:
    if not verdict.valid:
        print(f"INVALID: {verdict.reason}")
        return
    steps = "1 step" if verdict.steps == 1 else f"{verdict.steps} steps"
    chain = "" if verdict.segments == 1 else f" in a chain of {verdict.segments} segments"
    print(f"VALID: {steps} of training{chain} (verified in {verdict.seconds:.2f} s)")
    for line in run_lines(verdict.statements):
        print(line)
    if weights is not None:
        print(named_line("model", f"{model}: its tensors '{weights}.*' are exactly the {weights} weights of this training"))
    if records is not None:
        print(named_line("step records", records))
    print(named_line("soundness", f"a false statement passes with probability below 2^-{verdict.soundness_bits}"))
    if verdict.assumes:
        print(named_line("not shown", verdict.assumes))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """FILE..., --json, --model, --opening, --records, --budget, --threads."""
    parser.add_argument("files", metavar="FILE", type=Path, nargs="+", help="a proof, the segments of a chain, or their folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--model", metavar="MODEL", type=Path, help="a model.safetensors that should hold the end weights")
    parser.add_argument("--opening", metavar="OPENING", type=Path, help="what `zkaudit reveal` wrote for that model")
    parser.add_argument(
        "--records", metavar="STEPS", type=Path, help="a run's steps.jsonl, which should be the records that the proof names"
    )
    parser.add_argument(
        "--budget",
        metavar="N",
        type=threads.positive,
        help="refuse a file whose verification would take more than N units of work, which are its bytes, and the rows and "
        "columns of all tables that it states (100 steps on digits: 535000). For files from strangers, which can be small and "
        "state much: with 1000000 none takes more than about a second and 256 MiB (default: no limit but the format's)",
    )
    threads.add_option(parser)


EXAMPLES = """\
examples:
  zkaudit verify digits.zkp
  zkaudit verify digits-proofs/
  zkaudit verify digits.zkp --json
  zkaudit verify stranger.zkp --budget 1000000
  zkaudit verify digits.zkp --model model.safetensors --opening digits.opening
  zkaudit verify digits-proofs/ --records steps.jsonl

exit codes: 0 valid, 1 invalid, 2 the files cannot be used
"""

COMMAND = Command("verify", "verify a proof of training", EXAMPLES, add_arguments, run)
