"""The table of compressed models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.text import Text

from benchmarks import reports
from benchmarks.speed.compressed.works import WORKS, Asked

NONE = "-"

Row = Mapping[str, Any]
Speed = Mapping[str, Any]


def columns() -> list[str]:
    """Return the heads, as ``reports.make_table`` takes them."""
    head = ["model, recipe", ">thr", ">ms", ">MB", ">shrunk", ">cosine"]
    return [*head, ">/ int8", ">/ fp32", ">/ any", ">/ own fp32", "asked"]


def make_rows(rows: Iterable[Row], threads: Sequence[int]) -> list[list[str | Text]]:
    """Return a line of cells for each model and number of threads."""
    return [_cells(row, count) for row in rows for count in threads]


def footer(rows: Iterable[Row]) -> list[str]:
    """Return what the columns mean, and what went wrong."""
    return [
        "ms, MB: our compressed artefact; / int8: the median of the best rival that computes with "
        "integers over ours (quartiles of the rounds); / fp32, / any: of the best that computes "
        "with floats, of any precision; shrunk: bytes of the ONNX file over our artefact's",
        "cosine: of our first output to our float32 output; *: random weights or synthetic masks, "
        "of which only the speed means something",
        "ORT: ONNX Runtime, OV: OpenVINO; QDQ, QOp: int8 graphs with quantize nodes or operators; "
        "s7, u8: 7-bit signed or 8-bit unsigned weights, which do not saturate; a8, a32: bits of "
        "activations",
        *(f"{row['id']}: {row['reason']}" for row in rows if row.get("reason")),
    ]


def best_int8(row: Row, threads: int) -> Speed | None:
    """Return the fastest rival that computes with integers, if any was timed."""
    return _best(row, threads, lambda speed: not _is_float(row, speed))


def best_float(row: Row, threads: int) -> Speed | None:
    """Return the fastest rival that computes with floats, if any was timed."""
    return _best(row, threads, lambda speed: _is_float(row, speed))


def best_any(row: Row, threads: int) -> Speed | None:
    """Return the fastest rival, if any was timed."""
    return _best(row, threads, lambda _: True)


def own_float(row: Row, threads: int) -> Speed | None:
    """Return our float artefact, if it was timed."""
    found = _speeds(row, threads)
    return next((s for s in found[1:] if s["engine"] == "tvmopt"), None)


def asked_of(model_id: str) -> Asked:
    """Return what is asked of a model."""
    return next(work.asked for work in WORKS if work.id == model_id)


def _is_float(row: Row, speed: Speed) -> bool:
    """Say whether a rival computes with floats; without a recipe the file itself is quantized."""
    as_it_is = speed["kind"] == "float" and row.get("recipe") is not None
    return as_it_is or speed["kind"] == "twin"


def _best(row: Row, threads: int, wanted: Callable[[Speed], bool]) -> Speed | None:
    rivals = [s for s in _speeds(row, threads) if s["engine"] != "tvmopt" and wanted(s)]
    return min(rivals, key=lambda speed: speed["p50_ms"], default=None)


def _speeds(row: Row, threads: int) -> Sequence[Speed]:
    timings = row.get("timings", ())
    return next((t["speeds"] for t in timings if t["threads"] == threads), ())


def _cells(row: Row, threads: int) -> list[str | Text]:
    name = row["id"] + ("*" if row.get("weights") == "random" else "")
    recipe = row.get("recipe") or "as it is"
    head: list[str | Text] = [f"{name}\n{recipe}", str(threads)]
    asked = asked_of(row["id"])
    goals = {name: goal for name, goal in asdict(asked).items() if goal is not None}
    told = "\n".join(f"{name} {goal:g}" for name, goal in goals.items()) or NONE
    speeds = _speeds(row, threads)
    if not speeds:
        return [*head, *[NONE] * 8, told]
    ours, size = speeds[0], (row.get("size_bytes") or [None])[0]
    cosine = NONE if ours["cosine"] is None else f"{ours['cosine']:.4f}"
    head += [reports.digits(ours["p50_ms"]), NONE if size is None else f"{size / 1e6:.1f}"]
    head += [_shrunk(row.get("onnx_bytes"), size, asked.size), cosine]
    pairs = ((best_int8, asked.int8), (best_float, asked.fp32), (best_any, asked.any))
    for find, goal in pairs:
        rival = find(row, threads)
        head.append(_ratio(rival, goal, rival["title"] if rival else ""))
    return [*head, _ratio(own_float(row, threads), asked.own), told]


def _shrunk(onnx: int | None, size: int | None, asked: float | None) -> str | Text:
    if onnx is None or size is None:
        return NONE
    style = "" if asked is None else ("green" if onnx >= asked * size else "red")
    return Text(f"{onnx / size:.1f}", style=style)


def _ratio(speed: Speed | None, asked: float | None, title: str = "") -> str | Text:
    """Return the ratio, with its rival's title on a second line if there is one."""
    if speed is None:
        return NONE
    ratio = speed["ratio"]
    style = "green" if ratio >= (asked or 1.0) else ("yellow" if ratio >= 1 else "red")
    told = Text(reports.ratio(ratio, speed["q1"], speed["q3"]), style=style)
    return told.append(f"\n{title}", style="default") if title else told
