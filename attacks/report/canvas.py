"""matplotlib's figures as inline SVG that takes its colours from the page, so that it reads on light, dark and paper.

Colours are stand-ins that become the page's CSS variables; text stays text. The same data give the same bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import Any

from zkaudit.attacks.report.elements import Html, join, printable

INK, MUTED, LINE, CARD = "#010101", "#020202", "#030303", "#040404"
BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"  # Okabe and Ito's
SERIES = (BLUE, ORANGE, GREEN, PURPLE, RED, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")
PAGE = {
    INK: "ink",
    MUTED: "muted",
    LINE: "line",
    CARD: "card",
    BLUE: "blue",
    ORANGE: "orange",
    GREEN: "green",
    RED: "red",
    PURPLE: "purple",
    SKY: "sky",
}
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name may hold a dollar sign
    "axes.formatter.use_mathtext": False,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "hatch.color": INK,
    "lines.linewidth": 1.6,
    "lines.markersize": 6,
}
PIXELS = 96 / 72  # of a point
LONGEST = 34  # of a label

_EDGES = (
    (r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", ""),
    (r' xmlns(?::\w+)?="[^"]*"', ""),
    (r" version=\"[^\"]*\"", ""),
)


def draw(name: str, description: str, size: tuple[float, float], paint: Callable[[Any], None]) -> Html:
    """An SVG of `size` inches that `paint(figure)` has drawn; `name` is its own on the page, `description` is read aloud."""
    import matplotlib.style
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with warnings.catch_warnings(), matplotlib.style.context(["default", {**STYLE, "svg.hashsalt": name}]):
        warnings.simplefilter("ignore")  # letters that the measuring font lacks, the reader's font may have
        figure = Figure(figsize=size, layout="constrained")
        paint(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(name, description, buffer.getvalue())


def label(text: str) -> str:
    """A name as a plot can hold it: one line, not too long, nothing that matplotlib would take for an order."""
    text = " ".join(printable(text).split()) or "?"
    text = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
    return "\u200b" + text if text.startswith("_") else text


def _inline(name: str, description: str, svg: str) -> Html:
    for pattern, replacement in _EDGES:
        svg = re.sub(pattern, replacement, svg, flags=re.DOTALL)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    used = set(re.findall(r'(?:href="|url\()#([\w-]+)', svg))

    def identify(found: re.Match[str]) -> str:
        own = f"{name}-{found.group(1)}"
        return f' id="{own}"' if own in used else ""

    svg = re.sub(r' id="([^"]+)"', identify, svg)
    colours = "|".join(PAGE)
    svg = re.sub(rf"(?i)({colours})\b", lambda found: f"var(--{PAGE[found.group().lower()]})", svg)
    head = re.search(r'<svg[^>]*? viewBox="0 0 ([\d.]+) ([\d.]+)"[^>]*>', svg)
    assert head is not None  # matplotlib always says it
    width, height = (float(number) for number in head.groups())
    opening = (
        f'<svg class="plot" role="img" aria-label="{join(description)}" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width * PIXELS:.0f}" height="{height * PIXELS:.0f}">'
    )
    return Html((svg[: head.start()] + opening + svg[head.end() :]).strip())
