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
from dualkd.train.detector import Detector
from dualkd.train.model import LinearAttention
from timm.layers.attention import Attention
from torch import Tensor, nn

OPSET = 18  # LayerNormalization is one operator from 17 on


def write_onnx(
    detector: Detector,
    path: Path,
    *,
    size: tuple[int, int],
    max_batch: int,
    precision: Precision,
    attention: Precision = "fp16",
) -> None:
    """Export `detector` (in evaluation mode, on the CPU) for frames of `size` (height, width) in pixels.

    fp16 halves the three networks module by module and leaves pixels, reductions, distances and maps in
    float32, so the precision is written into the graph and no builder flag can change it. `attention` fp32 leaves the
    attention in float32 too: slower, since the GPU's fused kernel for it is lost.
    """
    if precision == "fp16":
        detector = copy.deepcopy(detector)
        for network in (detector.teacher, detector.local, detector.semantic):
            if network is not None:
                network.half()
                if attention == "fp32":
                    _keep_attention_float(network)
    example = torch.zeros(min(2, max_batch), *size, 3, dtype=torch.uint8)
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
    _reduce_in_float(model.graph)
    onnx.save(model, path)


def _keep_attention_float(network: nn.Module) -> None:
    """Let every attention, its projections included, take and give halves but compute in float32."""
    for module in network.modules():
        if isinstance(module, (Attention, LinearAttention)):
            module.float()
            module.register_forward_pre_hook(_to_float)
            module.register_forward_hook(_to_half)


def _to_float(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.float() for tensor in inputs)


def _to_half(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output.half()


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


def _reduce_in_float(graph: onnx.GraphProto) -> None:
    """Let sums and norms of halves be computed in float32: what is added up may pass what half precision holds."""
    halves = {
        value.name
        for value in graph.value_info
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    }
    nodes = []
    for node in graph.node:
        if not (node.op_type.startswith("Reduce") and node.output[0] in halves):
            nodes.append(node)
            continue
        name = node.output[0]
        widened, reduced = f"{name}_widened", f"{name}_reduced"
        widen = onnx.helper.make_node("Cast", [node.input[0]], [widened], to=onnx.TensorProto.FLOAT)
        node.input[0], node.output[0] = widened, reduced
        narrow = onnx.helper.make_node("Cast", [reduced], [name], to=onnx.TensorProto.FLOAT16)
        narrow.metadata_props.extend(node.metadata_props)
        nodes.extend([widen, node, narrow])
    del graph.node[:]
    graph.node.extend(nodes)
