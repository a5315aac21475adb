"""Walk an ONNX graph and build the Relax function, node by node.

TVM's own importer is one class that owns the walk, the table of converters and the messages. Only
its converters are used here: the walk is ours, so that our converters come first without touching
TVM's table, an error names the node, and each binding is named after the node it came from.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.errors import ModelError, TvmoptError, UnsupportedError
from tvmopt.frontend.converters.node import Converter, Node
from tvmopt.frontend.dtypes import PACKED, dtype_name
from tvmopt.frontend.messages import first_line
from tvmopt.frontend.names import Names, name_bindings

# What may handle integers below a byte, which are held one a byte.
_MOVES = frozenset({"Constant", "Gather", "Identity", "Reshape", "Slice", "Transpose"})

Converters = Mapping[tuple[str, str], Converter]


def import_graph(
    graph: onnx_ir.Graph, opset: int, label: str, converters: Converters
) -> tvm.IRModule:
    """Build the Relax function of a folded ONNX graph with static input shapes.

    Args:
        graph: Checked, inlined and folded; in topological order.
        opset: Version of the default operator set.
        label: The model file, for messages.
        converters: By (domain, operator).

    Returns:
        The module. "main" takes the graph's inputs in order and returns its output, or a tuple of
        its outputs; every binding has a static shape.

    Raises:
        UnsupportedError: A node has a form, or a tensor an element type, that is not compiled.
        ModelError: A tensor that the graph uses is not defined.
    """
    return _Walk(graph, opset, label, converters).run()


class _Walk:
    def __init__(
        self, graph: onnx_ir.Graph, opset: int, label: str, converters: Converters
    ) -> None:
        self.graph = graph
        self.opset = opset
        self.label = label
        self.converters = converters
        self.builder = relax.BlockBuilder()
        self.names = Names()
        self.values: dict[onnx_ir.Value, relax.Expr] = {}
        self.layers: dict[relax.Var, str] = {}
        self.result: relax.Expr | None = None

    def run(self) -> tvm.IRModule:
        params = [self._param(value) for value in self.graph.inputs]
        self.params = set(params)
        with self._function(params):
            for node in self.graph:
                self._convert(node)
            outputs = [self._output(value) for value in self.graph.outputs]
            result = outputs[0] if len(outputs) == 1 else relax.Tuple(outputs)
            self.result = self.builder.emit_output(result)
        mod = name_bindings(self.builder.get(), self.layers, self.names)
        return relax.transform.DeadCodeElimination(["main"])(mod)

    @contextlib.contextmanager
    def _function(self, params: list[relax.Var]) -> Iterator[None]:
        """Open "main" for the walk; if the walk fails, close it without a word on stderr."""
        with self.builder.function("main", params=params):
            try:
                with self.builder.dataflow():
                    yield
            except BaseException:
                # No public call abandons a block, and an open one makes TVM's destructor print.
                self.builder._end_block()
                raise
            self.builder.emit_func_output(self.result)

    def _param(self, value: onnx_ir.Value) -> relax.Var:
        if not isinstance(value.type, onnx_ir.TensorType):
            raise UnsupportedError(
                f"{self.label}: input {value.name!r} must be a dense tensor, got {value.type}"
            )
        dtype = dtype_name(value.dtype, f"{self.label}: input {value.name!r}")
        assert value.shape is not None, "shapes are fixed before the import"
        name = self.names.fresh(str(value.name), "input")
        var = relax.Var(name, relax.TensorType(list(value.shape.numpy()), dtype))
        self.values[value] = var
        return var

    def _value(self, value: onnx_ir.Value | None) -> relax.Expr | None:
        if value is None:
            return None
        if value not in self.values:
            if value.const_value is None:
                raise ModelError(f"{self.label}: tensor {value.name!r} is used but never made")
            self.values[value] = self._constant(value.const_value, str(value.name))
        return self.values[value]

    def _constant(self, tensor: onnx_ir.TensorProtocol, name: str) -> relax.Expr:
        dtype = PACKED.get(tensor.dtype) or dtype_name(
            tensor.dtype, f"{self.label}: tensor {name!r}"
        )
        return relax.const(np.asarray(tensor.numpy()).astype(dtype, copy=False), dtype)

    def _output(self, value: onnx_ir.Value) -> relax.Expr:
        result = self._value(value)
        assert result is not None, "an output has a value"
        return result

    def _convert(self, node: onnx_ir.Node) -> None:
        name = layer_name(node)
        where = f"{self.label}: node {name!r} ({node.op_type})"
        converter = self.converters.get((domain_of(node), node.op_type))
        if converter is None:
            raise UnsupportedError(f"{where} is no operator that tvmopt compiles")
        if node.op_type not in _MOVES:
            for value in node.outputs:
                if value.dtype is not None and value.dtype in PACKED:
                    raise UnsupportedError(
                        f"{where}: only constants may be {value.dtype.name}, got a computed one"
                    )
        inputs = tuple(self._value(value) for value in node.inputs)
        site = Node(
            name=name,
            op_type=node.op_type,
            opset=self.opset,
            attributes=node.attributes,
            inputs=inputs,
            outputs=len(node.outputs),
            builder=self.builder,
        )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # TVM warns of its own fallbacks
                results = self._emit(converter(site), name)
        except TvmoptError as err:
            raise type(err)(f"{where}: {err}") from err
        except Exception as err:
            raise UnsupportedError(f"{where} has an unsupported form: {first_line(err)}") from err
        if len(results) < len(node.outputs):
            raise UnsupportedError(
                f"{where} must have at most {len(results)} outputs, got {len(node.outputs)}"
            )
        self.values.update(zip(node.outputs, results, strict=False))

    def _emit(self, result: relax.Expr | tuple[relax.Expr, ...], name: str) -> list[relax.Expr]:
        """Bind what a converter returned under the node's name, one variable an output."""
        if isinstance(result, tuple | relax.Tuple):
            return [self._bind(field, name) for field in result]
        result = self.builder.normalize(result)
        if isinstance(result.ty, relax.TupleType):
            bound = self._bind_var(result, name)
            fields = range(len(result.ty.fields))
            return [self._bind(relax.TupleGetItem(bound, i), name) for i in fields]
        return [self._bind(result, name)]

    def _bind(self, result: relax.Expr, name: str) -> relax.Expr:
        result = self._tensor(self.builder.normalize(result))
        if not isinstance(result.ty, relax.TensorType):
            raise UnsupportedError(f"its result must be a tensor, got {result.ty}")
        dims = result.ty.shape
        if dims is None or not all(isinstance(d, tvm.tirx.IntImm) for d in dims):
            raise UnsupportedError("the shape of its result must not depend on the data")
        if ir.is_constant(result):
            return result
        return self._bind_var(result, name)

    def _bind_var(self, result: relax.Expr, name: str) -> relax.Expr:
        if not isinstance(result, relax.Var):
            result = self.builder.emit(result)
        if result not in self.params:
            self.layers.setdefault(result, name)
        return result

    @staticmethod
    def _tensor(result: relax.Expr) -> relax.Expr:
        """Return what a converter gave as a shape or a bare number as a constant tensor."""
        if isinstance(result, tvm.tirx.IntImm | tvm.tirx.FloatImm):
            return relax.const(result.value, str(result.ty))
        if isinstance(result, relax.ShapeExpr) and all(
            isinstance(d, tvm.tirx.IntImm) for d in result
        ):
            return relax.const(np.array([int(d) for d in result], "int64"))
        return result


def layer_name(node: onnx_ir.Node) -> str:
    """Return a node's name, else its first output's, else its operator."""
    return node.name or next((o.name for o in node.outputs if o.name), None) or node.op_type


def domain_of(node: onnx_ir.Node) -> str:
    """Return a node's domain; the default one is the empty string."""
    return "" if node.domain == "ai.onnx" else node.domain
