"""The trained detector as one ONNX graph: frame in, distances and anomaly map out.

Shapes are static but for the batch. Normalisation, colour order and scoring are inside; thresholds are not.
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import onnx
import torch
from dualkd.daemon.bundle import Precision
from dualkd.export.half_precision import halve
from dualkd.train.detector import Detector
from torch import Tensor

OPSET = 18  # LayerNormalization is one operator from 17 on
HALF, FLOAT = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
PRODUCTS = ("MatMul", "Gemm")


def write_onnx(
    detector: Detector,
    path: Path,
    *,
    size: tuple[int, int],
    max_batch: int,
    precision: Precision,
    attention: Precision = "fp16",
    frames: Tensor | None = None,
) -> None:
    """Export `detector` (in evaluation mode, on the CPU) for frames of `size` (height, width) in pixels.

    fp16 halves the products of the three networks and leaves all else in float32, so the precision is written into
    the graph and no builder flag can change it; `frames`, a few good ones (M, H, W, 3), are what its rounding is made
    good for (None: black ones). `attention` fp32 leaves the attention in float32 too: slower, since the GPU's fused
    kernel for it is lost.
    """
    example = torch.zeros(min(2, max_batch), *size, 3, dtype=torch.uint8)
    if precision == "fp16":
        detector = copy.deepcopy(detector)
        halve(detector, example if frames is None else frames, attention)
    dynamic = ({0: torch.export.Dim("batch", min=1, max=max_batch)},) if max_batch > 1 else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        program = torch.onnx.export(
            detector,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["frame"],
            output_names=detector.output_names,
            dynamic_shapes=dynamic,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    program.save(str(path), external_data=False)
    model = onnx.load(path)
    _cast_first(model.graph)
    _add_up_in_float(model.graph)
    onnx.save(model, path)


def _cast_first(graph: onnx.GraphProto) -> None:
    """Let the Cast be the only node that reads the uint8 frame: TensorRT refuses any other.

    The exporter takes the batch size from the frame's Shape; the cast frame has the same.
    """
    nodes = list(graph.node)
    first = next(i for i, node in enumerate(nodes) if node.op_type == "Cast" and "frame" in node.input)
    cast = nodes.pop(first)
    for node in nodes:
        node.input[:] = [cast.output[0] if name == "frame" else name for name in node.input]
    del graph.node[:]
    graph.node.extend([cast, *nodes])


def _add_up_in_float(graph: onnx.GraphProto) -> None:
    """Let what is added up of halves be added up in float32, and then rounded to halves.

    Sums and norms may pass what half precision holds. A product of matrices TensorRT would otherwise add up in
    whatever is fastest on the GPU, half precision on many. Between Casts, those of what it takes and that of what it
    gives, TensorRT knows it as one of halves with float32 sums; without the last it keeps the weights in float32
    and multiplies those. Softmax and the two products beside it are left alone: they are the pattern of its fused
    attention.
    """
    halves = {value.name for value in graph.value_info if value.type.tensor_type.elem_type == HALF}
    softmaxes = [node for node in graph.node if node.op_type == "Softmax"]
    beside = {name for node in softmaxes for name in (*node.input, *node.output)}
    nodes = []
    for node in graph.node:
        name, reduces = node.output[0], node.op_type.startswith("Reduce")
        attends = not beside.isdisjoint([*node.input, *node.output])
        if name not in halves or not (reduces or (node.op_type in PRODUCTS and not attends)):
            nodes.append(node)
            continue
        for index, source in enumerate(node.input[: 1 if reduces else None]):
            node.input[index] = f"{name}_widened_{index}"
            nodes.append(onnx.helper.make_node("Cast", [source], [node.input[index]], to=FLOAT))
        node.output[0] = f"{name}_in_float"
        narrow = onnx.helper.make_node("Cast", [node.output[0]], [name], to=HALF)
        narrow.metadata_props.extend(node.metadata_props)
        nodes.extend([node, narrow])
    del graph.node[:]
    graph.node.extend(nodes)
