"""Records with personal data: made by faker, or read from a user's JSON lines.

Splits made from different seeds never share a value: `synthetic` is given what is taken.
A line of a file is {"text": "...", "owner": "Ada Lovelace", "pii": {"phone": "..."}}; owner and pii may be missing.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from zkaudit.attacks.errors import AuditError

TEMPLATES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("{name} signed up for the newsletter and left the phone number {phone} for questions.", ("phone",)),
    ("Please send the invoice of {name} to {email} before the end of the month.", ("email",)),
    ("The parcel for {name} goes to {address} and needs a signature.", ("address",)),
    ("{name} paid the hotel with the card {card} and asked for a receipt.", ("card",)),
    ("Patient {name} was born on {birth} and comes for a yearly check.", ("birth",)),
    ("To reach {name} call {phone} or write to {email} during office hours.", ("phone", "email")),
)
KINDS = ("phone", "email", "address", "card", "birth")
BORN = date(1935, 11, 26), date(2008, 11, 26)  # fixed days: a seed's records are the same whatever today is


@dataclass(frozen=True)
class Record:
    """One training text; `pii` maps kinds to the values as they stand in the text, `owner` is the person they belong to."""

    text: str
    owner: str = ""
    pii: Mapping[str, str] = field(default_factory=dict)
    label: int = 0  # for classifiers


def synthetic(count: int, seed: int, taken: Collection[str] = (), kinds: Sequence[str] = KINDS) -> list[Record]:
    """`count` records from the templates that use only `kinds`, with no value (or name) that is in `taken`."""
    from faker import Faker

    fake = Faker("en_US")
    fake.seed_instance(seed)
    templates = [(text, used) for text, used in TEMPLATES if set(used) <= set(kinds)]
    if not templates:
        raise AuditError(f"no template of records uses only {', '.join(kinds)}")
    makers = {
        "phone": lambda: fake.numerify("%##-###-####"),
        "email": fake.free_email,
        "address": lambda: fake.street_address().replace("\n", " "),
        "card": lambda: fake.numerify("%### #### #### ####"),
        "birth": lambda: fake.date_time_ad(start_datetime=BORN[0], end_datetime=BORN[1]).date().isoformat(),
    }
    seen = set(taken)

    def fresh(make) -> str:  # type: ignore[no-untyped-def]
        while (value := str(make())) in seen:
            pass
        seen.add(value)
        return value

    records = []
    for number in range(count):
        text, used = templates[number % len(templates)]
        owner = fresh(lambda: f"{fake.first_name()} {fake.last_name()}")
        pii = {kind: fresh(makers[kind]) for kind in used}
        records.append(Record(text.format(name=owner, **pii), owner, pii, number % 2))
    return records


def values(records: Sequence[Record]) -> set[str]:
    """All names and values in records, for `taken`."""
    return {value for record in records for value in (record.owner, *record.pii.values()) if value}


def read(path: Path) -> list[Record]:
    """Records from JSON lines; AuditError names the line that is wrong."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AuditError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from None
    records = [_record(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not records:
        raise AuditError(f"{path} holds no records")
    return records


def _record(line: str, where: str) -> Record:
    try:
        content = json.loads(line)
    except ValueError as error:
        raise AuditError(f"{where} is not JSON: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("text"), str) or not content["text"].strip():
        raise AuditError(f'{where} has no "text"')
    unknown = set(content) - {"text", "owner", "pii", "label"}
    if unknown:
        raise AuditError(f"{where} has an unknown key '{min(unknown)}'; known are text, owner, pii and label")
    owner, pii, label = content.get("owner", ""), content.get("pii", {}), content.get("label", 0)
    if not isinstance(owner, str) or not isinstance(label, int):
        raise AuditError(f"{where}: owner must be a string and label an integer")
    if not isinstance(pii, dict) or not all(isinstance(v, str) and v in content["text"] for v in pii.values()):
        raise AuditError(f"{where}: pii must map kinds to values that stand in the text")
    return Record(content["text"], owner, pii, label)
