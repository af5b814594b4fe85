"""A graph in half precision is refused if half precision cannot hold it, though ONNX Runtime's CPU computes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from dualkd.export.fp16_range import RangeError, check_range
from onnx import TensorProto, helper, numpy_helper

FRAMES = np.full((2, 4, 4, 3), 200, np.uint8)
FRAMES[0] = 10  # only the second frame is bright


def write(path: Path, nodes: Sequence[onnx.NodeProto], **weights: object) -> Path:
    """A graph that halves its frame to `x`, runs `nodes`, and gives `y` in float32."""
    half = helper.make_node("Cast", ["frame"], ["x"], to=TensorProto.FLOAT16)
    back = helper.make_node("Cast", ["half"], ["y"], to=TensorProto.FLOAT)
    named = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(
        [half, *nodes, back],
        "graph",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, ["batch", 4, 4, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        named,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def scaled(factor: float, name: str = "half") -> list[onnx.NodeProto]:
    """x * factor, noted as the exporter notes where a node comes from."""
    value = numpy_helper.from_array(np.float16(factor), "value")
    node = helper.make_node("Constant", [], ["factor"], value=value)
    product = helper.make_node("Mul", ["x", "factor"], [name])
    entry = product.metadata_props.add()
    entry.key, entry.value = "namespace", ": Detector/local.blocks.1.mlp: timm.Mlp/mul: aten.mul.Tensor"
    return [node, product]


def test_the_largest_number_is_told_with_its_place(tmp_path: Path) -> None:
    """Over all frames: which tensor, operator and part of the model."""
    peak = check_range(write(tmp_path / "graph.onnx", scaled(100)), FRAMES)
    assert (peak.tensor, peak.operator, peak.module) == ("half", "Mul", "local.blocks.1.mlp")
    assert peak.value == 20_000


def test_a_tensor_that_overflows_is_named(tmp_path: Path) -> None:
    """Though what comes out at the end is small again."""
    down = helper.make_node("Mul", ["large", "small"], ["half"])
    graph = write(tmp_path / "graph.onnx", [*scaled(1000, "large"), down], small=np.float16(1e-3))
    with pytest.raises(
        RangeError, match=r"2e\+05 in large \(Mul, local\.blocks\.1\.mlp\)\. Try --attention fp32"
    ):
        check_range(graph, FRAMES)


def test_not_a_number_is_beyond_the_range(tmp_path: Path) -> None:
    """0 / 0 compares with nothing; it is refused."""
    nodes = [
        helper.make_node("Sub", ["x", "x"], ["zero"]),
        helper.make_node("Div", ["zero", "zero"], ["half"]),
    ]
    with pytest.raises(RangeError, match=r"inf in half \(Div"):
        check_range(write(tmp_path / "graph.onnx", nodes), FRAMES)


def test_a_weight_that_became_infinite_is_named(tmp_path: Path) -> None:
    """Halving the module makes it so, without a word."""
    node = helper.make_node("Mul", ["x", "huge"], ["half"])
    graph = write(tmp_path / "graph.onnx", [node], huge=np.float16(np.inf))
    with pytest.raises(RangeError, match="the weight huge is too large"):
        check_range(graph, FRAMES)
