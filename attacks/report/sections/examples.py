"""True and recovered texts side by side, personal data hidden unless asked for."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from zkaudit.attacks.report.elements import Child, Html, join, note, paragraph, tag
from zkaudit.attacks.report.mask import is_hidden, mask


def examples(result: Mapping[str, Any], show_values: bool) -> list[Child]:
    """Each attack's examples."""
    content: list[Child] = []
    for attack in result.get("attacks", []):
        pairs = [_pair(example, show_values) for example in attack.get("examples", [])]
        if pairs:
            content += [tag("h3", attack["name"]), tag("div", pairs, class_="examples")]
    if not content:
        return []
    if show_values:
        head = note("This report shows personal data in the clear. Do not pass it on.", level="high")
    else:
        head = paragraph(
            "Personal data are hidden: a digit is shown as #, a word as a block. Underlined words were recovered in place; "
            "of hidden words it is not shown whether they were right.",
            class_="lead",
        )
    return [head, *content]


def _pair(example: Mapping[str, Any], show_values: bool) -> Html:
    """`values` of an example are hidden by name; what only looks like personal data is hidden in any case."""
    true, recovered = example.get("true", ""), example.get("recovered", "")
    if not show_values:
        true, recovered = (mask(text, example.get("values", ())) for text in (true, recovered))
    return tag(
        "dl",
        tag("dt", "Record"),
        tag("dd", _words(true)),
        tag("dt", "Recovered"),
        tag("dd", _compared(true, recovered) if recovered else tag("span", "nothing", class_="absent")),
        [tag("dt", "Note"), tag("dd", example["note"])] if example.get("note") else None,
    )


def _words(text: str) -> Html:
    return _joined([tag("span", word, class_="hidden") if is_hidden(word) else word for word in text.split()])


def _compared(true: str, recovered: str) -> Html:
    """Words of the recovered text; those that stand in the true one in the same order are marked."""
    ours = recovered.split()
    blocks = difflib.SequenceMatcher(None, true.split(), ours, autojunk=False).get_matching_blocks()
    right = {place for block in blocks for place in range(block.b, block.b + block.size)}
    return _joined(
        [
            tag("span", word, class_="hidden" if is_hidden(word) else "right" if place in right else "wrong")
            for place, word in enumerate(ours)
        ]
    )


def _joined(words: list[Child]) -> Html:
    return join([[word, " "] for word in words[:-1]], words[-1:])
