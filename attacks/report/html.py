"""The report of an audit: one HTML file that needs nothing else, made from the result alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.report.elements import Child, Html, join, paragraph, tag
from zkaudit.attacks.report.schema import check, plain
from zkaudit.attacks.report.sections import (
    appendix,
    attacking,
    defending,
    evidence,
    examples,
    exposure,
    metering,
    overview,
    personal,
    proving,
    screening,
)

Content = Callable[[Mapping[str, Any]], list[Child]]

SECTIONS: tuple[tuple[str, str, str, Content], ...] = (  # id, heading, what it answers, content
    ("proof", "Proof of the update", "What is proved of the update that this audit is about.", proving.proof),
    ("threat", "Threat model", "Who attacks, and with what.", overview.threat),
    ("meter", "Leakage meter", "What the update shows, told from model and settings before any attack runs.", metering.meter),
    ("phase", "Phase diagram", "How recovery depends on tokens behind an update (n) and rank it shows (K).", exposure.phase),
    ("attacks", "Attacks", "What was recovered from the updates, with confidence intervals.", attacking.attacks),
    ("funnel", "From tokens to personal data", "How far recovery goes.", exposure.funnel),
    ("evidence", "Evidence in the update", "How well the update tells a batch's tokens from all others.", evidence.evidence),
    ("pii", "Personal data", "Which kinds of values were recovered.", personal.pii),
    ("curves", "Exposure curves", "What changes with the training settings.", exposure.curves),
    ("defences", "Defences", "What each costs, and what it saves against an attacker who adapts.", defending.defences),
    ("screen", "Screen of the base model", "Whether the model that was handed out looks prepared to leak.", screening.screen),
    ("appendix", "Evidence appendix", "What is needed to run this audit again.", appendix.appendix),
)
POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # should a text become markup after all, it can do nothing
EXAMPLES = ("examples", "Examples", "Records of this test and what attacks made of them.")


def write(result: Mapping[str, Any], path: Path, show_values: bool | None = None) -> None:
    """Write the report of a result (schema.py) to `path`.

    Personal data in examples are hidden unless `show_values`; None is what the result's configuration has under `report`.

    AuditError names the first place of the result that is not as the schema says, or why the file cannot be written.
    """
    page = render(result, show_values)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise AuditError(f"cannot write {path}: {error.strerror}") from None


def render(result: Mapping[str, Any], show_values: bool | None = None) -> str:
    """The page. The same result gives the same bytes."""
    result = plain(result)
    check(result)
    if show_values is None:
        show_values = result.get("config", {}).get("report", {}).get("show_values") is True
    parts = [(name, heading, lead, make(result)) for name, heading, lead, make in SECTIONS]
    parts.insert(-1, (*EXAMPLES, examples.examples(result, show_values)))
    shown = [part for part in parts if part[3]]
    title = result.get("title") or overview.TITLE
    body = tag(
        "div",
        overview.cover(result),
        _contents(shown) if shown else None,
        tag("main", [_section(*part) for part in shown], id="content"),
        tag("footer", _footer(result)),
        class_="frame",
    )
    head = tag(
        "head",
        Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        Html('<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">'),
        tag("title", title),
        tag("style", Html(_style())),
    )
    skip = tag("a", "Skip to the content", href="#content", class_="skip")
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', skip, body), lang='en')}\n"


def _contents(shown: list[tuple[str, str, str, list[Child]]]) -> Html:
    entries = [tag("li", tag("a", heading, href=f"#{name}")) for name, heading, *_ in shown]
    return tag("nav", tag("h2", "Contents", id="contents"), tag("ol", entries), aria_labelledby="contents")


def _section(name: str, heading: str, lead: str, content: list[Child]) -> Html:
    title = tag("h2", heading, id=f"{name}-heading")
    return tag("section", title, paragraph(lead, class_="lead"), content, id=name, aria_labelledby=f"{name}-heading")


def _footer(result: Mapping[str, Any]) -> Child:
    version = f"Made by zkaudit {result['zkaudit']}. " if result.get("zkaudit") else ""
    return join(version, "An attack that fails shows that this attack fails, not that nothing leaks.")


def _style() -> str:
    return resources.files("zkaudit.attacks.report").joinpath("style.css").read_text(encoding="utf-8")
