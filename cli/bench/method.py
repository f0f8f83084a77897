"""`zkaudit bench prove --method M`: what proving a method's updates costs beside plain SGD's, same network, one run."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zkaudit.cli.bench.machine import machine
from zkaudit.cli.bench.process import Worker
from zkaudit.cli.bench.shape import Shape
from zkaudit.cli.summary import named_line

if TYPE_CHECKING:
    from zkaudit.zk.layout import Layout

REPEATS = 3  # the two take turns; the fastest of each counts


def compare(shape: Shape, thread_count: int, where: str) -> dict[str, Any]:
    """Train both, prove both in turns, verify both; figures by name, of the method, of plain SGD, and their ratios."""
    from zkaudit.cli.bench import stages

    shapes = {"sgd": replace(shape, method="sgd"), shape.method: shape}
    with tempfile.TemporaryDirectory() as name:
        folders = {kind: Path(name) / kind for kind in shapes}
        trained, proved = {}, {kind: list[stages.Proved]() for kind in shapes}
        for kind, one in shapes.items():
            with Worker() as worker:
                trained[kind] = worker(stages.train, one, folders[kind], thread_count, where)
        for turn in range(REPEATS):
            for kind, one in shapes.items():
                out = folders[kind] / f"proof-{turn}"
                with (
                    Worker() as worker
                ):  # as for `bench prove` alone: on a virtual machine, memory that was never touched is slow
                    worker(stages.warm, folders[kind], one.segment_steps)
                with Worker() as worker:
                    proved[kind].append(worker(stages.prove, folders[kind], out, one.segment_steps, thread_count, where))
        found = dict[str, dict[str, Any]]()
        for kind in shapes:
            best = min(proved[kind], key=lambda one: one.seconds)
            with Worker() as worker:
                verify_seconds, _ = worker(stages.verify, best.files, thread_count)
            found[kind] = {
                "seconds_per_update": best.seconds / shape.steps,
                "start_seconds": trained[kind].commit_seconds,
                "phases": best.phases,
                "verify_seconds": verify_seconds,
                "proof_bytes": sum(file.stat().st_size for file in best.files),
                "peak_bytes": best.peak_bytes,
                "test_accuracy": trained[kind].test_accuracy,
                "float_test_accuracy": trained[kind].float_test_accuracy,
                **_committed(best.files),
            }
    plain, other = found["sgd"], found[shape.method]
    compared = ("seconds_per_update", "verify_seconds", "proof_bytes", "committed_bits", "lookups", "peak_bytes")
    return {
        "machine": machine(),
        "threads": thread_count,
        "method": shape.method,
        "rank": shape.rank,
        **({"states": shape.states} if shape.method == "galore" else {}),
        "widths": list(shape.widths),
        "parameters": shape.parameters,
        "batch": shape.batch,
        "steps": shape.steps,
        "loss": shape.loss,
        **found,
        "ratios": {name: other[name] / plain[name] for name in compared},
    }


def lines(result: dict[str, Any]) -> list[str]:
    """The result for people."""
    method, ratios = result["method"], result["ratios"]
    network = f"{'-'.join(map(str, result['widths']))}, {result['parameters']} parameters, batch {result['batch']}"
    rank = "" if method == "fp8" else f", rank {result['rank']}"
    rank += ", moments in 8 bits" if result.get("states") == "fp8" else ""
    shown = [named_line("network", network), named_line("compared", f"{method}{rank} with plain SGD, {result['steps']} steps")]
    for name, ratio in ratios.items():
        what = name.replace("seconds_per_update", "update").replace("_", " ").removesuffix(" seconds")
        shown.append(named_line(f"  {what}", f"{ratio:.2f} times ({result[method][name]:.4g} and {result['sgd'][name]:.4g})"))
    for kind in ("sgd", method):
        accuracy, wanted = result[kind]["test_accuracy"], result[kind]["float_test_accuracy"]
        shown.append(named_line(f"  {kind}", f"test accuracy {accuracy:.2%}, in float {wanted:.2%}"))
    return shown


def _committed(files: list[Path]) -> dict[str, int]:
    """Bits of the ranges of all that the segments commit to, end weights aside, and looked-up entries."""
    from zkaudit.cli.bench import sizes
    from zkaudit.zk.layout import Layout
    from zkaudit.zk.proof_file import read

    layouts = [Layout(read(file).statement) for file in files]
    return {
        "committed_bits": sum(_bits(layout) for layout in layouts),
        "lookups": sum(sizes.lookups(layout) for layout in layouts),
    }


def _bits(layout: Layout) -> int:
    """Bits of the witness's ranges, padding included. What stands beside an argument has 16, as S has 32; flags have one."""
    first = {lookup.blocks[0].name: lookup.table for lookup in layout.lookups}
    second = {block.name for lookup in layout.lookups for block in lookup.blocks[1:]}
    total = 0
    for block in layout.witness:
        if block.name in first:
            bits = min(first[block.name], 16)
        else:
            bits = 16 if block.name in second else 32 if block.name == "s" else 1
        total += bits * block.size
    return total
