"""The form of result.json, from which a report is made: a JSON schema, and a check that names the first place that is wrong.

Every part may be missing. Keys that the schema does not know are allowed, so that an older report reads a newer result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from zkaudit.attacks.errors import AuditError

Schema = Mapping[str, Any]

STRING: Schema = {"type": "string"}
BOOLEAN: Schema = {"type": "boolean"}
NUMBER: Schema = {"type": ["number", "null"]}  # null where there is nothing to measure
COUNT: Schema = {"type": ["integer", "null"], "minimum": 0}
SHARE: Schema = {"type": ["number", "null"], "minimum": 0, "maximum": 1}
TEXT: Schema = {"type": ["string", "null"]}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _map(values: Schema) -> Schema:
    return {"type": "object", "additionalProperties": values}


def _object(required: Iterable[str] = (), **properties: Schema) -> Schema:
    return {"type": "object", "required": list(required), "properties": properties}


NUMBERS = _list(NUMBER)
INTERVAL: Schema = {  # a value with its confidence interval, or the value alone
    "type": ["number", "object", "null"],
    "required": ["value"],
    "properties": {"value": NUMBER, "low": NUMBER, "high": NUMBER},
}

_DISTANCES = _object(["edges"], edges=NUMBERS, vocabulary=NUMBERS, true=NUMBERS, null=NUMBERS)
_EVIDENCE = _object(singular_values=NUMBERS, rank=COUNT, distances=_DISTANCES, stages=_map(NUMBER))
_EXAMPLE = _object(true=STRING, recovered=STRING, masked=BOOLEAN, values=_list(STRING), note=STRING)
_ATTACK = _object(
    ["name"],
    name=STRING,
    role={"enum": ["attack", "control", "oracle"]},
    summary=STRING,
    claimed=COUNT,
    needs=_list(STRING),
    seconds=NUMBER,
    memory_bytes=NUMBER,
    error=TEXT,
    metrics=_map(INTERVAL),
    pii=_map({"type": "object", "properties": {"records": COUNT}, "additionalProperties": INTERVAL}),
    evidence=_EVIDENCE,
    examples=_list(_EXAMPLE),
)
_DEFENCE = _object(
    ["name"],
    name=STRING,
    explanation=STRING,
    note=STRING,
    utility=_object(name=STRING, value=NUMBER, better={"enum": ["lower", "higher"]}),
    static=INTERVAL,
    adaptive=INTERVAL,
    epsilon=NUMBER,
    static_only=BOOLEAN,
    front=BOOLEAN,
)
_GROUP = _object(site=STRING, dependence=STRING, kinds=_list(STRING), capacity=NUMBER, ratio=NUMBER, regime=STRING)
_TENSOR = _object(name=STRING, shape=_list(COUNT), kind=STRING, explanation=STRING, capacity=NUMBER)
_FINDING = _object(["sentence"], severity={"enum": ["high", "medium", "low", "info"]}, sentence=STRING, remedy=STRING)
_PROOF = _object(
    valid=BOOLEAN,
    soundness_bits=COUNT,
    steps=COUNT,
    segments=COUNT,
    files=_list(_object(["name", "sha256"], name=STRING, sha256=STRING)),
    checks=_list(STRING),
    update=STRING,
    statements=_list({"type": "object"}),
)
_SIGNAL = _object(["name"], name=STRING, value=NUMBER, threshold=NUMBER, explanation=STRING)

SCHEMA: Schema = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "result of an audit",
    **_object(
        schema={"const": 1},
        zkaudit=STRING,
        created=STRING,
        seconds=NUMBER,
        memory_bytes=NUMBER,
        title=STRING,
        config=_map({"type": "object"}),
        threat=_object(name=STRING, capabilities=_list(STRING), description=STRING),
        device=STRING,
        environment={"type": "object"},
        hashes=_map(STRING),
        seeds={"type": "object"},
        verdict=_object(level={"enum": ["exposed", "partly exposed", "no leak found"]}, sentences=_list(STRING)),
        proof=_PROOF,
        meter=_object(
            tokens=NUMBER,
            records=NUMBER,
            verdict=STRING,
            reason=STRING,
            groups=_list(_GROUP),
            tensors=_list(_TENSOR),
            findings=_list(_FINDING),
        ),
        attacks=_list(_ATTACK),
        funnel=_list(_object(["stage"], stage=STRING, share=SHARE)),
        phase=_object(
            ranks=NUMBERS, tokens=NUMBERS, recall=_list(NUMBERS), here=_object(rank=NUMBER, tokens=NUMBER), note=STRING
        ),
        defences=_list(_DEFENCE),
        screen=_object(
            verdict=STRING,
            score=NUMBER,
            signals=_list(_SIGNAL),
            roc=_object(false_positive=NUMBERS, true_positive=NUMBERS, auc=NUMBER),
        ),
        exposure_curves=_map({"type": "object", "required": ["x"], "additionalProperties": NUMBERS}),
    ),
}


def check(result: Any) -> None:
    """AuditError names the first place of a result that is not as the schema says; numbers must be finite."""
    for path, fault in _faults(result, SCHEMA, ""):
        raise AuditError(f"the result's {path or 'top level'} {fault}")


def plain(value: Any) -> Any:
    """The same as JSON can hold it: tuples and arrays become lists, sets sorted lists, paths strings, NaN and infinity null."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item) for item in value), key=str)
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "tolist"):  # of numpy and torch
        return plain(value.tolist())
    raise AuditError(f"a result cannot hold a {type(value).__name__}")


_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}
_NAMES = {"array": "a list", "integer": "an integer", "object": "an object", "null": "null"}


def _is(value: Any, kind: str) -> bool:
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()  # as JSON schema has it
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _TYPES[kind])


def _faults(value: Any, schema: Schema, path: str) -> Iterable[tuple[str, str]]:
    """Where and why a value breaks the schema, in the order of the value."""
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if isinstance(value, float) and not math.isfinite(value):
        yield path, "is not a finite number"
    elif kinds and not any(_is(value, kind) for kind in kinds):
        yield path, f"is not {' or '.join(_NAMES.get(kind, f'a {kind}') for kind in kinds)}"
    elif "const" in schema and (isinstance(value, bool) or value != schema["const"]):
        yield path, f"is not {schema['const']!r}"
    elif "enum" in schema and value not in schema["enum"]:
        yield path, f"is none of {', '.join(schema['enum'])}"
    elif isinstance(value, dict):
        for key in schema.get("required", ()):
            if key not in value:
                yield path, f"lacks '{key}'"
        for key, item in value.items():
            inner = schema.get("properties", {}).get(key, schema.get("additionalProperties", {}))
            yield from _faults(item, inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from _faults(item, schema.get("items", {}), f"{path}[{position}]")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if value < schema.get("minimum", -math.inf):
            yield path, f"is below {schema['minimum']}"
        if value > schema.get("maximum", math.inf):
            yield path, f"is above {schema['maximum']}"
