"""Export as a command: whole bundles or none, and a gate that refuses."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import msgspec
import numpy as np
import onnx
import pytest
import timm
import torch
from compiling import Case, random_detector
from dualkd.daemon.bundle import load_bundle, write_manifest
from dualkd.daemon.calibrate import main as calibrate_main
from dualkd.daemon.engine import RawPrediction
from dualkd.daemon.engine_onnx import OnnxEngine
from dualkd.export.__main__ import main
from dualkd.export.fp16_range import RangeError, check_range
from dualkd.export.half_precision import HalfLinear, halve
from dualkd.export.onnx_graph import write_onnx
from dualkd.export.parity import FP16, FP32, ParityError, compare
from dualkd.train.__main__ import main as train_main
from dualkd.train.checkpoint import load_detector, read_run
from dualkd.train.detector import infer
from safetensors.torch import save_file
from torch import nn

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def test_the_bundle_says_what_the_trained_model_says(small_run: Path, small_bundle: Path) -> None:
    """On frames it has never seen, one at a time and eight at once."""
    detector, _ = load_detector(small_run)
    frames = np.random.default_rng(5).integers(0, 256, (8, 56, 84, 3), dtype=np.uint8)
    expected = infer(detector, torch.from_numpy(frames))
    with OnnxEngine.of(load_bundle(small_bundle)) as engine:
        together = engine.infer(frames)
        alone = RawPrediction.join([engine.infer(frame[None]) for frame in frames])
    for got in (together, alone):
        for name, values in expected.items():
            np.testing.assert_allclose(getattr(got, name), values.numpy(), atol=1e-4)


def test_the_manifest_names_its_origin_and_its_sums(small_run: Path, small_bundle: Path) -> None:
    """Teacher, calibration, parity, versions and the command that made it."""
    manifest = load_bundle(small_bundle).manifest
    run = read_run(small_run)
    assert manifest.name == "rings"
    assert manifest.calibration == run.calibration
    assert manifest.teacher.sha256 == run.teacher.sha256
    assert manifest.map_size == (4, 6)
    assert manifest.parity.verdict_flips == 0
    assert manifest.parity.max_difference_local is not None
    assert manifest.parity.max_difference_local <= 1e-4
    assert manifest.command.startswith("dualkd-export ")
    for graph in manifest.graphs:
        assert graph.sha256 == hashlib.sha256((small_bundle / graph.file).read_bytes()).hexdigest()


def types_of(graph: onnx.GraphProto) -> dict[str, int]:
    """Of every tensor, its element type."""
    types = {each.name: each.data_type for each in graph.initializer}
    values = (*graph.value_info, *graph.input, *graph.output)
    return types | {value.name: value.type.tensor_type.elem_type for value in values}


@pytest.fixture(scope="module", params=["trained", "prototypes and code", "snl"])
def half_graph(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, small_bundle: Path
) -> onnx.GraphProto:
    """The FP16 graph of a trained bundle, of the default model and of SNL; the last two are two blocks deep."""
    path = small_bundle / "model.fp16.onnx"
    if request.param != "trained":
        method = "snl" if request.param == "snl" else "dual"
        case = Case(method, "both", "vit_small_patch14_dinov2", 112, 2)
        path = tmp_path_factory.mktemp("half") / "model.onnx"
        detector = random_detector(case, local_blocks=[0, 1], semantic_blocks=[1])
        write_onnx(detector, path, size=(112, 112), max_batch=2, precision="fp16")
    return onnx.shape_inference.infer_shapes(onnx.load(path)).graph


def test_the_fp16_graph_is_half_in_its_work_and_float_at_its_ends(half_graph: onnx.GraphProto) -> None:
    """uint8 in and cast before anything else; weights are halves; float32 sums, norms, distances and maps."""
    types = types_of(half_graph)
    ends = [types[value.name] for value in (*half_graph.input, *half_graph.output)]
    assert ends == [onnx.TensorProto.UINT8] + [FLOAT] * 3
    assert [node.op_type for node in half_graph.node if "frame" in node.input] == ["Cast"]
    weights = {
        name
        for node in half_graph.node
        if node.op_type in ("MatMul", "Gemm", "Cast", "Conv")
        for name in node.input
    }
    bytes_by_type = {HALF: 0, FLOAT: 0}
    for item in half_graph.initializer:
        if item.name in weights and item.data_type in bytes_by_type:
            bytes_by_type[item.data_type] += len(item.raw_data)
    assert bytes_by_type[HALF] > bytes_by_type[FLOAT]
    assert {"LayerNormalization", "Softmax"} <= {node.op_type for node in half_graph.node}
    for node in half_graph.node:
        if node.op_type.startswith(("LayerNorm", "Reduce", "TopK")):
            assert types[node.output[0]] == FLOAT, node.name


def test_products_of_halves_are_added_up_in_float(half_graph: onnx.GraphProto) -> None:
    """Between Casts on every side, which TensorRT takes for a product of halves with float32 sums."""
    types, made_by = types_of(half_graph), {name: node for node in half_graph.node for name in node.output}
    attend = between = 0
    for node in half_graph.node:
        if node.op_type not in ("MatMul", "Gemm"):
            continue
        before = [made_by[name] for name in node.input if name in made_by]
        after = [taker for taker in half_graph.node if node.output[0] in taker.input]
        if types.get(node.output[0]) == HALF:
            assert "Softmax" in [each.op_type for each in (*before, *after)], node.name
            attend += 1
        elif len(before) == len(node.input) and all(
            each.op_type == "Cast" and types[each.input[0]] == HALF for each in before
        ):
            assert [(each.op_type, types[each.output[0]]) for each in after] == [("Cast", HALF)], node.name
            between += 1
    softmaxes = [
        node for node in half_graph.node if node.op_type == "Softmax" and types[node.output[0]] == HALF
    ]
    assert attend == 2 * len(softmaxes)
    assert between > attend


def test_attention_is_all_half_with_scaled_queries_and_keys(half_graph: onnx.GraphProto) -> None:
    """The pattern that TensorRT fuses: (Q s) (K s) -> Softmax -> V, every tensor of it in half precision."""
    types, made_by = types_of(half_graph), {name: node for node in half_graph.node for name in node.output}
    softmaxes = [
        node for node in half_graph.node if node.op_type == "Softmax" and types[node.output[0]] == HALF
    ]
    assert len(softmaxes) >= 3  # of every block of the teacher that is read, and of the student
    for softmax in softmaxes:
        scores = made_by[softmax.input[0]]
        (weighted,) = [node for node in half_graph.node if softmax.output[0] in node.input]
        assert scores.op_type == weighted.op_type == "MatMul"
        assert [made_by[name].op_type for name in scores.input] == ["Mul", "Mul"]
        around = [*scores.input, *scores.output, *softmax.output, *weighted.input, *weighted.output]
        assert {types[name] for name in around} == {HALF}


def test_a_rounded_weight_that_moves_every_token_alike_is_made_good(small_run: Path) -> None:
    """What rounded weights do to all tokens of good frames is taken back in the bias; export measures these."""
    detector, _ = load_detector(small_run)
    frames = torch.randint(0, 256, (4, 56, 84, 3), dtype=torch.uint8)
    torch.manual_seed(0)
    linear = detector.teacher.network.blocks[0].mlp.fc2
    inputs = torch.rand(200, linear.in_features) + 3.0  # much alike
    half = HalfLinear(linear, inputs.mean(0))
    exact = linear(inputs.half().float())
    rounded = nn.functional.linear(inputs.half().float(), linear.weight.half().float(), linear.bias)
    left = (half(inputs) - exact).mean(0).abs().mean()
    assert left < 0.2 * (rounded - exact).mean(0).abs().mean()
    halve(detector, frames, "fp16")
    assert isinstance(detector.teacher.network.blocks[0].mlp.fc2, HalfLinear)


def test_attention_in_float_is_a_choice(small_run: Path, tmp_path: Path) -> None:
    """--attention fp32: no Softmax in half precision, the rest as before, and it passes the gate."""
    bundle = tmp_path / "bundle"
    command = [str(small_run), "--out", str(bundle), "--fp16", "--onnx-only", "--attention", "fp32"]
    assert main(command) == 0
    graph = onnx.shape_inference.infer_shapes(onnx.load(bundle / "model.fp16.onnx")).graph
    types = types_of(graph)
    assert {types[node.output[0]] for node in graph.node if node.op_type == "Softmax"} == {FLOAT}
    assert HALF in [item.data_type for item in graph.initializer]
    assert load_bundle(bundle).manifest.command.endswith("--fp16 --onnx-only --attention fp32")


def test_what_half_precision_cannot_hold_is_refused_by_its_place_in_the_model(
    small_run: Path, tmp_path: Path
) -> None:
    """Activations of the trained model that a GPU would turn into infinity, though the CPU computes them."""
    detector, _ = load_detector(small_run)
    frames = np.random.default_rng(5).integers(0, 256, (1, 56, 84, 3), dtype=np.uint8)
    path = tmp_path / "model.fp16.onnx"
    write_onnx(detector, path, size=(56, 84), max_batch=1, precision="fp16")
    assert check_range(path, frames).value < 5000
    assert detector.local is not None
    with torch.no_grad():
        detector.local.blocks[0].mlp.fc1.weight.mul_(2e5)
    write_onnx(detector, path, size=(56, 84), max_batch=1, precision="fp16")
    with pytest.raises(RangeError, match=r"there is .* in .* \(\w+, local\.blocks\.0\.mlp"):
        check_range(path, frames)


def test_a_bundle_is_compared_with_its_fp32_graph_at_any_time(
    small_bundle: Path, good_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--verify DIR: figures if it passes; an FP16 graph that computes something else is refused by name."""
    assert main([str(small_bundle), "--verify", str(good_images)]) == 0
    assert "model.fp16.onnx: 41 frames, d_local off by" in capsys.readouterr().out
    bundle = shutil.copytree(small_bundle, tmp_path / "bundle")
    model = onnx.load(bundle / "model.fp16.onnx")
    last = next(node for node in model.graph.node if node.output[0] == "d_local")
    last.output[0] = "unscaled"
    factor = onnx.helper.make_tensor("factor", onnx.TensorProto.FLOAT, [], [1.01])
    model.graph.initializer.append(factor)
    model.graph.node.append(onnx.helper.make_node("Mul", ["unscaled", "factor"], ["d_local"]))
    onnx.save(model, bundle / "model.fp16.onnx")
    sha256 = hashlib.sha256((bundle / "model.fp16.onnx").read_bytes()).hexdigest()
    manifest = load_bundle(small_bundle).manifest
    graphs = [
        msgspec.structs.replace(graph, sha256=sha256) if graph.precision == "fp16" else graph
        for graph in manifest.graphs
    ]
    write_manifest(bundle, msgspec.structs.replace(manifest, graphs=graphs))
    assert main([str(bundle), "--verify", str(good_images)]) == 1
    assert "the FP16 graph: d_local is off by" in capsys.readouterr().err
    write_manifest(bundle, msgspec.structs.replace(manifest, graphs=manifest.graphs[:1]))
    assert main([str(bundle), "--verify", str(good_images)]) == 1
    assert "holds its FP32 graph alone" in capsys.readouterr().err
    assert main([str(small_bundle), "--verify", str(tmp_path / "none")]) == 1
    assert "no images there" in capsys.readouterr().err


def test_a_gpu_engine_asked_for_where_none_can_be_built_names_both_ways_on(
    small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--fp16 alone never writes a slower thing in silence."""
    target = tmp_path / "bundle"
    assert main([str(small_run), "--out", str(target), "--fp16"]) == 1
    message = capsys.readouterr().err
    assert "--onnx-only" in message
    assert "fp32" in message
    assert not target.exists()


def test_something_that_is_no_bundle_is_never_replaced(
    small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder with other things in it stays as it is."""
    (tmp_path / "precious.txt").write_text("keep")
    assert main([str(small_run), "--out", str(tmp_path)]) == 1
    assert "is not a bundle" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_a_run_that_cannot_be_checked_is_not_exported(
    small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither a folder that is no run, nor damaged weights, nor other teacher weights."""
    assert main([str(tmp_path), "--out", str(tmp_path / "bundle")]) == 1
    assert "is not a run" in capsys.readouterr().err
    damaged = tmp_path / "damaged"
    shutil.copytree(small_run, damaged)
    weights = damaged / "students.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert main([str(damaged), "--out", str(tmp_path / "bundle")]) == 1
    assert "students.safetensors: cannot be loaded" in capsys.readouterr().err
    other = tmp_path / "other"
    shutil.copytree(small_run, other)
    text = (other / "run.json").read_text()
    sha256 = read_run(other).teacher.sha256
    (other / "run.json").write_text(text.replace(sha256, "0" * 64))
    assert main([str(other), "--out", str(tmp_path / "bundle")]) == 1
    assert "trained with teacher weights 0000" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(("students", "levels"), [("both", [2, 3]), ("local", [1, 2, 3])])
def test_a_pyramid_teacher_is_trained_and_exported_like_a_vit(
    students: str, levels: list[int], small_config: Path, tmp_path: Path
) -> None:
    """A convolutional network at 64 x 96: the graph passes the gate in both precisions and the daemon runs it."""
    torch.manual_seed(0)
    weights, run, bundle = tmp_path / "lite.safetensors", tmp_path / "run", tmp_path / "bundle"
    save_file(timm.create_model("tf_efficientnet_lite0").state_dict(), weights)
    overrides = [f"run={run}", f"students={students}", "input.height=64", "input.width=96"]
    overrides += ["teacher.name=tf_efficientnet_lite0", f"teacher.weights={weights}"]
    overrides += [f"local.blocks={levels}", "local.heads=8", "semantic.blocks=[3]"]
    assert train_main([str(small_config), *(f"--set={override}" for override in overrides)]) == 0
    assert main([str(run), "--out", str(bundle), "--fp16", "--onnx-only", "--max-batch", "4"]) == 0
    loaded = load_bundle(bundle)
    stride = 2 ** (levels[0] + 1)
    assert loaded.manifest.map_size == (64 // stride, 96 // stride)
    frames = np.random.default_rng(6).integers(0, 256, (3, 64, 96, 3), dtype=np.uint8)
    expected = infer(load_detector(run)[0], torch.from_numpy(frames))
    with OnnxEngine.of(loaded) as engine:
        got = engine.infer(frames)
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(got, name), values.numpy(), atol=1e-4)


def prediction(shift: float = 0.0) -> RawPrediction:
    local = np.linspace(0.1, 0.4, 16, dtype=np.float32)
    return RawPrediction(local + np.float32(shift), local / 2, np.zeros((16, 2, 2), np.float32))


def test_the_gate_refuses_a_graph_that_is_off(small_bundle: Path) -> None:
    """Beyond the limit, on NaN, on a missing output, and at a verdict that flips within the limit."""
    calibration = load_bundle(small_bundle).manifest.calibration
    assert compare(prediction(), prediction(5e-5), calibration, FP32).verdict_flips == 0
    with pytest.raises(ParityError, match=r"d_local .* off by 2\.00e-04"):
        compare(prediction(), prediction(2e-4), calibration, FP32)
    with pytest.raises(ParityError, match="NaN"):
        compare(prediction(), prediction(np.nan), calibration, FP32)
    with pytest.raises(ParityError, match="d_semantic is missing on one side"):
        compare(prediction(), prediction()._replace(d_semantic=None), calibration, FP32)
    flipping = _just_below_threshold(small_bundle)
    nudged = flipping._replace(d_local=flipping.d_local * np.float32(1 + 9e-4))  # type: ignore[operator]
    with pytest.raises(ParityError, match="1 of 1 verdicts differ"):
        compare(flipping, nudged, calibration, FP16)


def _just_below_threshold(bundle: Path) -> RawPrediction:
    """One part whose local distance lies within 1e-4 of where the verdict turns."""
    from dualkd.daemon.decision import decide
    from dualkd.daemon.records import Prediction

    calibration = load_bundle(bundle).manifest.calibration
    assert calibration.semantic is not None
    semantic = calibration.semantic.location - 10 * calibration.semantic.scale
    low, high = 0.0, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        passes = decide(Prediction(middle, semantic, None), calibration).outcome == "PASS"
        low, high = (middle, high) if passes else (low, middle)
    low *= 1 - 1e-5
    return RawPrediction(np.array([low], np.float32), np.array([semantic], np.float32), None)


def test_calibrating_on_the_target_moves_the_threshold_and_nothing_else(
    small_bundle: Path, good_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """dualkd-calibrate on a copy: sums still hold, the new rate and number of parts are in the manifest."""
    bundle = tmp_path / "bundle"
    shutil.copytree(small_bundle, bundle)
    before = load_bundle(bundle).manifest
    assert calibrate_main([str(bundle), "--good", str(good_images), "--false-reject-rate", "0.05"]) == 0
    assert "40 good parts: at most 5.00%" in capsys.readouterr().out
    after = load_bundle(bundle).manifest
    assert (after.calibration.good_parts, after.calibration.false_reject_rate) == (40, 0.05)
    assert after.calibration != before.calibration
    assert after.graphs == before.graphs
    assert calibrate_main([str(bundle), "--good", str(tmp_path / "none")]) == 2
    assert "no images there" in capsys.readouterr().err
    cv2.imwrite(str(tmp_path / "one.png"), np.zeros((9, 9, 3), np.uint8))
    assert calibrate_main([str(bundle), "--good", str(tmp_path)]) == 2
    assert "needs at least 4 good parts, got 1" in capsys.readouterr().err
    assert load_bundle(bundle).manifest == after


def test_asking_for_a_plan_from_a_bundle_needs_no_torch(small_bundle: Path) -> None:
    """On a line PC the export command must at least say what is the matter without the training stack."""
    code = (
        "import sys; from dualkd.export.__main__ import main\n"
        f"status = main([{str(small_bundle)!r}, '--fp16'])\n"
        "sys.exit(status if not {'torch', 'timm', 'onnx'} & set(sys.modules) else 99)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "TensorRT plan" in done.stderr
