"""HTML by construction: a string that is not `Html` is escaped where it enters an element, so no text can be markup."""

from __future__ import annotations

import html
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from zkaudit.attacks.report.quantities import ABSENT, decimal, interval

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff\u202a-\u202e\u2066-\u2069]")

SHORT = 9  # rows of a table that is kept on one page


class Html(str):
    """Markup that goes into a page as it stands."""


Child = str | int | float | None | Iterable["Child"]


def printable(text: str) -> str:
    """Without control characters, lone surrogates and marks that reorder text."""
    return _UNPRINTABLE.sub("\ufffd", text)


def join(*children: Child) -> Html:
    """Children one after the other; None is nothing."""
    parts = []
    for child in children:
        if isinstance(child, Html):
            parts.append(str(child))
        elif isinstance(child, (str, int, float)):
            parts.append(html.escape(printable(str(child)), quote=True))
        elif child is not None:
            parts.append(join(*child))
    return Html("".join(parts))


def tag(name: str, *children: Child, **attributes: str | bool | int | None) -> Html:
    """An element. `class_` is class, other underscores are hyphens; an attribute that is None or False is left out."""
    words = [name]
    for key, value in attributes.items():
        if value is not None and value is not False:
            key = key.rstrip("_").replace("_", "-")
            words.append(key if value is True else f'{key}="{join(value)}"')
    return Html(f"<{' '.join(words)}>{join(*children)}</{name}>")


def paragraph(*children: Child, class_: str | None = None) -> Html:
    return tag("p", *children, class_=class_)


def listing(items: Iterable[Child], **attributes: str) -> Html:
    return tag("ul", [tag("li", item) for item in items], **attributes)


def code(text: str) -> Html:
    """A name from the model or a configuration; may break after dots."""
    return tag("code", Html(join(text).replace(".", ".<wbr>").replace("/", "/<wbr>")))


SHAPES = {"high": "▲", "medium": "◆", "low": "●", "neutral": "○"}  # so that a level is not known by its colour alone


def badge(text: str, level: str) -> Html:
    """A word in a coloured frame; `level` is high, medium, low or neutral."""
    return tag("span", tag("span", SHAPES[level], aria_hidden="true"), " ", text, class_=f"badge {level}")


def note(*children: Child, level: str = "neutral") -> Html:
    """A remark that must not be missed."""
    return tag("p", tag("span", SHAPES[level], aria_hidden="true"), " ", *children, class_=f"note {level}", role="note")


def details(summary: str, *children: Child) -> Html:
    """Folded on a screen, open in print."""
    return tag("details", tag("summary", summary), *children)


def figure(plot: Html, *caption: Child) -> Html:
    return tag("figure", plot, tag("figcaption", *caption))


def measured(raw: object, strong: bool = False) -> Html:
    """A value, and its interval below it."""
    found = interval(raw)
    if found is None:
        return tag("span", ABSENT, class_="absent")
    value = tag("strong" if strong else "span", decimal(found.value), class_="value")
    if not found.has_width:
        return value
    low, high = found.bounds
    return join(value, tag("span", f"{low:.2f} to {high:.2f}", class_="interval"))


@dataclass(frozen=True)
class Row:
    """Cells of a table's row, the first being its heading. A row of one cell heads those that follow it."""

    cells: Sequence[Child]
    kind: str = ""


def table(caption: str, heads: Sequence[Child], rows: Sequence[Row | Sequence[Child]], numbers: Collection[int] = ()) -> Html:
    """A table with scopes; columns in `numbers` are aligned to the right."""

    def align(column: int) -> str | None:
        return "number" if column in numbers else None

    bodies: list[list[Html]] = [[]]
    for entry in rows:
        row = entry if isinstance(entry, Row) else Row(entry)
        first, *rest = row.cells
        if not rest:
            heading = tag("th", first, scope="rowgroup", colspan=len(heads))
            bodies.append([tag("tr", heading, class_="group")])
            continue
        cells = [tag("td", cell, class_=align(column)) for column, cell in enumerate(rest, 1)]
        bodies[-1].append(tag("tr", tag("th", first, scope="row"), cells, class_=row.kind or None))
    head = [tag("th", cell, scope="col", class_=align(column)) for column, cell in enumerate(heads)]
    content = tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", head)),
        [tag("tbody", body) for body in bodies if body],
    )
    return tag(
        "div",
        content,
        class_="scroll short" if len(rows) <= SHORT else "scroll",
        tabindex="0",
        role="region",
        aria_label=caption,
    )
