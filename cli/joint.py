"""`zkaudit audit RUN --proof FILE`: verify the proof, tie the run to it, and audit the update that both speak about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zkaudit.cli.outcome import DONE
from zkaudit.cli.progress import ProgressBar
from zkaudit.cli.summary import named_line, run_lines
from zkaudit.zk.errors import BadInput, InvalidProof


def run(folder: Path, proof: Path, out: Path) -> int:
    """Write result.json and report.html. InvalidProof or NotBound, before any attack, for a proof that is not this run's."""
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder that zkaudit train wrote; --proof is for those")
    handed = handed_over(folder, proof)
    from zkaudit.attacks.joint import joint_audit

    with ProgressBar() as progress:
        result = joint_audit(handed, out, progress)
    _show(result, out)
    return DONE


def handed_over(folder: Path, proof: Path) -> dict[str, Any]:
    """The proof's verdict and what the run holds, all of it opened against the proof's commitments, as plain data."""
    from zkaudit.zk import attestation, binding, verifier

    verdict = verifier.verify_files([proof])
    if not verdict.valid:
        raise InvalidProof(verdict.reason)
    bound = binding.bind(folder, [proof])
    files = [{"name": path.name, "sha256": attestation.sha256(path)} for path in verifier.in_order([proof])]
    first, last = verdict.statements[0], verdict.statements[-1]
    commitments = {name: one[f"{name}_commitment"] for name, one in (("data", first), ("start", first), ("end", last))}
    known = asdict(verdict)
    return {
        "name": folder.resolve().name,
        "proof": {
            **{name: known[name] for name in ("valid", "reason", "steps", "segments", "soundness_bits", "seconds")},
            "files": files,
            "checks": list(bound.checks),
        },
        "statements": verdict.statements,
        "hashes": {
            **{f"proof {file['name']}": file["sha256"] for file in files},
            "model file": attestation.sha256(folder / binding.MODEL),
            **{f"{name} commitment": digest for name, digest in commitments.items()},
        },
        "start": bound.start,
        "end": bound.end,
        "frozen": bound.frozen,
        "inputs": bound.inputs,
        "targets": bound.targets,
        "batches": bound.batches,
    }


def _show(result: Mapping[str, Any], out: Path) -> None:
    """The verdict, the statement, a line for each attack and defence, and where the rest is."""
    print(f"{result['verdict']['level']}: {' '.join(result['verdict']['sentences'])}")
    for line in run_lines(result["proof"]["statements"]):
        print(line)
    print(named_line("meter", f"{result['meter']['verdict']}, {result['meter']['reason']}"))
    print(f"{'attack':<20}{'recovered':>10}{'error':>10}{'labels':>8}{'seconds':>9}")
    for attack in result["attacks"]:
        cells = [_cell(attack, name) for name in ("records_recovered", "record_error", "labels_right")]
        note = f"  {attack['error']}" if attack.get("error") else ""
        print(f"{attack['name']:<20}{cells[0]:>10}{cells[1]:>10}{cells[2]:>8}{attack['seconds']:>9.1f}{note}")
    for defence in result["defences"]:
        warning = "  stops only an attacker who does not know of it" if defence["static_only"] else ""
        figures = f"static {defence['static']['value']:.2f}  adaptive {defence['adaptive']['value']:.2f}"
        loss = f"  training loss {defence['utility']['value']:.3g}"
        print(f"defence {defence['name']:<18} {figures}  guessing {defence['chance']:.2f}{loss}{warning}")
    print(f"{out}: result.json and report.html, {result['seconds']:.0f} s")


def _cell(attack: Mapping[str, Any], metric: str) -> str:
    found = (attack.get("metrics") or {}).get(metric)
    return "-" if found is None else f"{found['value']:.2g}"
