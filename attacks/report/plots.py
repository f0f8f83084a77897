"""Plots of values, shares, curves and evidence: each from plain data to an inline SVG."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from zkaudit.attacks.report.canvas import BLUE, CARD, INK, LINES, MARKERS, MUTED, RED, SERIES, draw, label
from zkaudit.attacks.report.elements import Html
from zkaudit.attacks.report.quantities import Interval, decimal, significant

WIDTH = 8.6  # inches
WIDE_RANGE = 50  # largest over smallest from which an axis is logarithmic

Numbers = Sequence[float | None]


def dots(
    name: str,
    description: str,
    rows: Sequence[str],
    series: Mapping[str, Sequence[Interval | None]],
    measure: str,
    open_rows: Collection[int] = (),
    open_series: Collection[str] = (),
    line: tuple[float, str] | None = None,
) -> Html:
    """Values in [0, 1] with intervals: a row a name, a marker a series; open ones are no attacks; `line` is marked."""
    spread = 0.7 / len(series)

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        for number, (title, values) in enumerate(series.items()):
            for row, value in enumerate(values):
                if value is not None:
                    attack = row not in open_rows and title not in open_series
                    own = SERIES[number % len(SERIES)] if attack else MUTED
                    at = row + (number - (len(series) - 1) / 2) * spread
                    axes.plot(value.bounds, [at, at], color=own)
                    marker = MARKERS[number % len(MARKERS)]
                    axes.plot(value.value, at, marker, color=own, markerfacecolor=own if attack else CARD, zorder=3)
        if line is not None:
            axes.axvline(line[0], color=INK, linestyle="--", linewidth=1)
            side = "left" if line[0] < 0.6 else "right"
            axes.text(line[0], -0.62, f" {label(line[1])} ", fontsize=8, ha=side, va="bottom")
        if len(series) > 1:
            _legend(axes, list(series), open_series, lines=False)
        axes.set_yticks(range(len(rows)), [label(row) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.7)
        _shares(axes.xaxis, axes.set_xlim)
        axes.set_xlabel(measure)
        axes.tick_params(axis="y", length=0)

    height = 0.85 + len(rows) * max(0.3, 0.15 + 0.14 * len(series))
    return draw(name, description, (WIDTH, height), paint)


def funnel(description: str, stages: Sequence[tuple[str, float | None]]) -> Html:
    """A bar for each stage, with its share."""

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        for row, (stage, share) in enumerate(stages):
            axes.barh(row, 1, color=MUTED, alpha=0.14, height=0.6)
            axes.barh(row, share or 0, color=BLUE, height=0.6)
            axes.text(1.015, row, "not measured" if share is None else f"{share:.0%}", va="center", fontweight="bold")
            axes.text(-0.015, row, label(stage), va="center", ha="right")
        axes.set_xlim(-0.16, 1.16)
        axes.set_ylim(len(stages) - 0.5, -0.5)
        axes.set_axis_off()

    return draw("funnel", description, (WIDTH, 0.2 + 0.42 * len(stages)), paint)


def curves(description: str, panels: Sequence[tuple[str, Mapping[str, Numbers]]]) -> Html:
    """A panel for each (title, {"x", series..., "low", "high"}), two in a row; low and high are the first series' band."""
    rows = (len(panels) + 1) // 2

    def paint(figure: Any) -> None:
        grid = figure.subplots(rows, 2, squeeze=False)
        for number, axes in enumerate(grid.flat):
            if number >= len(panels):
                axes.set_axis_off()
                continue
            title, data = panels[number]
            x = data["x"]
            names = [key for key in data if key not in ("x", "low", "high")]
            for index, key in enumerate(names):
                points = _pairs(x, data[key])
                style = LINES[index % len(LINES)] + MARKERS[index % len(MARKERS)]
                axes.plot(*points, style, color=SERIES[index % len(SERIES)], clip_on=False, zorder=3)
            if "low" in data and "high" in data:
                low, high = _pairs(x, data["low"]), _pairs(x, data["high"])
                if low[0] == high[0]:
                    axes.fill_between(low[0], low[1], high[1], color=BLUE, alpha=0.15, linewidth=0)
            known = [value for value in x if value is not None]
            if known and min(known) > 0 and max(known) >= 8 * min(known):
                axes.set_xscale("log", base=2)
            axes.minorticks_off()
            axes.set_xticks(known, [significant(value) for value in known])
            _shares(axes.yaxis, axes.set_ylim)
            axes.set_xlabel(label(title))
            axes.set_ylabel(label(names[0]) if len(names) == 1 else "share")
            if len(names) > 1:
                _legend(axes, names)

    return draw("curves", description, (WIDTH, 2.5 * rows), paint)


def spectrum(name: str, description: str, values: Numbers, rank: int | None) -> Html:
    """Singular values, largest first; those of the chosen rank filled."""
    known = [value for value in values if value is not None]
    floor = max(known, default=1.0) * 1e-17 or 1.0

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        heights = [max(value, floor) for value in known]
        kept = len(known) if rank is None else min(rank, len(known))
        places = range(1, len(known) + 1)
        axes.plot(places[:kept], heights[:kept], "o", color=BLUE, markersize=4.5)
        axes.plot(places[kept:], heights[kept:], "o", color=MUTED, markerfacecolor=CARD, markersize=4.5)
        if max(heights) > WIDE_RANGE * min(heights):
            axes.set_yscale("log")
            _powers(axes.yaxis)
        else:
            axes.set_ylim(0, 1.08 * max(heights))
        if rank is not None:
            axes.axvline(kept + 0.5, color=INK, linestyle="--", linewidth=1)
            left = kept > len(known) / 2
            axes.text(
                kept + 0.5,
                1.02,
                f" chosen rank {rank} ",
                transform=axes.get_xaxis_transform(),
                ha="right" if left else "left",
                fontsize=8,
            )
        axes.set_xlim(0, len(known) + 1)
        axes.set_xlabel("singular value number")
        axes.set_ylabel("singular value")
        axes.grid(axis="y")

    return draw(name, description, (WIDTH, 2.6), paint)


def distances(name: str, description: str, edges: Numbers, true: Numbers, vocabulary: Numbers, null: Numbers) -> Html:
    """Shares of the batch's tokens above, of the vocabulary below with the null as a line; one axis of distances."""
    sides = [edge for edge in edges if edge is not None]
    wide = len(sides) > 1 and min(sides) > 0 and max(sides) > WIDE_RANGE * min(sides)

    def paint(figure: Any) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True)
        bars = ((upper, true, RED, "tokens of the batch", "//"), (lower, vocabulary, BLUE, "whole vocabulary", ""))
        for axes, counts, colour, title, hatch in bars:
            axes.set_title(title)
            axes.set_ylabel("share")
            axes.grid(axis="y")
            shares = _normalised(counts)
            if len(shares) == len(sides) - 1:
                axes.stairs(shares, sides, fill=True, color=colour, alpha=0.35, hatch=hatch, linewidth=0)
                axes.stairs(shares, sides, color=colour, linewidth=1.3)
            else:
                axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center", color=MUTED)
            axes.set_ylim(bottom=0)
        masses = _masses(null, sides)
        if masses:
            lower.stairs(masses, sides, color=INK, linewidth=1.4, linestyle="--", baseline=None)
            _legend_of(lower, [(BLUE, "-", "measured"), (INK, "--", "directions at random (Beta)")])
        if wide:
            lower.set_xscale("log")
            _powers(lower.xaxis)
        lower.set_xlim(sides[0], sides[-1])
        lower.set_xlabel("distance from the subspace of the update (sine of the angle)")

    return draw(name, description, (WIDTH, 3.4), paint)


def roc(description: str, false_positive: Numbers, true_positive: Numbers, auc: float | None) -> Html:
    """Share of poisoned bases found against share of clean ones accused."""

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        x, y = _pairs(false_positive, true_positive)
        axes.plot([0, 1], [0, 1], "--", color=MUTED, linewidth=1)
        axes.plot(x, y, color=BLUE, linewidth=2)
        axes.fill_between(x, y, color=BLUE, alpha=0.1, linewidth=0)
        axes.text(0.98, 0.06, f"AUC {decimal(auc)}", ha="right", fontweight="bold")
        axes.text(0.6, 0.52, "guessing", color=MUTED, fontsize=8, ha="left")
        axes.set_aspect("equal")
        _shares(axes.xaxis, axes.set_xlim)
        _shares(axes.yaxis, axes.set_ylim)
        axes.set_xlabel("clean models accused")
        axes.set_ylabel("poisoned models found")

    return draw("roc", description, (3.7, 3.5), paint)


def _pairs(x: Numbers, y: Numbers) -> tuple[list[float], list[float]]:
    """Points that have both coordinates."""
    both = [(a, b) for a, b in zip(x, y, strict=False) if a is not None and b is not None]
    return [a for a, _ in both], [b for _, b in both]


def _shares(axis: Any, limit: Any) -> None:
    limit(-0.02, 1.02)
    axis.set_ticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    axis.grid(True)


def _powers(axis: Any) -> None:
    """Ticks of a logarithmic axis as 1e-3."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")))
    axis.set_minor_formatter(NullFormatter())


def _normalised(counts: Numbers) -> list[float]:
    total = sum(count or 0 for count in counts)
    return [(count or 0) / total for count in counts] if total > 0 else []


def _masses(null: Numbers, edges: Sequence[float]) -> list[float]:
    """Of each bin under the null: `null` holds masses, or densities if they sum to more than one."""
    if len(null) != len(edges) - 1 or not null:
        return []
    held = [value or 0 for value in null]
    if sum(held) <= 1.001:
        return held
    return [value * (right - left) for value, left, right in zip(held, edges, edges[1:], strict=False)]


def _legend(axes: Any, names: Sequence[str], open_ones: Collection[str] = (), lines: bool = True) -> None:
    """Above the axes, of series in their order."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            color=MUTED if name in open_ones else SERIES[number % len(SERIES)],
            markerfacecolor=CARD if name in open_ones else SERIES[number % len(SERIES)],
            marker=MARKERS[number % len(MARKERS)],
            linestyle=LINES[number % len(LINES)] if lines else "-",
        )
        for number, name in enumerate(names)
    ]
    axes.legend(handles, [label(name) for name in names], loc="lower left", bbox_to_anchor=(0, 1), ncols=min(4, len(names)))


def _legend_of(axes: Any, entries: Sequence[tuple[str, str, str]]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, linestyle=style) for colour, style, _ in entries]
    axes.legend(handles, [text for _, _, text in entries], loc="upper left")
