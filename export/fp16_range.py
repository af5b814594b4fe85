"""Whether half precision can hold what a mixed FP16 graph computes, asked of real frames.

ONNX Runtime's CPU computes halves in float32, so that an overflow which a GPU would turn into infinity passes
unseen there. Here the same graph, rounded weights and all, is run in float32 with the largest magnitude of every
half-precision tensor as an output. What an operator adds up on the way is not seen: reductions and products are
added up in float32 in our graphs (onnx_graph.py), and Conv, Softmax and attention's two products are taken to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper, shape_inference

HALF_MAX = 65504.0
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


class RangeError(Exception):
    """A tensor that half precision cannot hold: which, of which part of the model, how large, and what to try."""


@dataclass(frozen=True, slots=True)
class Peak:
    """The largest magnitude that a tensor had on any frame."""

    tensor: str
    operator: str
    module: str  # of the trained model, as torch names it
    value: float

    def __str__(self) -> str:
        return f"{self.value:.4g} in {self.tensor} ({self.operator}, {self.module or 'outside the networks'})"


def check_range(graph: Path, frames: npt.NDArray[np.uint8]) -> Peak:
    """Return the largest peak of the FP16 graph over frames (M, H, W, 3).

    Raises RangeError if half precision cannot hold a tensor or a weight.
    """
    model = shape_inference.infer_shapes(onnx.load(graph), data_prop=True)
    _check_weights(model.graph)
    halves = _half_tensors(model.graph)
    _to_float(model.graph)
    probes = [_probe(model.graph, name) for _, name in halves]
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(probe, FLOAT, []) for probe in probes)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    runs = [np.array(session.run(probes, {"frame": frame[None]})) for frame in frames]
    worst = np.nan_to_num(np.max(runs, axis=0), nan=np.inf)
    peaks = [
        Peak(name, node.op_type, _module(node), float(value))
        for (node, name), value in zip(halves, worst, strict=True)
    ]
    _refuse(peaks)
    return max(peaks, key=lambda peak: peak.value)


def _refuse(peaks: Sequence[Peak]) -> None:
    beyond = [peak for peak in peaks if peak.value > HALF_MAX]
    if beyond:
        more = f", and in {len(beyond) - 1} more tensors after it" if len(beyond) > 1 else ""
        raise RangeError(
            f"half precision holds no more than {HALF_MAX:.0f}, but there is {beyond[0]}{more}. Try "
            "--attention fp32 if that is attention; else use the FP32 graph, without --fp16"
        )


def _check_weights(graph: onnx.GraphProto) -> None:
    for item in graph.initializer:
        if item.data_type == HALF and not np.isfinite(numpy_helper.to_array(item)).all():
            raise RangeError(
                f"the weight {item.name} is too large for half precision; use the FP32 graph, without --fp16"
            )


def _half_tensors(graph: onnx.GraphProto) -> list[tuple[onnx.NodeProto, str]]:
    """Every half-precision tensor that a node computes, in the order of computation."""
    known = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    computed = [(node, name) for node in graph.node for name in node.output if name]
    untyped = [name for _, name in computed if not known.get(name)]
    if untyped:
        raise RangeError(f"the type of {untyped[0]} is not known; try another version of onnx")
    return [(node, name) for node, name in computed if known[name] == HALF]


def _to_float(graph: onnx.GraphProto) -> None:
    """Make every half-precision weight, constant and cast of the graph float32; values stay as rounded."""
    for item in graph.initializer:
        _widen(item)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                _widen(attribute.t)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == HALF:
                attribute.i = FLOAT
    del graph.value_info[:]


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == HALF:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _probe(graph: onnx.GraphProto, name: str) -> str:
    """Add nodes that compute the peak of a tensor; return the name of that scalar."""
    magnitude, probe = f"{name}::magnitude", f"{name}::peak"
    graph.node.append(helper.make_node("Abs", [name], [magnitude]))
    graph.node.append(helper.make_node("ReduceMax", [magnitude], [probe], keepdims=0))
    return probe


def _module(node: onnx.NodeProto) -> str:
    """Where in the trained model a node comes from, as the exporter noted it: teacher.network.blocks.3.mlp."""
    notes = {entry.key: entry.value for entry in node.metadata_props}
    scopes = [part.split(":")[0].strip() for part in notes.get("namespace", "").split("/")]
    named = [scope for scope in scopes[:-1] if scope]
    return named[-1] if named else ""
