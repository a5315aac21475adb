"""Draw the speed-ups as bars, beside what was asked for."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.speed.table import find_timing
from benchmarks.speed.targets import target_of

# Okabe and Ito's colours, told apart by the colour-blind too.
REACHED, FASTER, SLOWER = "#009e73", "#56b4e9", "#d55e00"
CHARACTERS_AN_INCH = 16  # at the caption's size, on the safe side
INK, FAINT = "#222222", "#bbbbbb"
TICKS = (0.1, 0.2, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0)

Row = Mapping[str, Any]


def draw(rows: Sequence[Row], threads: Sequence[int], machine: str, path: Path) -> bool:
    """Write a picture, its format by the suffix; return whether there was anything to draw."""
    shown = [row for row in rows if find_timing(row, threads[0])]
    if not shown:
        return False
    shown.sort(key=lambda row: (find_timing(row, threads[0]) or {})["ratio"])
    # Text stays text, and the file the same for the same numbers.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "speed", "font.size": 9}):
        figure = Figure(figsize=(4.2 + 3.6 * len(threads), 1.9 + 0.24 * len(shown)), dpi=120)
        axes = figure.subplots(1, len(threads), sharey=True, sharex=True, squeeze=False)[0]
        for axis, count in zip(axes, threads, strict=True):
            _draw_bars(axis, shown, count)
        _frame(axes[0], shown, threads)
        _caption(figure, machine, len(threads))
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
    return True


def _draw_bars(axis: Axes, rows: Sequence[Row], threads: int) -> None:
    for place, row in enumerate(rows):
        timing, asked = find_timing(row, threads), target_of(row["id"], threads)
        if timing is not None:
            _draw_bar(axis, place, timing, asked)
        if asked is not None:
            axis.plot(asked, place, marker="|", color=INK, markersize=9, markeredgewidth=1.6)
    axis.axvline(1.0, color=INK, linewidth=0.9, zorder=1)
    axis.set_title(f"{threads} thread{'s' if threads > 1 else ''}", fontsize=10, loc="left")
    axis.set_xlabel("speed-up over the best rival (log scale)")
    axis.grid(axis="x", color=FAINT, linewidth=0.4)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)


def _draw_bar(axis: Axes, place: int, timing: Mapping[str, Any], asked: float | None) -> None:
    ratio, q1, q3 = timing["ratio"], timing["q1"], timing["q3"]
    colour = REACHED if ratio >= (asked or 1.0) else FASTER if ratio >= 1 else SLOWER
    # From 1, not from 0, which a log axis has not: equal lengths are equal factors either way.
    axis.barh(place, ratio - 1.0, left=1.0, height=0.66, color=colour, zorder=2)
    axis.hlines(place, q1, q3, color=INK, linewidth=1.1, zorder=3)
    axis.vlines([q1, q3], place - 0.17, place + 0.17, color=INK, linewidth=1.1, zorder=3)
    side = max(ratio, q3, asked or 0.0) if ratio >= 1 else max(1.0, q3, asked or 0.0)
    axis.annotate(
        f"{ratio:.2f}",
        (side, place),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        fontsize=7.5,
        color=INK,
    )


def _frame(axis: Axes, rows: Sequence[Row], threads: Sequence[int]) -> None:
    axis.set_yticks(range(len(rows)), [f"{row['id']}  {row['size']}" for row in rows])
    axis.set_ylim(-0.7, len(rows) - 0.3)
    timings = [t for row in rows for count in threads if (t := find_timing(row, count))]
    low = min(min(t["q1"], t["ratio"]) for t in timings)
    high = max(max(t["q3"], t["ratio"]) for t in timings)
    axis.set_xscale("log")
    axis.set_xlim(min(low / 1.1, 0.8), max(high, 2.0) * 1.3)
    axis.xaxis.set_major_locator(FixedLocator(TICKS))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _caption(figure: Figure, machine: str, panels: int) -> None:
    height = figure.get_figheight()
    caption = textwrap.fill(machine, int(CHARACTERS_AN_INCH * figure.get_figwidth()))
    top = 1 - 0.1 / height
    at_top: dict[str, Any] = {"ha": "left", "va": "top"}
    figure.text(0.01, top, "tvmopt beside ONNX Runtime and OpenVINO", fontsize=11, **at_top)
    figure.text(0.01, top - 0.26 / height, caption, fontsize=7.5, color="#666666", **at_top)
    figure.legend(
        handles=[
            Patch(color=REACHED, label="as fast as asked"),
            Patch(color=FASTER, label="faster than the best rival, less than asked"),
            Patch(color=SLOWER, label="slower than the best rival"),
            Line2D([], [], color=INK, marker="|", linestyle="", markersize=9, label="asked"),
            Line2D([], [], color=INK, linewidth=1.1, label="quartiles of the rounds"),
        ],
        loc="lower left",
        ncols=5 if panels > 1 else 3,
        frameon=False,
        fontsize=7.5,
        bbox_to_anchor=(0.0, 0.0),
        handlelength=1.2,
        columnspacing=1.2,
    )
    figure.subplots_adjust(
        left=2.7 / figure.get_figwidth(),
        right=0.985,
        top=1 - 0.95 / height,
        bottom=(0.8 if panels > 1 else 0.95) / height,
        wspace=0.06,
    )
