"""The plots of the demo's report, as SVG that takes its text colour from the page."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from tvmopt.cli import units

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OURS, THEIRS = "#0d9488", "#94a3b8"
# Stands for the page's text colour until the SVG is written, for that may be dark or light.
_INK = "#123456"
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tvmopt",
    "font.size": 11,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "ytick.major.size": 0,
    "axes.linewidth": 0.6,
}


@contextmanager
def _figure(width: float, height: float, columns: int = 1) -> Iterator[tuple[Figure, Any]]:
    """Make a figure of one row of axes, inches; nothing of matplotlib's state is changed."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # "building the font cache"
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots(1, columns)


def _svg(figure: Figure) -> str:
    """Return the figure as an inline SVG element that scales with its container."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace(_INK, "currentColor")


def latency(engines: Sequence[Mapping[str, Any]]) -> str:
    """Draw each engine's median latency with the range that holds eight runs of ten."""
    with _figure(7.2, 0.75 + 0.62 * len(engines)) as (figure, axes):
        for i, engine in enumerate(engines):
            times = engine["latency_ms"]
            colour = OURS if engine["engine"] == "tvmopt" else THEIRS
            axes.plot(
                [times["least"], times["p90"]],
                [i, i],
                color=colour,
                lw=9,
                alpha=0.35,
                solid_capstyle="round",
            )
            axes.plot(times["p50"], i, "o", color=colour, ms=11)
            axes.annotate(
                f"{units.digits(times['p50'])} ms",
                (times["p50"], i),
                (0, 13),
                textcoords="offset points",
                ha="center",
                fontweight="bold",
            )
        _rows(axes, [engine["title"] for engine in engines])
        # Where something else took the CPU, a range may leave the plot: the medians count.
        slowest = max(engine["latency_ms"]["p50"] for engine in engines)
        longest = max(engine["latency_ms"]["p90"] for engine in engines)
        axes.set_xlim(0, min(1.1 * longest, 2.5 * slowest))
        axes.set_xlabel("milliseconds an image: median, and fastest to 90th percentile")
        return _svg(figure)


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.7)
    axes.grid(axis="x", color=_INK, alpha=0.12)
    axes.set_axisbelow(True)


def quality(engines: Sequence[Mapping[str, Any]]) -> str:
    """Draw each engine's accuracy beside the bytes that have to be on a device."""
    with _figure(7.2, 0.75 + 0.55 * len(engines), 2) as (figure, (left, right)):
        colours = [OURS if one["engine"] == "tvmopt" else THEIRS for one in engines]
        accuracies = np.array([100 * one["accuracy"] for one in engines])
        share = accuracies / 100
        errors = 100 * np.sqrt(share * (1 - share) / [one["images"] for one in engines])
        for i, (value, error, colour) in enumerate(zip(accuracies, errors, colours, strict=True)):
            left.errorbar(value, i, xerr=error, fmt="o", color=colour, ms=9, capsize=4)
            left.annotate(
                f"{value:.2f} %",
                (value, i),
                (0, 11),
                textcoords="offset points",
                ha="center",
                fontweight="bold",
            )
        _rows(left, [one["title"] for one in engines])
        left.margins(x=0.3)
        left.set_xlabel("accuracy, % (± standard error)")
        sizes = [one["deployed_bytes"] / 1e6 for one in engines]
        right.barh(range(len(engines)), sizes, height=0.5, color=colours)
        for i, one in enumerate(engines):
            right.annotate(
                units.bytes_(one["deployed_bytes"]),
                (sizes[i], i),
                (5, 0),
                textcoords="offset points",
                va="center",
                fontweight="bold",
            )
        _rows(right, ["" for _ in engines])
        right.set_xscale("log")
        right.set_xlim(0.1, 30 * max(sizes))
        right.set_xlabel("to deploy: model and engine, MB")
        return _svg(figure)


def layers(profile: Mapping[str, Any]) -> str:
    """Draw the time of each layer, and the share of the peak that it reaches."""
    shown = profile["layers"]
    with _figure(7.2, 0.9 + 0.3 * len(shown)) as (figure, axes):
        times = [1e3 * layer["median_ms"] for layer in shown]
        axes.barh(range(len(shown)), times, height=0.66, color=OURS)
        for i, layer in enumerate(shown):
            share = layer["peak_share"]
            text = f"{times[i]:.1f}" + (f", {100 * share:.0f} % of peak" if share else "")
            axes.annotate(
                text, (times[i], i), (5, 0), textcoords="offset points", va="center", fontsize=9.5
            )
        _rows(axes, [_short(layer["layer"]) for layer in shown])
        axes.tick_params(axis="y", labelsize=9.5)
        axes.set_xlim(0, 1.3 * max(times))
        axes.set_xlabel("microseconds")
        return _svg(figure)


def _short(name: str, most: int = 30) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def confusion(judged: Mapping[str, Any], classes: Sequence[str]) -> str:
    """Draw which class was taken for which, errors by strength of colour."""
    from matplotlib.colors import LinearSegmentedColormap

    matrix = np.array(judged["confusion"])
    errors = np.where(np.eye(len(matrix), dtype=bool), 0, matrix)
    clear = LinearSegmentedColormap.from_list(
        "errors", [(0.88, 0.4, 0.1, 0.0), (0.88, 0.4, 0.1, 0.9)]
    )
    with _figure(7.2, 6.4) as (figure, axes):
        axes.imshow(errors, cmap=clear, aspect="auto")
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                axes.annotate(
                    str(count),
                    (column, row),
                    ha="center",
                    va="center",
                    fontsize=9.5,
                    fontweight="bold" if row == column else "normal",
                    color=OURS if row == column else _INK,
                )
        axes.set_xticks(
            range(len(classes)), classes, rotation=40, ha="right", rotation_mode="anchor"
        )
        axes.set_yticks(range(len(classes)), classes)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true class")
        return _svg(figure)
