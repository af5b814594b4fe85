"""The TensorRT engine and ONNX Runtime's GPU providers on a real GPU: built here, run here, compared with the CPU.

Needs an NVIDIA GPU that nothing else uses, pycuda, and TensorRT or TensorRT for RTX.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
from compiling import COVERING, Case, compile_case, random_detector
from dualkd.daemon.__main__ import load_engine
from dualkd.daemon.bundle import Bundle, Machine
from dualkd.daemon.config import EngineConfig, RecipeConfig
from dualkd.daemon.engine import EngineError, Provider, RawPrediction
from dualkd.daemon.engine_onnx import PROVIDERS, OnnxEngine
from dualkd.daemon.engine_tensorrt import TensorRTEngine
from dualkd.daemon.machine import load_tensorrt, this_machine
from dualkd.daemon.recipes import RecipeLoader
from dualkd.export.plans import PlanBuilder
from dualkd.export.tensorrt_engine import BuildSettings

ROUNDS = 1000
FP16 = 1e-2  # largest difference as a share of the largest value; the weights are random


def _missing() -> str:
    try:
        this_machine()
    except EngineError as error:
        return str(error)
    return ""


MISSING = _missing()
pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING or "everything is there")
cuda = pytest.importorskip("pycuda.driver", reason="pycuda is not installed") if not MISSING else None


@pytest.fixture(scope="module")
def machine() -> Machine:
    return this_machine()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The brightness graph's bundle with its FP32 plan for this machine, through the export's own gate."""
    path = fakes.write_bundle(tmp_path_factory.mktemp("gpu") / "bundle")
    PlanBuilder.here(BuildSettings(), "tests").add(fakes.load(path), "fp32", [some_frames(3)])
    return fakes.load(path)


@pytest.fixture
def context() -> Iterator[Any]:
    """The primary context, held by the test too: an engine's end does not end it."""
    cuda.init()
    held = cuda.Device(0).retain_primary_context()
    held.push()
    yield held
    held.pop()
    held.detach()


def some_frames(
    count: int, size: tuple[int, int] = (fakes.SIDE, fakes.SIDE), seed: int = 0
) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), np.uint8)


def assert_close(found: RawPrediction, expected: RawPrediction, share: float) -> None:
    for name, value, other in zip(found._fields, found, expected, strict=True):
        assert (value is None) == (other is None), name
        if value is not None and other is not None:
            assert float(np.abs(value - other).max()) <= share * float(np.abs(other).max()), name


@pytest.mark.parametrize("count", [1, 4])
def test_the_plan_says_what_the_cpu_says(bundle: Bundle, machine: Machine, count: int) -> None:
    """One frame and a full batch; the GPU's own time is told."""
    frames = some_frames(count)
    with TensorRTEngine.of(bundle, precision="fp32") as engine, OnnxEngine.of(bundle) as reference:
        expected = RawPrediction.join([reference.infer(frames[index : index + 1]) for index in range(count)])
        assert_close(engine.infer(frames), expected, 1e-5)
        assert engine.device_ms > 0
        assert machine.gpu_name in engine.description


def test_batches_under_way_together_get_their_own_answers(bundle: Bundle) -> None:
    """Written into the engine's room, begun before the one before it is answered."""
    batches = [some_frames(count, seed=seed) for seed, count in enumerate((4, 3, 4, 1, 4))]
    with TensorRTEngine.of(bundle, precision="fp32") as engine, OnnxEngine.of(bundle) as reference:
        answers = []
        for frames in batches:
            room = engine.room()
            room[: len(frames)] = frames
            answers.append(engine.begin(room[: len(frames)]))
        for frames, answer in zip(batches, answers, strict=True):
            assert_close(answer(), reference.infer(frames), 1e-5)


@pytest.mark.parametrize("case", COVERING, ids=str)
def test_the_fp16_plan_of_a_detector_says_what_the_cpu_says(case: Case, tmp_path: Path) -> None:
    """Of random weights, two blocks deep, one frame and a full batch."""
    detector = random_detector(case, local_blocks=[0, 1], semantic_blocks=[1])
    compile_case(load_tensorrt()[1], case, detector, tmp_path)
    size = (case.side, case.side)
    with (
        TensorRTEngine(tmp_path / "model.fp16.plan", input_size=size, precision="fp16") as engine,
        OnnxEngine(
            tmp_path / "model.fp16.onnx", input_size=size, max_batch=case.max_batch, precision="fp16"
        ) as reference,
    ):
        for count in {1, case.max_batch}:
            frames = some_frames(count, size)
            assert_close(engine.infer(frames), reference.infer(frames), FP16)


def test_the_daemon_takes_the_plan(bundle: Bundle) -> None:
    """Chosen for this machine, self-tested, described."""
    config = EngineConfig(kind="tensorrt", precision="fp32")
    loader = RecipeLoader(functools.partial(load_engine, config=config))
    recipe = loader.load("part", RecipeConfig(bundle=str(bundle.path)))
    assert "tensorrt" in recipe.engine.description
    loader.keep_only([])


def test_a_thousand_rounds_leave_the_gpus_memory_as_it_was(bundle: Bundle, context: Any) -> None:  # noqa: ARG001
    """Opened, run, closed; the first rounds let CUDA and TensorRT load what they keep."""
    frames = some_frames(4)

    def free_after(rounds: int) -> int:
        for _ in range(rounds):
            with TensorRTEngine.of(bundle, precision="fp32") as engine:
                engine.infer(frames)
        return int(cuda.mem_get_info()[0])

    before = free_after(20)
    assert free_after(ROUNDS) >= before


def test_failed_loads_leave_the_gpus_memory_as_it_was(
    bundle: Bundle,
    machine: Machine,
    tmp_path: Path,
    context: Any,  # noqa: ARG001
) -> None:
    """A truncated plan is refused as such, as often as it is tried."""
    path = tmp_path / "half.plan"
    raw = bundle.plan("fp32", machine).read_bytes()
    path.write_bytes(raw[: len(raw) // 2])

    def free_after(rounds: int) -> int:
        for _ in range(rounds):
            with pytest.raises(EngineError, match="truncated or damaged"):
                TensorRTEngine(path, input_size=(fakes.SIDE, fakes.SIDE), precision="fp32")
        return int(cuda.mem_get_info()[0])

    before = free_after(5)
    assert free_after(100) >= before


def test_a_plan_for_other_frames_is_refused(bundle: Bundle, machine: Machine) -> None:
    """Naming both sizes."""
    with pytest.raises(EngineError, match=r"is for frames of \(64, 64\)"):
        TensorRTEngine(bundle.plan("fp32", machine), input_size=(32, 32), precision="fp32")


def test_a_gpu_without_memory_says_so_and_serves_again(bundle: Bundle, context: Any) -> None:  # noqa: ARG001
    """All memory taken by somebody else: an error that says it; given back: the engine runs."""
    taken = []
    size = int(cuda.mem_get_info()[0])
    while size >= 4096:
        try:
            taken.append(cuda.mem_alloc(size))
        except cuda.MemoryError:
            size //= 2
    try:
        with pytest.raises(EngineError, match=r"too little free memory|OUT_OF_MEMORY"):
            TensorRTEngine.of(bundle, precision="fp32")
    finally:
        for memory in taken:
            memory.free()
    with TensorRTEngine.of(bundle, precision="fp32") as engine:
        assert engine.infer(some_frames(1)).d_local is not None


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_onnx_runtime_on_the_gpu_says_what_it_says_on_the_cpu(bundle: Bundle, provider: Provider) -> None:
    """FP32 on both, every node there."""
    if PROVIDERS[provider] not in ort.get_available_providers():
        pytest.skip(f"this ONNX Runtime ({ort.__version__}) has no {PROVIDERS[provider]}")
    frames = some_frames(4)
    with OnnxEngine.of(bundle, provider=provider) as engine, OnnxEngine.of(bundle) as reference:
        assert_close(engine.infer(frames), reference.infer(frames), 1e-5)
