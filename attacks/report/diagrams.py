"""The phase diagram of recall over tokens and rank, and the plane of utility and recovery with the defences in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from zkaudit.attacks.report.canvas import BLUE, CARD, INK, LINE, MUTED, RED, draw, label
from zkaudit.attacks.report.elements import Html
from zkaudit.attacks.report.plots import WIDTH, Numbers
from zkaudit.attacks.report.quantities import Interval, significant


def phase(
    description: str,
    ranks: Sequence[float],
    tokens: Sequence[float],
    recall: Sequence[Numbers],
    here: tuple[float, float] | None,
) -> Html:
    """`recall` has a row for each rank; the edge n = K is a line, the deployment (rank, tokens) a star."""

    def paint(figure: Any) -> None:
        from matplotlib import colormaps
        from matplotlib.colors import to_hex

        axes = figure.subplots()
        colours = colormaps["cividis"]
        for row, values in enumerate(recall):
            for column, value in enumerate(values[: len(tokens)]):
                if value is None:
                    continue
                shade = colours(value)
                light = 0.3 * shade[0] + 0.59 * shade[1] + 0.11 * shade[2]
                axes.fill_between([column - 0.5, column + 0.5], row - 0.5, row + 0.5, color=to_hex(shade), linewidth=0.4)
                axes.text(
                    column,
                    row,
                    f"{value:.2f}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="#111111" if light > 0.45 else "#ffffff",
                )
        _edge(axes, ranks, tokens)
        axes.set_xlim(-0.5, len(tokens) - 0.5)
        axes.set_ylim(-0.5, len(ranks) - 0.5)
        axes.set_xticks(range(len(tokens)), [significant(count) for count in tokens])
        axes.set_yticks(range(len(ranks)), [significant(rank) for rank in ranks])
        axes.tick_params(length=0)
        axes.set_xlabel("n, tokens behind an update")
        axes.set_ylabel("K, usable rank")
        if here is not None:
            x, y = _place(here[1], tokens), _place(here[0], ranks)
            axes.plot(
                x, y, "*", markersize=19, color=RED, markeredgecolor="#ffffff", markeredgewidth=1.4, clip_on=False, zorder=5
            )

    return draw("phase", description, (WIDTH, 0.8 + 0.38 * len(ranks)), paint)


def _edge(axes: Any, ranks: Sequence[float], tokens: Sequence[float]) -> None:
    """The stairs between cells with n <= K, on their upper left, and the others."""
    fits = [(row, sum(count <= rank for count in tokens)) for row, rank in enumerate(ranks)]
    x = [columns - 0.5 for _, columns in fits if columns for _ in range(2)]
    y = [row + side for row, columns in fits if columns for side in (-0.5, 0.5)]
    if x:  # along the lower side of the first cells
        x, y = [-0.5, *x], [y[0], *y]
    axes.plot(x, y, color="#ffffff", linewidth=3.6)
    axes.plot(x, y, color="#111111", linewidth=1.8, linestyle="--")


def _place(value: float, scale: Sequence[float]) -> float:
    """Where on an axis of cells a value lies, between them by its logarithm, at the border if it is off the scale."""
    if value <= scale[0]:
        return 0.0 if value == scale[0] else -0.5
    for index, (left, right) in enumerate(pairwise(scale)):
        if value <= right:
            return index + (math.log(value / left) / math.log(right / left) if left > 0 else (value - left) / (right - left))
    return len(scale) - 0.5


PLACES = [  # of a name, in points from its mark, nearest first
    (reach * x, reach * y)
    for reach in (8, 18, 30, 44)
    for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1), (0.7, 0.7), (0.7, -0.7), (-0.7, 0.7), (-0.7, -0.7))
]


@dataclass(frozen=True)
class Defended:
    """A defence in the plane: its utility, and what either attacker recovers."""

    name: str
    utility: float
    static: Interval | None
    adaptive: Interval | None
    front: bool = False
    static_only: bool = False


def pareto(description: str, points: Sequence[Defended], utility: str, lower_is_better: bool) -> Html:
    """Right and low is good. A line joins the static attacker's mark (open) to the adaptive one's (filled)."""

    points = _side_by_side(points)

    def paint(figure: Any) -> None:
        from matplotlib.lines import Line2D

        axes = figure.subplots()
        for point in points:
            colour = RED if point.static_only else BLUE
            ends = [value.value for value in (point.static, point.adaptive) if value is not None]
            if len(ends) == 2:
                axes.plot([point.utility] * 2, ends, color=colour, linewidth=1.4, linestyle=":" if point.static_only else "-")
            if point.static is not None:
                axes.plot(point.utility, point.static.value, "o", color=colour, markerfacecolor=CARD, zorder=3)
            if point.adaptive is not None:
                if point.adaptive.has_width:
                    axes.plot([point.utility] * 2, point.adaptive.bounds, color=colour, linewidth=5, alpha=0.2)
                axes.plot(point.utility, point.adaptive.value, "s", color=colour, zorder=4)
        best = sorted(
            ((p.utility, p.adaptive.value) for p in points if p.front and p.adaptive is not None), reverse=lower_is_better
        )
        axes.plot([x for x, _ in best], [y for _, y in best], color=MUTED, linewidth=1, drawstyle="steps-pre", zorder=1)
        axes.set_ylim(-0.06, 1.1)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
        shown = [point.utility for point in points]
        centre, reach = (min(shown) + max(shown)) / 2, 0.66 * max(_spread(shown), max(shown) - min(shown))
        axes.set_xlim(centre - reach, centre + reach)
        axes.ticklabel_format(axis="x", useOffset=False)
        if lower_is_better:
            axes.invert_xaxis()
        axes.grid(True, color=LINE)
        axes.set_xlabel(f"{label(utility)}, better to the right")
        axes.set_ylabel("recovered")
        handles = [
            Line2D([], [], marker="o", color=BLUE, markerfacecolor=CARD, linestyle=""),
            Line2D([], [], marker="s", color=BLUE, linestyle=""),
            Line2D([], [], marker="s", color=RED, linestyle=":"),
            Line2D([], [], color=MUTED, linewidth=1),
        ]
        names = ["static attacker", "adaptive attacker", "wins against the static one only", "best trade-offs"]
        axes.legend(handles, names, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, columnspacing=1.2, handletextpad=0.4)
        figure.canvas.draw()
        _names(figure, axes, points)

    return draw("pareto", description, (WIDTH, 4.3), paint)


def _spread(utilities: Sequence[float]) -> float:
    """Their range, but no less than what is worth telling apart."""
    return max(max(utilities) - min(utilities), 0.02 * max(map(abs, utilities)), 1e-6)


def _side_by_side(points: Sequence[Defended]) -> list[Defended]:
    """Those with nearly the same utility moved apart, so that none hides another."""
    step = 0.018 * _spread([point.utility for point in points])
    moved: list[Defended] = []
    for point in sorted(points, key=lambda point: point.utility):
        least = moved[-1].utility + step if moved else point.utility
        moved.append(replace(point, utility=max(point.utility, least)))
    return moved


def _names(figure: Any, axes: Any, points: Sequence[Defended]) -> None:
    """A name at each defence's adaptive mark, where it covers neither a mark nor another name."""
    from matplotlib.transforms import Bbox

    marks = [(p.utility, v.value) for p in points for v in (p.static, p.adaptive) if v is not None]
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in (axes.transData.transform(mark) for mark in marks)]
    for point in points:
        if point.static is not None and point.adaptive is not None:
            (x, low), (_, high) = (axes.transData.transform((point.utility, v.value)) for v in (point.static, point.adaptive))
            taken.append(Bbox.from_extents(x - 1, min(low, high), x + 1, max(low, high)))
    frame = axes.get_window_extent()
    for point in points:
        value = point.adaptive or point.static
        if value is None:
            continue
        text = axes.annotate(
            label(point.name),
            (point.utility, value.value),
            (0, 0),
            textcoords="offset points",
            fontsize=8,
            color=INK,
            bbox={"facecolor": CARD, "edgecolor": "none", "pad": 0.8},
            zorder=2.5,
        )
        text.set_in_layout(False)

        def clashes(place: tuple[float, float], text: Any = text) -> float:
            _put(text, place)
            box = text.get_window_extent()
            outside = box.x0 < frame.x0 or box.x1 > frame.x1 or box.y0 < frame.y0
            return float(sum(box.overlaps(other) for other in taken) + 2 * outside)

        _put(text, min(PLACES, key=clashes))
        taken.append(text.get_window_extent())


def _put(text: Any, place: tuple[float, float]) -> None:
    x, y = place
    text.set_position(place)
    text.set_horizontalalignment("left" if x > 0 else "right" if x < 0 else "center")
    text.set_verticalalignment("bottom" if y > 0 else "top" if y < 0 else "center")
