"""An attestation: an in-toto Statement that names a model, the proof of its training and an audit by their digests.

What is named is checked before it is named: the proof is verified, the model file opened against the end commitment. The JSON
is deterministic, so that the same files give the same bytes. It is not signed; whoever vouches for it puts it in an envelope.
Source: in-toto attestation framework, spec v1, Statement, ResourceDescriptor and DigestSet. docs/attestation.md has the
predicate's fields."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from zkaudit.zk import opening, proof_file, strict_json, verifier
from zkaudit.zk.errors import BadInput, InvalidProof, NotBound
from zkaudit.zk.layout import Layout

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://zkaudit.example/training/v1"  # a name, not an address: .example never resolves (RFC 2606)
COMMITMENT = "zkauditCommitment"  # lowercase hex SHA-256 over a commitment's compressed rows
TENSORS = "end."  # what the names of the tensors begin with that the proof speaks about
EXACT = ("digest", "statements")  # objects in which a key more is a difference
LARGEST = 1 << 28  # bytes of a statement or of a result that is read

Json = dict[str, Any]


@dataclass(frozen=True)
class Named:
    """The files of an attestation: a proof or the segments of a chain, the model it is of, and an audit's result.json."""

    proofs: Sequence[Path]
    model: Path | None = None
    opening: Path | None = None  # ties the model to the end commitment
    audit: Path | None = None


def attest(named: Named) -> Json:
    """The statement. InvalidProof if the proof is invalid, NotBound if model or audit belong to another one."""
    if (named.model is None) != (named.opening is None):
        raise BadInput("--model and --opening go together: the opening is what ties the model to the proof")
    return _statement(named)


def check(path: Path, named: Named) -> Json:
    """The statement at `path`, once all that it names is given, verifies and has the digests that it says.

    NotBound names the first field that differs. Fields that this program does not know are ignored, as in-toto asks, and so are
    names of files and the version of the program that made it. A model is told by its digest, and opened again if its opening
    is given too.
    """
    found = _read_object(path, "an attestation")
    if found.get("_type") != STATEMENT or found.get("predicateType") != PREDICATE:
        raise BadInput(f"{path} is not an in-toto statement of {PREDICATE}")
    for option, is_named, given in (
        ("--model", _names_a_model(found), named.model),
        ("--audit", isinstance(found.get("predicate"), dict) and "audit" in found["predicate"], named.audit),
    ):
        if is_named and given is None:
            raise BadInput(f"{path} names a file that is to be checked too: give {option}")
    expected = _statement(named)
    del expected["predicate"]["verifier"]
    place = _difference(expected, found, "")
    if place is not None:
        raise NotBound(f"{path} does not hold for these files: '{place}' differs")
    return found


def encode(statement: Json) -> bytes:
    """As it is written: sorted keys, two spaces, ASCII, a line feed at the end."""
    return json.dumps(statement, sort_keys=True, indent=2, ensure_ascii=True).encode() + b"\n"


def _statement(named: Named) -> Json:
    verdict = verifier.verify_files(named.proofs)
    if not verdict.valid:
        raise InvalidProof(verdict.reason)
    paths = verifier.in_order(named.proofs)
    end = proof_file.read(paths[-1]).statement.end
    if named.model is None:
        commitment = hashlib.sha256(end).hexdigest()
        subject = {"name": "end weights", "digest": {COMMITMENT: commitment}}
    else:
        if named.opening is not None:
            _require_end_weights(paths[-1], end, named.model, named.opening)
        subject = {**_described(named.model), "annotations": {"tensors": f"{TENSORS}*"}}
    proofs = [_described(path) for path in paths]
    predicate: Json = {
        "proof": proofs,
        "statements": verdict.statements,
        "verdict": {
            "valid": verdict.valid,
            "steps": verdict.steps,
            "segments": verdict.segments,
            "soundnessBits": verdict.soundness_bits,
            "assumes": verdict.assumes,
        },
        "verifier": {"name": "zkaudit", "version": version("zkaudit")},
    }
    if named.audit is not None:
        predicate["audit"] = _audit(named.audit, [file["digest"]["sha256"] for file in proofs])
    return {"_type": STATEMENT, "subject": [subject], "predicateType": PREDICATE, "predicate": predicate}


def _require_end_weights(proof: Path, end: bytes, model: Path, opened_by: Path) -> None:
    if opening.load(opened_by).commitment != end:
        raise NotBound(f"{opened_by} does not open the end weights of {proof}")
    try:
        opening.check_model(proof, model, opened_by)
    except InvalidProof as error:
        raise NotBound(str(error)) from None
    from safetensors import safe_open  # an extra, which the check above has asked for

    layout = Layout(proof_file.read(proof).statement)
    with safe_open(model, framework="np") as file:
        names = list(file.keys())
    if sum(name.startswith(TENSORS) for name in names) != sum(1 + layout.matrices[m].has_bias for m in layout.trained):
        raise NotBound(f"{model} holds more tensors called '{TENSORS}*' than the proof speaks about")


def _audit(path: Path, proofs: Sequence[str]) -> Json:
    """What is said of an audit: its digest and verdict, and whether the update in it was bound to this proof."""
    result = _read_object(path, "the result of an audit")
    verdict, proof = result.get("verdict"), result.get("proof")
    if result.get("schema") != 1 or not isinstance(verdict, dict) or not isinstance(verdict.get("level"), str):
        raise BadInput(f"{path} is not the result of an audit: it has no verdict")
    if proof is not None:
        files = proof.get("files") if isinstance(proof, dict) else None
        digests = [file.get("sha256") for file in files if isinstance(file, dict)] if isinstance(files, list) else []
        if digests != list(proofs):
            raise NotBound(f"{path} audits the update of another proof than the one given")
    return {**_described(path), "level": verdict["level"], "boundToProof": proof is not None}


def _described(path: Path) -> Json:
    """A file as a ResourceDescriptor."""
    return {"name": path.name, "digest": {"sha256": sha256(path)}}


def sha256(path: Path) -> str:
    """A file's digest, hex; BadInput if it cannot be read."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None


def _read_object(path: Path, what: str) -> Json:
    try:
        if path.stat().st_size > LARGEST:
            raise BadInput(f"{path} is too large for {what}")
        content = strict_json.loads(path.read_bytes())
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise BadInput(f"{path} is not {what}: it is not JSON") from None
    if not isinstance(content, dict):
        raise BadInput(f"{path} is not {what}: it is not an object")
    return content


def _names_a_model(statement: Mapping[str, Any]) -> bool:
    subject = statement.get("subject")
    first = subject[0] if isinstance(subject, list) and subject else None
    digest = first.get("digest") if isinstance(first, dict) else None
    return isinstance(digest, dict) and "sha256" in digest


def _difference(expected: Any, found: Any, place: str, exact: bool = False) -> str | None:
    """Where `found` first lacks or contradicts what is expected.

    More keys in an object are a difference if `exact` only: in a set of digests, any of which could be taken for the file's,
    and in what the proof states. Names are none anywhere: files are told by their digests.
    """
    if isinstance(expected, dict) and isinstance(found, dict):
        if exact and (more := sorted(found.keys() - expected.keys())):
            return f"{place}.{more[0]}"
        for key in sorted(expected.keys() - {"name"}):
            inner = f"{place}.{key}" if place else key
            where = _difference(expected[key], found.get(key), inner, exact or key in EXACT)
            if where is not None:
                return where
        return None
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = enumerate(zip(expected, found, strict=True))
        return next((where for i, (a, b) in pairs if (where := _difference(a, b, f"{place}[{i}]", exact)) is not None), None)
    return None if expected == found and isinstance(expected, bool) == isinstance(found, bool) else place
