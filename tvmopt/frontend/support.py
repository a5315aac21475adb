"""Say which operators of a graph the compiler lacks, all at once."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir

from tvmopt.errors import UnsupportedError
from tvmopt.frontend.importer import domain_of, layer_name

MOST_NODES = 3  # nodes named for each operator

_DATA = "its output shape depends on the data"
_FLOW = "only an If whose condition is constant is compiled"
_REASONS = {
    "Compress": _DATA,
    "If": _FLOW,
    "Loop": "loops are not compiled",
    "NonMaxSuppression": _DATA,
    "NonZero": _DATA,
    "Scan": "loops are not compiled",
    "Unique": _DATA,
}


def unsupported(
    graph: onnx_ir.Graph, known: Collection[tuple[str, str]]
) -> dict[tuple[str, str], list[str]]:
    """Return the operators of ``graph`` and its subgraphs that ``known`` lacks.

    Returns:
        (domain, operator) to the names of its nodes, both in the order they occur.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for node in graph.all_nodes():
        key = (domain_of(node), node.op_type)
        if key not in known and key != ("", "Constant"):
            found.setdefault(key, []).append(layer_name(node))
    return found


def refuse_unsupported(
    graph: onnx_ir.Graph, known: Collection[tuple[str, str]], label: str
) -> None:
    """Raise one error that names every operator of ``graph`` that ``known`` lacks.

    Raises:
        UnsupportedError: There is one.
    """
    missing = unsupported(graph, known)
    if missing:
        listed = "; ".join(_described(*key, names) for key, names in missing.items())
        raise UnsupportedError(f"{label}: every operator must be supported, got {listed}")


def _described(domain: str, op_type: str, names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:MOST_NODES])
    more = f" and {len(names) - MOST_NODES} more" if len(names) > MOST_NODES else ""
    plural = "s" if len(names) > 1 else ""
    reason = f": {_REASONS[op_type]}" if not domain and op_type in _REASONS else ""
    full = f"{domain}.{op_type}" if domain else op_type
    return f"{full} (node{plural} {shown}{more}){reason}"
