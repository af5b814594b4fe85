"""Plans: built by NVIDIA's own compiler on the CPU, let into a bundle by the gate, bound to their machine.

No GPU is needed: TensorRT for RTX builds without one. Where the gate must run a plan, ONNX Runtime runs the FP16
graph in its place, so here the gate and the manifest are tested, not what a GPU computes.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest
from compiling import (
    BATCHES,
    COVERING,
    METHODS,
    SIDES,
    STUDENTS,
    TEACHERS,
    Case,
    compile_case,
    random_detector,
)
from dualkd.daemon.bundle import Machine, Precision, load_bundle
from dualkd.daemon.engine import Engine, EngineError, RawPrediction
from dualkd.daemon.engine_onnx import OnnxEngine
from dualkd.export.parity import ParityError
from dualkd.export.plans import PlanBuilder, gate_frames
from dualkd.export.tensorrt_engine import BuildSettings, build_plan
from onnx import TensorProto, helper

trt: Any = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed; it compiles on a CPU")

MACHINE = Machine(
    gpu_name="NVIDIA RTX 4000",
    compute_capability="8.9",
    runtime="tensorrt_rtx",
    tensorrt_version=trt.__version__,
    driver_version="tests",
)


def test_the_covering_cases_hold_every_value() -> None:
    """Both methods, each choice of students, both shapes, sizes and batches."""
    values = [set(METHODS), set(STUDENTS), set(TEACHERS), set(SIDES), set(BATCHES)]
    assert [set(column) for column in zip(*COVERING, strict=True)] == values


@pytest.mark.parametrize("case", COVERING, ids=str)
def test_the_fp16_graph_compiles(case: Case, tmp_path: Path) -> None:
    """And its plan holds the weights as halves: as float32 it is 1.8 times the graph or more.

    Two blocks deep; the whole depth by tests/bench/compile_matrix.py.
    """
    detector = random_detector(case, local_blocks=[0, 1], semantic_blocks=[1])
    compiled = compile_case(trt, case, detector, tmp_path)
    assert 0.5 < compiled.plan_bytes / compiled.graph_bytes < 1.75


def test_what_the_parser_refuses_is_told_with_its_node(tmp_path: Path) -> None:
    """The node's name and operator, and TensorRT's own words; no plan is left."""
    graph = helper.make_graph(
        [helper.make_node("Transpose", ["frame"], ["turned"], name="turn_the_frame", perm=[0, 3, 1, 2])],
        "graph",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, 28, 28, 3])],
        [helper.make_tensor_value_info("turned", TensorProto.UINT8, [1, 3, 28, 28])],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    with pytest.raises(EngineError, match=r"model\.onnx: tensorrt_rtx .*turn_the_frame"):
        build_plan(trt, path, tmp_path / "plan", max_batch=1, settings=BuildSettings())
    path.write_bytes(b"no graph at all")
    with pytest.raises(EngineError, match="cannot read the graph"):
        build_plan(trt, path, tmp_path / "plan", max_batch=1, settings=BuildSettings())
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_a_build_can_be_interrupted(small_bundle: Path, tmp_path: Path) -> None:
    """SIGINT while TensorRT works: it ends at its next step, nothing is written, the old handler is back."""
    before = signal.getsignal(signal.SIGINT)

    class Interrupting:
        """The module, but the first Builder made sends this process SIGINT once the build is on its way."""

        def __getattr__(self, name: str) -> Any:
            return getattr(trt, name)

        class IProgressMonitor(trt.IProgressMonitor):  # type: ignore[misc]
            def __init_subclass__(cls) -> None:
                show = cls._show

                def interrupt(self: Any) -> None:
                    if threading.current_thread() is threading.main_thread():
                        os.kill(os.getpid(), signal.SIGINT)
                    show(self)

                cls._show = interrupt

    with pytest.raises(KeyboardInterrupt):
        build_plan(
            Interrupting(),
            small_bundle / "model.fp16.onnx",
            tmp_path / "plan",
            max_batch=8,
            settings=BuildSettings(),
        )
    assert signal.getsignal(signal.SIGINT) is before
    assert not list(tmp_path.iterdir())


@pytest.fixture
def bundle(small_bundle: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small_bundle, tmp_path / "bundle")


def graph_engine(bundle: Path) -> Callable[[Path, tuple[int, int], Precision], Engine]:
    """Runs the graph that the plan was made of."""

    def open_engine(plan: Path, _size: tuple[int, int], precision: Precision) -> Engine:
        assert plan.stat().st_size > 100_000
        return OnnxEngine.of(load_bundle(bundle), precision=precision)

    return open_engine


def builder(
    open_engine: Callable[[Path, tuple[int, int], Precision], Engine], machine: Machine
) -> PlanBuilder:
    return PlanBuilder(
        machine, trt, open_engine, BuildSettings(optimisation_level=0), "dualkd-export B --fp16"
    )


def test_a_plan_that_passes_is_bound_and_replaces_its_elder(bundle: Path, good_images: Path) -> None:
    """Beside the plans of other machines; the file of the one that is replaced goes too."""
    elsewhere = msgspec.structs.replace(MACHINE, gpu_name="NVIDIA L4")
    for machine in (MACHINE, elsewhere, MACHINE):
        loaded = load_bundle(bundle)
        frames = gate_frames(loaded, good_images)
        added = builder(graph_engine(bundle), machine).add(loaded, "fp16", frames)
    manifest = load_bundle(bundle).manifest
    assert [plan.machine for plan in manifest.plans] == [elsewhere, MACHINE]
    assert manifest.plans[1] == added
    assert added.parity.frames == 41
    assert added.parity.verdict_flips == 0
    assert added.command == "dualkd-export B --fp16"
    assert load_bundle(bundle).plan("fp16", MACHINE) == bundle / added.file
    assert {file.name for file in bundle.glob("*plan*")} == {plan.file for plan in manifest.plans}


class Spoilt(OnnxEngine):
    """An engine that computes as a broken FP16 attention does: another map, other distances."""

    def infer(self, frames: Any) -> RawPrediction:
        good = super().infer(frames)
        assert good.d_local is not None
        return good._replace(d_local=good.d_local * 1.02)


def test_a_plan_that_fails_changes_nothing(bundle: Path) -> None:
    """Beyond the limit: refused with what to try, the bundle is byte for byte what it was."""
    before = {file.name: file.read_bytes() for file in bundle.iterdir()}
    loaded = load_bundle(bundle)

    def open_engine(_plan: Path, _size: tuple[int, int], precision: Precision) -> Engine:
        return Spoilt.of(loaded, precision=precision)

    with pytest.raises(ParityError, match=r"the FP16 plan: d_local is off by .* --attention fp32 .* --fp32"):
        builder(open_engine, MACHINE).add(loaded, "fp16", gate_frames(loaded, None))
    assert {file.name: file.read_bytes() for file in bundle.iterdir()} == before
