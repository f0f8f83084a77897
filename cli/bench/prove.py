"""`zkaudit bench prove`: time and memory of training, proving and verifying one network, by phase, beside the limit."""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zkaudit.cli import device, threads
from zkaudit.cli.bench import method
from zkaudit.cli.bench.machine import machine
from zkaudit.cli.bench.output import add_json_option, bytes_text, check_writable, seconds_text, write_json
from zkaudit.cli.bench.process import Worker
from zkaudit.cli.bench.shape import DIGITS, METHODS, Shape, widths_of
from zkaudit.cli.command import Command
from zkaudit.cli.outcome import DONE
from zkaudit.cli.progress import ProgressBar
from zkaudit.cli.summary import LOSS_NAMES, named_line
from zkaudit.zk.errors import BadInput

if TYPE_CHECKING:
    from zkaudit.cli.bench.rates import Rates
    from zkaudit.cli.bench.stages import Proved

DEFAULT_LAYERS = 8


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, write."""
    shape = _shape(arguments)
    check_writable(arguments.json)
    if arguments.method is not None:
        compared = method.compare(shape, arguments.threads or os.cpu_count() or 1, arguments.device)
        for line in method.lines(compared):
            print(line)
        write_json(arguments.json, compared)
        return DONE
    result = measure(shape, arguments.threads or os.cpu_count() or 1, arguments.device)
    for line in _lines(result):
        print(line)
    write_json(arguments.json, result)
    return DONE


def measure(shape: Shape, thread_count: int, where: str = "cpu") -> dict[str, Any]:
    """Train, prove and verify, each in a process of its own; every figure by name."""
    from zkaudit.cli.bench import rates, stages

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Worker() as worker:
            trained = worker(stages.train, shape, folder, thread_count, where)
        with Worker() as worker:
            warmed = worker(stages.warm, folder, shape.segment_steps)
        with Worker() as worker:
            proved = worker(stages.prove, folder, folder / "proof", shape.segment_steps, thread_count, where)
        with Worker() as worker:
            verify_seconds, verify_bytes = worker(stages.verify, proved.files, thread_count)
        with Worker() as worker, ProgressBar() as bar:
            bar("measuring this CPU", 0.0)
            measured = worker(rates.measure)
        proof_bytes = sum(file.stat().st_size for file in proved.files)
        counted = _counted(proved, measured, thread_count)
    phases = {"start": trained.commit_seconds, **proved.phases}
    prove_seconds = trained.commit_seconds + proved.seconds
    return {
        "machine": machine(),
        "device": proved.device,
        "lanes": proved.lanes,
        "threads": thread_count,
        "data": "digits" if shape.on_digits else "random",
        "widths": list(shape.widths),
        "parameters": shape.parameters,
        "layers": len(shape.widths) - 1,
        "batch": shape.batch,
        "steps": shape.steps,
        "loss": shape.loss,
        "learning_rate": shape.learning_rate,
        "segments": len(proved.files),
        "test_accuracy": trained.test_accuracy,
        "float_test_accuracy": trained.float_test_accuracy,
        "train_seconds": trained.seconds,
        "prove_seconds": prove_seconds,
        "seconds_per_update": prove_seconds / shape.steps,
        "phases": phases,
        "segment_seconds": proved.segment_seconds,
        "peak_bytes": proved.peak_bytes,
        "peak_bytes_before_proving": proved.peak_bytes_before,
        "warmed_bytes": warmed,
        "verify_seconds": verify_seconds,
        "verify_peak_bytes": verify_bytes,
        "proof_bytes": proof_bytes,
        "field_mul_per_second": 1 / measured.multiplication,
        "point_add_per_second": 1 / measured.addition,
        **counted,
        "limit_seconds_per_update": sum(counted["limit_phases"].values()) / shape.steps,
    }


def _counted(proved: Proved, rates: Rates, thread_count: int) -> dict[str, Any]:
    """What the proved statements hold, what they cost by the model, and the seconds that makes at these rates."""
    from zkaudit.cli.bench import limit, sizes
    from zkaudit.zk.layout import Layout
    from zkaudit.zk.proof_file import read

    layouts = [Layout(read(file).statement) for file in proved.files]
    work: dict[str, limit.Work] = {}
    for layout in layouts:
        for phase, more in limit.count(layout, proved.lanes).items():
            work[phase] = work.get(phase, limit.Work()) + more
    total = limit.total(work)
    inside = [block.size for layout in layouts for block in (*layout.end, *layout.witness, *layout.multiplicities)]
    before = [block.size for block in (*layouts[0].data, *layouts[0].start)]
    return {
        "rows": layouts[0].statement.rows,
        "row_length": 1 << layouts[0].statement.columns,
        "committed_entries": sum(before) + sum(inside),
        "lookups": sum(sizes.lookups(layout) for layout in layouts),
        "multiplications": round(total.multiplications),
        "additions": round(total.additions),
        "work": {phase: {name: round(number) for name, number in asdict(one).items()} for phase, one in work.items()},
        "limit_phases": {
            phase: one.seconds(rates.multiplication, rates.addition) / thread_count for phase, one in work.items()
        },
    }


def _shape(arguments: argparse.Namespace) -> Shape:
    widths, layers, parameters = arguments.widths, arguments.layers, arguments.parameters
    if widths is not None and (layers is not None or parameters is not None):
        raise BadInput("--widths names the network, so --parameters and --layers must not")
    if layers is not None and parameters is None:
        raise BadInput("--layers needs --parameters, or name the network with --widths")
    if parameters is not None:
        widths = widths_of(parameters, layers or DEFAULT_LAYERS)
    if arguments.method is None and arguments.rank is not None:
        raise BadInput("--rank is of GaLore or LoRA: name one with --method")
    if arguments.method != "galore" and arguments.states is not None:
        raise BadInput("--states is of GaLore's moments: say --method galore too")
    return Shape(
        widths or DIGITS, arguments.batch, arguments.steps, arguments.loss, arguments.segment_steps, arguments.rows,
        arguments.method or "sgd", arguments.rank or 8, arguments.states or "exact",
    )  # fmt: skip


def _lines(result: dict[str, Any]) -> list[str]:
    """The result for people."""
    steps, segments = result["steps"], result["segments"]
    loss, network = LOSS_NAMES[result["loss"]], "-".join(map(str, result["widths"]))
    update, limit = result["seconds_per_update"], result["limit_seconds_per_update"]
    rate, points = result["field_mul_per_second"], result["point_add_per_second"]
    lines = [
        named_line("network", f"{network}, {result['parameters']} parameters, {loss}, {result['data']} data"),
        named_line("run", f"{steps} steps of {result['batch']}, segments: {segments}, rows of {result['row_length']}"),
        named_line("machine", f"{result['machine']}, lanes: {result['lanes']}, threads: {result['threads']}"),
        *([named_line("device", result["device"])] if result["device"] != "cpu" else []),
        named_line("rates", f"{rate / 1e6:.0f} M multiplications/s, {points / 1e6:.1f} M point additions/s, one thread"),
        named_line("training", seconds_text(result["train_seconds"])),
        named_line(
            "proving", f"{seconds_text(result['prove_seconds'])}, an update {seconds_text(update)}, limit {seconds_text(limit)}"
        ),
    ]
    for phase, seconds in result["phases"].items():
        least = result["limit_phases"].get(phase, 0.0)
        lines.append(named_line(f"  {phase}", f"{seconds_text(seconds):>9}   limit {seconds_text(least):>9}"))
    memory, before, warmed = result["peak_bytes"], result["peak_bytes_before_proving"], result["warmed_bytes"]
    return [
        *lines,
        named_line("memory", f"{bytes_text(memory)} at most, {bytes_text(before)} before proving, warmed {bytes_text(warmed)}"),
        named_line("proof", bytes_text(result["proof_bytes"])),
        named_line("verification", f"{seconds_text(result['verify_seconds'])}, {bytes_text(result['verify_peak_bytes'])}"),
    ]


def _widths(text: str) -> tuple[int, ...]:
    """Widths for argparse: `64,128,10`."""
    widths = tuple(threads.positive(width) for width in text.split(","))
    if len(widths) < 2:
        raise argparse.ArgumentTypeError("inputs and outputs at least are needed")
    return widths


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The shape, --segment-steps, --threads, --device, --json."""
    positive = threads.positive
    parser.add_argument("--parameters", type=positive, metavar="N", help="a network of this size, by the rule below")
    parser.add_argument("--layers", type=positive, metavar="L", help=f"its layers (default: {DEFAULT_LAYERS})")
    parser.add_argument("--widths", type=_widths, metavar="A,B,..", help="inputs, hidden layers, outputs (default: digits)")
    parser.add_argument("--batch", type=positive, metavar="B", default=64, help="samples a step (default: 64)")
    parser.add_argument("--steps", type=positive, metavar="T", default=100, help="steps to train and prove (default: 100)")
    parser.add_argument("--rows", type=positive, metavar="N", help="rows of random data (default: two batches, at least 256)")
    parser.add_argument("--loss", choices=tuple(LOSS_NAMES), default="cross_entropy", help="(default: cross_entropy)")
    parser.add_argument("--method", choices=METHODS, help="measure this method's updates beside plain SGD's, in turns")
    parser.add_argument("--rank", type=positive, metavar="R", help="of GaLore or LoRA (default: 8)")
    parser.add_argument("--states", choices=("exact", "fp8"), help="of GaLore's Adam: moments in 8 bits (default: exact)")
    parser.add_argument("--segment-steps", type=positive, metavar="N", help="steps in a segment (default: what memory allows)")
    threads.add_option(parser)
    device.add_option(parser)
    add_json_option(parser)


EXAMPLES = """\
examples:
  zkaudit bench prove                                                   # digits, 64-128-64-10, 100 steps
  zkaudit bench prove --parameters 10000000 --layers 8 --steps 64 --json ten-million.json
  zkaudit bench prove --method galore --rank 64                         # beside plain SGD, both proved in turns
  zkaudit bench prove --method galore --states fp8                      # with moments stored in 8 bits
  zkaudit bench prove --widths 100,300,300,10 --batch 32 --steps 16 --loss square

The rule: 10 outputs; hidden layers equally wide, the largest power of two that leaves at least as many inputs; the inputs
take up the rest, a multiple of 64. The real number of parameters is reported. --parameters 10000000 alone is 8 layers, widths
3584-1024-1024-1024-1024-1024-1024-1024-10, with 9,978,890 parameters: 100 steps of 64 samples, 256 random rows, cross-entropy.

Any widths but the digits' run on random data. Training, proving and verifying have a process each: memory is that of proving
alone, and verifying includes getting the generators. Phase "start" is the commitment to data and start weights, which comes
before training. The limit is what the multiplications and point additions of the very statement take at the rates of this CPU,
for integers that fill their ranges.

On a virtual machine the host backs memory when it is touched first, several times as slowly as the system clears it. So a
process of its own touches about as much as proving will take and ends before proving begins: "warmed_bytes" in the JSON.
"""

COMMAND = Command("prove", "time and memory of training, proving and verifying a network", EXAMPLES, add_arguments, run)
