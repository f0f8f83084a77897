"""Writes the tables of docs/performance.md and docs/gpu.md from the results folder, between the marks `<!-- NAME -->` and
`<!-- end NAME -->`.

python benchmarks/report.py [--results FOLDER]
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from measured import CURVES, Result, curve, later_update, load

ROOT = Path(__file__).parent.parent
PERFORMANCE, GPU = ROOT / "docs/performance.md", ROOT / "docs/gpu.md"
LONGEST = 16  # kernels of a run that are listed


def main() -> None:
    """Fill in every section whose results are there; the others say what to run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results")
    options = parser.parse_args()
    for page, written in ((PERFORMANCE, sections(options.results)), (GPU, {"gpu": gpu_section(options.results)})):
        text = page.read_text()
        for name, section in written.items():
            text, found = re.subn(
                rf"(<!-- {name} -->\n).*?(<!-- end {name} -->)", rf"\g<1>\n{section}\n\n\g<2>", text, flags=re.DOTALL
            )
            if not found:
                raise SystemExit(f"{page} has no section {name}")
        page.write_text(text)


def sections(results: Path) -> dict[str, str]:
    """Each section's text by its name."""
    single: dict[str, Callable[[Result], list[str]]] = {
        "ten-million": run_table, "ten-million-scalar": run_table, "digits": run_table, "msm": msm_table, "peers": peers_table,
    }  # fmt: skip
    written = {}
    for name, table in single.items():
        result = load(results, name)
        written[name] = "\n".join(table(result)) if result else "Not measured yet."
    for name in CURVES:
        points = curve(results, name)
        written[name] = "\n".join(curve_table(name, points)) if points else "Not measured yet."
    return written


def run_table(run: Result) -> list[str]:
    """One run: its phases beside their limits, then the rest in lines."""
    steps = run["steps"]
    rows = [(name, seconds / steps, run["limit_phases"].get(name, 0) / steps) for name, seconds in run["phases"].items()]
    rows.append(("all", run["seconds_per_update"], run["limit_seconds_per_update"]))
    network = "-".join(map(str, run["widths"]))
    return [
        f"{network}, {run['parameters']:,} parameters, {run['loss']}, batch {run['batch']}, {steps} steps, segments: "
        f"{run['segments']}. {run['machine']}, lanes: {run['lanes']}, threads: {run['threads']}.",
        "",
        *table(("phase", "ms an update", "limit, ms"), ((name, milliseconds(a), milliseconds(b)) for name, a, b in rows)),
        "",
        f"Memory {run['peak_bytes'] / 1e9:.3g} GB, proof {run['proof_bytes'] / 1e3:.0f} kB, verified in "
        f"{1e3 * run['verify_seconds']:.0f} ms, trained in {run['train_seconds']:.3g} s. {run['committed_entries']:,} entries "
        f"committed, {run['lookups']:,} lookups; by the model {run['multiplications']:,} multiplications and "
        f"{run['additions']:,} point additions, at {run['field_mul_per_second'] / 1e6:.0f} and "
        f"{run['point_add_per_second'] / 1e6:.1f} million a second and thread.",
    ]


def msm_table(result: Result) -> list[str]:
    """Points a second of everybody."""
    rows = (
        (e["name"], e["lanes"], f"{e['points']:,}", f"{e['points_per_second']:,.0f}", ratio(e["ratio_to_blst"]))
        for e in result["entries"]
    )
    multiplications = (
        (one["lanes"], f"{one['tight_loop_per_second'] / 1e6:.1f}", f"{one['streamed_per_second'] / 1e6:.1f}")
        for one in result["field_multiplications"]
    )
    return [
        f"{result['machine']}.",
        "",
        *table(("", "lanes", "points", "points a second and core", "to blst"), rows),
        "",
        *table(("lanes", "multiplications, tight loop, M/s", "through memory, M/s"), multiplications),
    ]


def peers_table(result: Result) -> list[str]:
    """A training step of ours beside an inference of ezkl's."""
    ours, theirs = result["zkaudit"], result["ezkl"]
    rows = [("zkaudit, training", milliseconds(ours["seconds_per_sample"]))]
    if theirs:
        rows.append((f"ezkl {theirs['version']}, inference", milliseconds(theirs["seconds_per_sample"])))
    text = [f"{'-'.join(map(str, result['widths']))}. {result['machine']}, threads: {result['threads']}.", ""]
    text += table(("", "ms a sample"), rows)
    return [*text, "", f"Ratio: {result['ratio']:.0f}."] if theirs else text


def gpu_section(results: Path) -> str:
    """The device's ceilings, each kernel's share, the whole run by phase and by kernel."""
    result = load(results, "gpu")
    if not result:
        return "Not measured yet."
    run = result["run"]
    shares = (
        (k["kernel"], f"{1e3 * k['seconds']:.3f}", f"{100 * k['share_of_ceiling']:.0f}%", k["bound"]) for k in result["kernels"]
    )
    phases = {"start": run["start_seconds"], **run["phases"]}
    per_step = ((name, milliseconds(seconds / run["steps"])) for name, seconds in phases.items())
    longest = list(run["kernels"].items())[:LONGEST]
    launches = ((name, f"{k['launches']:,}", f"{1e3 * k['seconds']:.1f}") for name, k in longest)
    whole = run["start_seconds"] + run["prove_seconds"]
    lines = [
        f"{result['device']}; host: {result['host']}. Copy: {result['bytes_per_second'] / 1e12:.2f} TB/s; multiply-adds: "
        f"{result['multiply_adds_per_second'] / 1e12:.2f} T/s in chains of carries, "
        f"{result['plain_multiply_adds_per_second'] / 1e12:.2f} T/s without.",
        "",
        *table(("kernel", "ms", "share of ceiling", "bound by"), shares),
        "",
        f"{'-'.join(map(str, run['widths']))}, {run['parameters']:,} parameters, batch {run['batch']}, {run['steps']} steps in "
        f"{run['segments']} segment: {whole:.2f} s, of which the GPU computes {run['gpu_seconds']:.2f} s; "
        f"{milliseconds(run['prove_seconds'] / run['steps'])} ms an update, {milliseconds(whole / run['steps'])} ms with the "
        f"commitments made before training (start). With kernels still to be compiled: {run['first_prove_seconds']:.1f} s.",
        "",
        *table(("phase", "ms an update"), per_step),
        "",
        *table(("kernel of that run", "launches", "ms"), launches),
    ]
    return "\n".join(lines)


def curve_table(name: str, points: list[Result]) -> list[str]:
    """One row a point."""
    heads = (
        CURVES[name][0],
        "ms an update",
        "last segment, ms an update",
        "limit, ms",
        "memory, GB",
        "proof, kB",
        "verify, ms",
    )
    figure = CURVES[name][1]
    rows = (
        (
            f"{p[figure]:,}",
            milliseconds(p["seconds_per_update"]),
            milliseconds(later_update(p)),
            milliseconds(p["limit_seconds_per_update"]),
            f"{p['peak_bytes'] / 1e9:.3g}",
            f"{p['proof_bytes'] / 1e3:.0f}",
            f"{1e3 * p['verify_seconds']:.0f}",
        )
        for p in points
    )
    return table(heads, rows)


def milliseconds(seconds: float) -> str:
    """Three figures."""
    return f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:,.0f}"


def ratio(value: float | None) -> str:
    return f"{value:.2f}" if value else "-"


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """A Markdown table."""
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


if __name__ == "__main__":
    main()
