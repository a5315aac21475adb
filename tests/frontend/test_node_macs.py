"""Mirror of tvmopt/frontend/node_macs.py."""

from __future__ import annotations

import onnx_ir
import pytest

from tvmopt.frontend.node_macs import node_macs


def value(*shape: int | str) -> onnx_ir.Value:
    return onnx_ir.Value(shape=onnx_ir.Shape(shape))


def node(
    op_type: str,
    inputs: list[tuple[int | str, ...]],
    output: tuple[int | str, ...],
    **attributes: int,
) -> onnx_ir.Node:
    given = [onnx_ir.AttrInt64(name, number) for name, number in attributes.items()]
    return onnx_ir.Node(
        "", op_type, [value(*shape) for shape in inputs], given, outputs=[value(*output)]
    )


@pytest.mark.parametrize(
    ("counted", "macs"),
    [
        (node("Conv", [(1, 6, 8, 8), (4, 3, 3, 3)], (1, 4, 8, 8), group=2), 4 * 64 * 27),
        (node("ConvTranspose", [(1, 6, 4, 4), (6, 2, 3, 3)], (1, 2, 9, 9)), 96 * 18),
        (node("QLinearConv", [(1, 3, 8, 8), (), (), (4, 3, 1, 1)], (1, 4, 8, 8)), 4 * 64 * 3),
        (node("MatMul", [(2, 5, 7), (7, 3)], (2, 5, 3)), 2 * 5 * 3 * 7),
        (node("Gemm", [(7, 5), (7, 3)], (5, 3), transA=1), 5 * 3 * 7),
        (node("LSTM", [(9, 2, 4), (1, 24, 4), (1, 24, 6)], (9, 1, 2, 6)), 9 * 2 * 4 * 6 * (4 + 6)),
        (node("Relu", [(2, 3)], (2, 3)), 0),
        (node("MatMul", [("n", 7), (7, 3)], ("n", 3)), None),
    ],
    ids=lambda item: item.op_type if isinstance(item, onnx_ir.Node) else None,
)
def test_macs_of_a_node(counted: onnx_ir.Node, macs: int | None) -> None:
    assert node_macs(counted) == macs
