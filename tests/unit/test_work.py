"""How much work a graph is: hand counts of small graphs, and the formula of a transformer's block."""

from __future__ import annotations

from pathlib import Path

import fakes
import numpy as np
import onnx
import pytest
from dualkd.daemon.bundle import BundleError
from dualkd.daemon.work import OperatorWork, Work
from dualkd.export.work import count_work
from onnx import TensorProto, helper, numpy_helper

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
Weights = dict[str, np.ndarray]


def write_graph(
    path: Path,
    nodes: list[onnx.NodeProto],
    shape: list[int | str],
    weights: Weights,
    dtype: int = FLOAT,
) -> Path:
    """A graph from `frame` of this shape to `result`, whose own shape nobody says."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("frame", dtype, shape)],
        [helper.make_tensor_value_info("result", dtype, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def by_operator(work: Work) -> dict[str, OperatorWork]:
    return {each.operator: each for each in work.operators}


def test_a_small_graph_counts_as_by_hand(tmp_path: Path) -> None:
    """Frame (3, 8, 8): a 2 x 2 convolution to 5 planes with bias, ReLU, flat, a product with 7 columns."""
    nodes = [
        helper.make_node("Conv", ["frame", "kernel", "bias"], ["planes"], strides=[2, 2]),
        helper.make_node("Relu", ["planes"], ["bent"]),
        helper.make_node("Flatten", ["bent"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["result"]),
    ]
    weights: Weights = {
        "kernel": np.zeros((5, 3, 2, 2), np.float32),
        "bias": np.zeros(5, np.float32),
        "matrix": np.zeros((80, 7), np.float32),
    }
    work = count_work(write_graph(tmp_path / "g.onnx", nodes, ["batch", 3, 8, 8], weights))
    assert by_operator(work) == {
        "MatMul": OperatorWork(operator="MatMul", nodes=1, flop=2 * 80 * 7, bytes=4 * (80 + 7)),
        "Conv": OperatorWork(operator="Conv", nodes=1, flop=80 * (2 * 12 + 1), bytes=4 * (192 + 80)),
        "Relu": OperatorWork(operator="Relu", nodes=1, flop=80, bytes=4 * 2 * 80),
        "Flatten": OperatorWork(operator="Flatten", nodes=1, flop=0, bytes=0),
    }
    assert work.weight_bytes == 4 * (60 + 5 + 560)
    assert work.frame_bytes == 4 * (192 + 7)
    assert work.flop == 1120 + 2000 + 80
    assert work.activation_bytes == 4 * (87 + 272 + 160)
    assert work.uncounted == []


@pytest.mark.parametrize(("tokens", "width", "heads"), [(257, 384, 6), (789, 384, 6)])
def test_a_block_of_a_vit_is_the_formulas_work(tmp_path: Path, tokens: int, width: int, heads: int) -> None:
    """T tokens of width d: the products of a block are 24 T d^2 + 4 T^2 d FLOP."""
    each = width // heads
    nodes = [
        *(helper.make_node("MatMul", ["frame", f"w_{name}"], [f"{name}_flat"]) for name in "qkv"),
        *(helper.make_node("Reshape", [f"{name}_flat", "split"], [f"{name}_split"]) for name in "qkv"),
        helper.make_node("Transpose", ["q_split"], ["q"], perm=[0, 2, 1, 3]),
        helper.make_node("Transpose", ["k_split"], ["k"], perm=[0, 2, 3, 1]),
        helper.make_node("Transpose", ["v_split"], ["v"], perm=[0, 2, 1, 3]),
        helper.make_node("MatMul", ["q", "k"], ["similar"]),
        helper.make_node("Softmax", ["similar"], ["attention"]),
        helper.make_node("MatMul", ["attention", "v"], ["seen"]),
        helper.make_node("Transpose", ["seen"], ["seen_split"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["seen_split", "join"], ["joined"]),
        helper.make_node("MatMul", ["joined", "w_o"], ["projected"]),
        helper.make_node("MatMul", ["projected", "w_up"], ["wide"]),
        helper.make_node("MatMul", ["wide", "w_down"], ["result"]),
    ]
    weights: Weights = {
        **{f"w_{name}": np.zeros((width, width), np.float32) for name in "qkvo"},
        "w_up": np.zeros((width, 4 * width), np.float32),
        "w_down": np.zeros((4 * width, width), np.float32),
        "split": np.array([0, tokens, heads, each]),
        "join": np.array([0, tokens, width]),
    }
    work = count_work(write_graph(tmp_path / "g.onnx", nodes, ["batch", tokens, width], weights))
    found = by_operator(work)
    assert found["MatMul"].flop == 24 * tokens * width**2 + 4 * tokens**2 * width
    assert found["MatMul"].nodes == 8
    assert found["Softmax"].flop == 5 * heads * tokens**2


def test_half_precision_moves_half_the_bytes(tmp_path: Path) -> None:
    """The same product in float16: the same FLOP, half the bytes of weights, frames and results."""
    node = helper.make_node("MatMul", ["frame", "matrix"], ["result"])
    single, half = (
        count_work(
            write_graph(
                tmp_path / f"{kind}.onnx", [node], ["batch", 16], {"matrix": np.zeros((16, 9), dtype)}, kind
            )
        )
        for kind, dtype in ((FLOAT, np.float32), (HALF, np.float16))
    )
    assert single.flop == half.flop == 2 * 16 * 9
    assert single.weight_bytes == 2 * half.weight_bytes
    assert single.frame_bytes == 2 * half.frame_bytes
    assert single.activation_bytes == 2 * half.activation_bytes


def test_an_unknown_operator_is_named_and_counts_with_its_bytes(tmp_path: Path) -> None:
    """No FLOP are made up for an operator that is not in the table."""
    nodes = [
        helper.make_node("CumSum", ["frame", "axis"], ["sums"]),
        helper.make_node("Sqrt", ["sums"], ["result"]),
    ]
    work = count_work(write_graph(tmp_path / "g.onnx", nodes, ["batch", 10], {"axis": np.array(1)}))
    assert work.uncounted == ["CumSum"]
    assert by_operator(work)["CumSum"].bytes == 4 * 20
    assert work.flop == 10


def test_what_no_frame_changes_is_not_counted(tmp_path: Path) -> None:
    """A runtime computes the transposed weight once, when it loads the graph."""
    nodes = [
        helper.make_node("Transpose", ["matrix"], ["turned"]),
        helper.make_node("MatMul", ["frame", "turned"], ["result"]),
    ]
    weights: Weights = {"matrix": np.zeros((30, 20), np.float32)}
    work = count_work(write_graph(tmp_path / "g.onnx", nodes, ["batch", 20], weights))
    assert work.operators == [OperatorWork(operator="MatMul", nodes=1, flop=2 * 20 * 30, bytes=4 * (20 + 30))]
    assert work.weight_bytes == 4 * 600


def test_shapes_made_from_the_batch_are_followed(tmp_path: Path) -> None:
    """Whole numbers computed from the frame's own shape are no FLOP, and lead to the shapes behind them."""
    nodes = [
        helper.make_node("Shape", ["frame"], ["shape"]),
        helper.make_node("Mul", ["shape", "double"], ["wider"]),
        helper.make_node("Expand", ["frame", "wider"], ["wide"]),
        helper.make_node("Sqrt", ["wide"], ["result"]),
    ]
    work = count_work(write_graph(tmp_path / "g.onnx", nodes, ["batch", 1], {"double": np.array([1, 6])}))
    assert by_operator(work)["Mul"].flop == 0
    assert work.flop == 6


def test_a_shape_that_depends_on_the_picture_is_refused(tmp_path: Path) -> None:
    """NonZero finds as many places as there are: the error names the node's operator and what to do."""
    nodes = [
        helper.make_node("NonZero", ["frame"], ["places"], name="find"),
        helper.make_node("Cast", ["places"], ["result"], to=FLOAT),
    ]
    path = write_graph(tmp_path / "g.onnx", nodes, ["batch", 8], {})
    with pytest.raises(
        BundleError, match=r"node find \(NonZero\): the shape of places .* export with shapes"
    ):
        count_work(path)


def test_a_graph_of_a_bundle_is_counted_whatever_its_batch(tmp_path: Path) -> None:
    """The count is a frame's, though the graph takes any batch: its picture, two distances and a map."""
    path = tmp_path / "g.onnx"
    onnx.save(fakes.brightness_model(), path)
    work = count_work(path)
    cells = (fakes.SIDE // fakes.CELL) ** 2
    assert work.frame_bytes == 3 * fakes.SIDE**2 + 4 * (2 + cells)
    assert work.uncounted == []
    assert by_operator(work)["AveragePool"].flop == fakes.SIDE**2
