"""How much work an ONNX graph is for one frame: FLOP and bytes, by operator.

Knows shapes and what the operators of our graphs cost. Does not know how fast any machine is.

The rules, our own where no convention is settled: a multiply-add is 2 FLOP; an elementwise operator is 1 an
element of its result, whatever the hardware needs for an Erf or a Sqrt, a reduction 1 an element that it reads;
Softmax is 5 an element (maximum, difference, exponential, sum, quotient), LayerNormalization 7 (mean,
difference, square, mean, quotient, scale, bias). Moving, sorting and whole numbers are none. An operator that is
not listed here has FLOP None and counts with its bytes alone. What depends on no frame is computed once, when a
runtime loads the graph, and is not counted.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from dualkd.daemon.bundle import BundleError
from dualkd.daemon.work import OperatorWork, Work

SHAPE_ELEMENTS = 64  # of larger constants shape inference needs the type alone

VIEWS = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Shape"}  # the bytes stay where they are
PICKS = {"Slice", "Gather", "Expand"}  # read as much as they write
MOVES = {*VIEWS, *PICKS, "Cast", "Concat", "Pad", "Split", "TopK", "Transpose"}
ELEMENTWISE = {
    *(
        "Abs",
        "Add",
        "Clip",
        "Div",
        "Elu",
        "Erf",
        "Exp",
        "Log",
        "Max",
        "Min",
        "Mul",
        "Neg",
        "Pow",
        "Reciprocal",
    ),
    *("Relu", "Sigmoid", "Sqrt", "Sub", "Tanh", "Where"),
}
FLOP_OF_RESULT = {
    **dict.fromkeys(MOVES, 0),
    **dict.fromkeys(ELEMENTWISE, 1),
    "Softmax": 5,
    "LayerNormalization": 7,
}
FLOP_OF_INPUT = {"ReduceL2": 2, "ReduceMax": 1, "ReduceMean": 1, "ReduceMin": 1, "ReduceSum": 1}


class _Tensor(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.elements * self.dtype.itemsize


def count_work(path: Path) -> Work:
    """Count the work of a graph whose shapes are static but for the batch, at a batch of one.

    Raises BundleError if a shape cannot be told from the graph.
    """
    model = onnx.load(path)
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    tensors = _tensors(model, path)
    found: dict[str, list[OperatorWork]] = defaultdict(list)
    for node in graph.node:
        inputs, results = [name for name in node.input if name], [name for name in node.output if name]
        if constants.issuperset(inputs):
            constants.update(results)
            continue
        unknown = next((name for name in (*inputs, *results) if name not in tensors), None)
        if unknown is not None:
            raise BundleError(
                f"{path}: node {node.name} ({node.op_type}): the shape of {unknown} cannot be told, so the work "
                "of the graph cannot be counted; export with shapes that depend on nothing but the batch"
            )
        read = [tensors[name] for name in inputs if name not in constants]
        written = [tensors[name] for name in results]
        operator = f"{node.domain}.{node.op_type}" if node.domain else str(node.op_type)
        flop = _flop(operator, node, [tensors[name] for name in inputs], written[0])
        work = OperatorWork(operator=operator, nodes=1, flop=flop, bytes=_bytes(operator, read, written))
        found[operator].append(work)
    operators = [_sum(works) for works in found.values()]
    return Work(
        weight_bytes=sum(tensors[tensor.name].bytes for tensor in graph.initializer),
        frame_bytes=sum(tensors[end.name].bytes for end in (*graph.input, *graph.output)),
        operators=sorted(operators, key=lambda work: (-(work.flop or 0), -work.bytes)),
    )


def _tensors(model: onnx.ModelProto, path: Path) -> dict[str, _Tensor]:
    """Return the tensors whose shape is known at a batch of one, by name.

    Large constants stand in as inputs, so that shape inference does not copy them.
    """
    graph = onnx.GraphProto(name=model.graph.name, node=model.graph.node)
    for end in model.graph.input:
        graph.input.append(end)
        graph.input[-1].type.tensor_type.shape.dim[0].dim_value = 1
    for end in model.graph.output:
        graph.output.add(name=end.name).type.tensor_type.elem_type = end.type.tensor_type.elem_type
    for constant in model.graph.initializer:
        if math.prod(constant.dims) > SHAPE_ELEMENTS:
            stand_in = onnx.helper.make_tensor_value_info(constant.name, constant.data_type, constant.dims)
            graph.input.append(stand_in)
        else:
            graph.initializer.append(constant)
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, graph=graph)
    try:
        inferred = onnx.shape_inference.infer_shapes(light, strict_mode=True, data_prop=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise BundleError(f"{path}: its shapes do not fit together: {error}") from error
    tensors = {each.name: _Tensor(tuple(each.dims), _dtype(each.data_type)) for each in graph.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
            shape = tuple(dim.dim_value for dim in kind.shape.dim)
            tensors[value.name] = _Tensor(shape, _dtype(kind.elem_type))
    return tensors


def _dtype(element: int) -> np.dtype[Any]:
    dtype: np.dtype[Any] = onnx.helper.tensor_dtype_to_np_dtype(element)
    return dtype


def _flop(operator: str, node: onnx.NodeProto, inputs: Sequence[_Tensor], result: _Tensor) -> int | None:
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    if operator in FLOP_OF_RESULT:
        flop = FLOP_OF_RESULT[operator] * result.elements
    elif operator in FLOP_OF_INPUT:
        flop = FLOP_OF_INPUT[operator] * inputs[0].elements
    elif operator == "MatMul":
        flop = 2 * inputs[0].shape[-1] * result.elements
    elif operator in ("Conv", "Gemm"):
        kernel = math.prod(inputs[1].shape[1:])
        depth = kernel if operator == "Conv" else inputs[0].shape[0 if attributes.get("transA") else 1]
        flop = (2 * depth + (len(inputs) > 2)) * result.elements  # a third input is the bias
    elif operator == "AveragePool":
        flop = math.prod(attributes["kernel_shape"]) * result.elements
    else:
        return None
    return 0 if result.dtype.kind in "biu" else flop


def _bytes(operator: str, read: Sequence[_Tensor], written: Sequence[_Tensor]) -> int:
    """Through memory if every operator reads and writes there; weights are counted apart."""
    if operator in VIEWS:
        return 0
    results = sum(tensor.bytes for tensor in written)
    return results + (results if operator in PICKS else sum(tensor.bytes for tensor in read))


def _sum(works: Sequence[OperatorWork]) -> OperatorWork:
    flops = [work.flop for work in works if work.flop is not None]
    return OperatorWork(
        operator=works[0].operator,
        nodes=len(works),
        flop=sum(flops) if flops else None,
        bytes=sum(work.bytes for work in works),
    )
