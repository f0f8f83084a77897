"""`zkaudit bench peers`: a proof of training a network by us beside ezkl's proof of one inference of the same network."""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zkaudit.cli import threads
from zkaudit.cli.bench.machine import machine
from zkaudit.cli.bench.output import add_json_option, bytes_text, check_writable, seconds_text, write_json
from zkaudit.cli.bench.process import Worker
from zkaudit.cli.bench.shape import DIGITS, Shape
from zkaudit.cli.command import Command
from zkaudit.cli.outcome import DONE
from zkaudit.cli.progress import ProgressBar
from zkaudit.cli.summary import named_line

if TYPE_CHECKING:
    from zkaudit.cli.bench.ezkl_inference import Inference

BATCH = 64
REPEATS = 3
INSTALL = "pip install 'zkaudit[bench]'"


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, write."""
    check_writable(arguments.json)
    result = measure(arguments.steps, arguments.threads or os.cpu_count() or 1)
    for line in _lines(result):
        print(line)
    write_json(arguments.json, result)
    return DONE


def measure(steps: int, thread_count: int) -> dict[str, Any]:
    """Ours and ezkl's seconds a sample on the digits' network, one after the other."""
    from zkaudit.cli.bench.prove import measure as measure_ours

    ours = measure_ours(Shape(DIGITS, BATCH, steps, "cross_entropy"), thread_count)
    seconds = ours["prove_seconds"] / (steps * BATCH)
    result = {
        "machine": machine(),
        "threads": thread_count,
        "widths": list(DIGITS),
        "zkaudit": {"what": "training", "steps": steps, "batch": BATCH, "lanes": ours["lanes"], "seconds_per_sample": seconds}
        | {name: ours[name] for name in ("prove_seconds", "verify_seconds", "proof_bytes")},
        "ezkl": None,
        "ratio": None,
        "missing": [{"name": "ezkl", "install": INSTALL}] if not (find_spec("ezkl") and find_spec("onnx")) else [],
    }
    if not result["missing"]:
        rayon = {"RAYON_NUM_THREADS": str(thread_count)}
        with tempfile.TemporaryDirectory() as folder, Worker(rayon) as worker, ProgressBar() as bar:
            bar("ezkl", 0.5)
            inference = worker(_prove_inference, Path(folder))
        result["ezkl"] = {"what": "inference", "seconds_per_sample": inference.seconds, **asdict(inference)}
        result["ratio"] = inference.seconds / seconds
    return result


def _prove_inference(folder: Path) -> Inference:
    from zkaudit.cli.bench import ezkl_inference

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # its native code prints reports there; what fails is raised here
    return ezkl_inference.prove(folder, DIGITS, REPEATS)


def _lines(result: dict[str, Any]) -> list[str]:
    """The result for people."""
    ours, theirs = result["zkaudit"], result["ezkl"]
    lines = [
        named_line("network", "-".join(map(str, result["widths"]))),
        named_line("machine", f"{result['machine']}, threads: {result['threads']}"),
        named_line(
            "zkaudit", f"training: {seconds_text(ours['seconds_per_sample'])} a sample and step, lanes: {ours['lanes']}"
        ),
        named_line("", f"{ours['steps']} steps of {ours['batch']} are one proof of {bytes_text(ours['proof_bytes'])}"),
    ]
    if theirs is None:
        return [*lines, f"missing: ezkl ({INSTALL})"]
    once = f"keys {seconds_text(theirs['set_up_seconds'])} once, 2^{theirs['log_rows']} rows"
    return [
        *lines,
        named_line(f"ezkl {theirs['version']}", f"inference: {seconds_text(theirs['seconds_per_sample'])} a sample; {once}"),
        named_line("", f"a proof of {bytes_text(theirs['proof_bytes'])} each"),
        named_line("ratio", f"{result['ratio']:.0f}"),
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--steps, --threads, --json."""
    parser.add_argument("--steps", type=threads.positive, metavar="T", default=100, help="steps that we prove (default: 100)")
    threads.add_option(parser)
    add_json_option(parser)


EXAMPLES = """\
examples:
  zkaudit bench peers --json peers.json

The digits' network, 64-128-64-10. We prove whole training steps: forward, loss, backward, update. ezkl proves one forward pass,
with inputs and weights private, outputs public, numbers of 8 fractional bits and the circuit size its own calibration finds;
its set-up string is made here. Both have the same number of threads. ezkl comes with the extra `bench`.
"""

COMMAND = Command("peers", "a proof of training beside ezkl's proof of one inference", EXAMPLES, add_arguments, run)
