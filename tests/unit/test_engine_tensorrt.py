"""The TensorRT engine's buffers, streams, thread and errors, on a GPU that notices what it must not do.

tests/gpu runs the real thing.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import numpy.typing as npt
import pytest
from dualkd.daemon.engine import EngineError, RawPrediction
from dualkd.daemon.engine_tensorrt import TensorRTEngine
from dualkd.daemon.tensorrt_plan import Plan
from fake_device import FakeGpu, FakeTensorRT, write_plan

SIZE = (fakes.SIDE, fakes.SIDE)


@pytest.fixture(params=[False, True], ids=["late", "eager"])
def gpu(request: pytest.FixtureRequest) -> FakeGpu:
    return FakeGpu(eager=request.param)


@pytest.fixture
def tensorrt(gpu: FakeGpu) -> FakeTensorRT:
    return FakeTensorRT(gpu)


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    return write_plan(tmp_path / "model.plan")


def opened(plan: Path, tensorrt: FakeTensorRT, input_size: tuple[int, int] = SIZE) -> TensorRTEngine:
    return TensorRTEngine(
        plan, input_size=input_size, precision="fp16", device=tensorrt.gpu, tensorrt=tensorrt
    )


def some_frames(count: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, *SIZE, 3), np.uint8)


def assert_right(frames: npt.NDArray[np.uint8], found: RawPrediction) -> None:
    for expected, value in zip(fakes.SteeredEngine().infer(frames), found, strict=True):
        assert expected is not None
        assert value is not None
        np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("count", [1, 3, 4])
def test_every_frame_gets_its_own_prediction(plan: Path, tensorrt: FakeTensorRT, count: int) -> None:
    """In order, up to the plan's batch of 4, first and second time."""
    with opened(plan, tensorrt) as engine:
        for seed in range(2):
            frames = some_frames(count, seed)
            assert_right(frames, engine.infer(frames))
            assert engine.device_ms > 0
    assert tensorrt.gpu.violations == []


def test_the_next_batch_is_uploaded_while_the_present_one_is_computed(
    plan: Path, tensorrt: FakeTensorRT
) -> None:
    """Nobody waits before two batches are under way; the third waits for the first."""
    batches = [some_frames(count, seed) for seed, count in enumerate((4, 3, 4, 1))]
    with opened(plan, tensorrt) as engine:
        answers = [engine.begin(frames) for frames in batches]
        for frames, answer in zip(batches, answers, strict=True):
            assert_right(frames, answer())
    calls = [name for name in tensorrt.gpu.calls if name in ("upload", "execute", "finish")]
    begun = ["upload", "execute"]
    assert calls == [*begun, *begun, "finish", *begun, "finish", *begun, "finish", "finish"]


def test_answers_may_be_asked_for_in_any_order_and_again(plan: Path, tensorrt: FakeTensorRT) -> None:
    """Each stays that of its own batch."""
    batches = [some_frames(2, seed) for seed in range(2)]
    with opened(plan, tensorrt) as engine:
        answers = [engine.begin(frames) for frames in batches]
        for _ in range(2):
            for frames, answer in reversed(list(zip(batches, answers, strict=True))):
                assert_right(frames, answer())


def test_frames_written_into_its_room_are_not_copied_again(plan: Path, tensorrt: FakeTensorRT) -> None:
    """The room is page-locked, and never that of a batch under way."""
    with opened(plan, tensorrt) as engine:
        answers = []
        for seed in range(5):
            room = engine.room()
            assert room.shape == (4, *SIZE, 3)
            assert sum(np.shares_memory(room, array) for array in tensorrt.gpu.arrays) == 1
            frames = some_frames(3, seed)
            room[:3] = frames
            answers.append((frames, engine.begin(room[:3])))
        for frames, answer in answers:
            assert_right(frames, answer())


def test_addresses_are_fixed(plan: Path, tensorrt: FakeTensorRT) -> None:
    """Whatever the batches, a tensor lies in one of two places and nothing is allocated after the start."""
    with opened(plan, tensorrt) as engine:
        made = tensorrt.gpu.held
        answers = [engine.begin(some_frames(count)) for count in (1, 4, 2, 3)]
        assert [len(answer().d_local) for answer in answers] == [1, 4, 2, 3]
        assert tensorrt.gpu.held == made
    assert {name: len(places) for name, places in tensorrt.bound.items()} == dict.fromkeys(
        ("frame", "d_local", "d_semantic", "anomaly_map"), 2
    )


def test_it_may_be_loaded_used_and_closed_by_different_threads(plan: Path, tensorrt: FakeTensorRT) -> None:
    """The GPU sees only the engine's own."""
    engines: list[TensorRTEngine] = []
    loader = threading.Thread(target=lambda: engines.append(opened(plan, tensorrt)))
    loader.start()
    loader.join()
    frames = some_frames(3)
    assert_right(frames, engines[0].infer(frames))
    closer = threading.Thread(target=engines[0].close)
    closer.start()
    closer.join()
    assert tensorrt.gpu.held == (0, 0, 0, 0)
    assert tensorrt.gpu.violations == []


def test_a_prediction_outlives_the_next_batch_and_the_engine(plan: Path, tensorrt: FakeTensorRT) -> None:
    """Its arrays are the caller's."""
    frames = some_frames(4)
    with opened(plan, tensorrt) as engine:
        found = engine.infer(frames)
        engine.infer(some_frames(4, seed=1))
    assert_right(frames, found)


def test_an_output_that_was_not_written_is_never_the_last_one(plan: Path, tensorrt: FakeTensorRT) -> None:
    """A run that says all is well and does nothing is an error; the next is right again."""
    with opened(plan, tensorrt) as engine:
        engine.infer(some_frames(4))
        tensorrt.idle = True
        with pytest.raises(EngineError, match=r"left 4 of 4 values of d_local unwritten"):
            engine.infer(some_frames(4))
        tensorrt.idle = False
        frames = some_frames(4, seed=1)
        assert_right(frames, engine.infer(frames))


@pytest.mark.parametrize("call", ["upload", "wait", "record", "poison", "download"])
def test_a_batch_that_cannot_be_begun_costs_itself_alone(
    plan: Path, tensorrt: FakeTensorRT, call: str
) -> None:
    """With CUDA's code; the batch under way gets its own answer, nothing stays, and the next is right."""
    before, after = some_frames(4), some_frames(4, seed=2)
    with opened(plan, tensorrt) as engine:
        answer = engine.begin(before)
        tensorrt.gpu.fail[call] = "CUDA_ERROR_UNKNOWN (999, unknown error)"
        with pytest.raises(EngineError, match=rf"{call}: CUDA_ERROR_UNKNOWN \(999.*journalctl"):
            engine.begin(some_frames(4, seed=1))
        assert tensorrt.gpu.under_way == 0
        assert_right(before, answer())
        assert_right(after, engine.infer(after))


@pytest.mark.parametrize("call", ["finish", "elapsed_ms"])
def test_a_batch_that_cannot_be_waited_for_costs_itself_alone(
    plan: Path, tensorrt: FakeTensorRT, call: str
) -> None:
    """The one begun after it gets its own answer; the error is told again to whoever asks again."""
    after = some_frames(4, seed=1)
    with opened(plan, tensorrt) as engine:
        answers = [engine.begin(frames) for frames in (some_frames(4), after)]
        tensorrt.gpu.fail[call] = "CUDA_ERROR_UNKNOWN (999, unknown error)"
        for _ in range(2):
            with pytest.raises(EngineError, match=rf"{call}: CUDA_ERROR_UNKNOWN \(999.*journalctl"):
                answers[0]()
        assert_right(after, answers[1]())
        assert_right(after, engine.infer(after))


def test_a_refused_run_is_told_in_tensorrts_words(plan: Path, tensorrt: FakeTensorRT) -> None:
    """And costs one batch, not the one before it nor the one after."""
    before, after = some_frames(4), some_frames(4, seed=2)
    with opened(plan, tensorrt) as engine:
        answer = engine.begin(before)
        tensorrt.refuse_enqueue = True
        with pytest.raises(EngineError, match=r"execute_async_v3 failed: .*illegal instruction"):
            engine.begin(some_frames(4, seed=1))
        assert tensorrt.gpu.under_way == 0
        assert_right(before, answer())
        assert_right(after, engine.infer(after))


def test_a_gpu_that_breaks_down_is_told_at_every_batch_and_still_closed(
    plan: Path, tensorrt: FakeTensorRT
) -> None:
    """CUDA's errors of this kind stay: no later batch is believed."""
    with opened(plan, tensorrt) as engine:
        tensorrt.break_at_run = True
        for _ in range(2):
            with pytest.raises(EngineError, match=r"CUDA_ERROR_ILLEGAL_ADDRESS \(700"):
                engine.infer(some_frames(1))
    assert tensorrt.gpu.held == (0, 0, 0, 0)
    assert tensorrt.gpu.violations == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": "10.13.0"}, r"built by another version of TensorRT; build it again.*expecting library"),
        ({"capability": "9.0"}, r"built on another kind of GPU; build it again.*got compute 9\.0"),
        ({"huge": True}, r"does not load it: the GPU has too little free memory.*--max-batch"),
        ({"huge_context": True}, r"cannot prepare it: the GPU has too little free memory"),
        ({"output": "half"}, r"not those of a plan that dualkd-export built"),
        ({"side": 128}, r"is for frames of \(128, 128\) .*the bundle's are \(64, 64\)"),
    ],
)
def test_a_plan_that_cannot_be_used_says_why(
    tmp_path: Path, tensorrt: FakeTensorRT, changes: dict[str, Any], said: str
) -> None:
    """Each in its own words with what to do, and nothing is left on the GPU."""
    before = threading.active_count()
    with pytest.raises(EngineError, match=said) as caught:
        opened(write_plan(tmp_path / "model.plan", **changes), tensorrt)
    assert caught.value.__traceback__ is not None  # the error is alive, what it was about is not
    assert tensorrt.gpu.held == (0, 0, 0, 0)
    assert tensorrt.gpu.violations == []
    assert threading.active_count() == before


def test_buffers_that_find_no_memory_say_so(plan: Path) -> None:
    """With CUDA's code, and what was allocated before is freed."""
    tensorrt = FakeTensorRT(FakeGpu(memory=100_000))
    with pytest.raises(
        EngineError, match=r"buffers cannot be made: .*CUDA_ERROR_OUT_OF_MEMORY \(2.*nvidia-smi"
    ):
        opened(plan, tensorrt)
    assert tensorrt.gpu.held == (0, 0, 0, 0)
    assert tensorrt.gpu.violations == []


def test_a_truncated_plan_says_so(plan: Path, tensorrt: FakeTensorRT) -> None:
    """TensorRT's own words are there, our advice is first."""
    plan.write_bytes(plan.read_bytes()[:-3])
    with pytest.raises(EngineError, match=r"truncated or damaged; build it again.*blobSize"):
        opened(plan, tensorrt)
    assert tensorrt.gpu.held == (0, 0, 0, 0)


def test_a_missing_plan_says_so(tmp_path: Path, tensorrt: FakeTensorRT) -> None:
    """Naming the file."""
    with pytest.raises(EngineError, match=r"gone\.plan: cannot be read: No such file"):
        opened(tmp_path / "gone.plan", tensorrt)


def test_a_thousand_rounds_leave_nothing(plan: Path) -> None:
    """No memory, stream, TensorRT object or thread."""
    gpu = FakeGpu()
    tensorrt = FakeTensorRT(gpu)
    before = threading.active_count()
    frames = some_frames(1)
    for _ in range(1000):
        with opened(plan, tensorrt) as engine:
            engine.infer(frames)
        assert gpu.held == (0, 0, 0, 0)
    assert gpu.violations == []
    assert threading.active_count() == before


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((0, *SIZE, 3), np.uint8),
        np.zeros((5, *SIZE, 3), np.uint8),
        np.zeros((1, 32, 64, 3), np.uint8),
        np.zeros((1, *SIZE, 3), np.float32),
    ],
)
def test_frames_of_another_kind_are_refused(
    plan: Path, tensorrt: FakeTensorRT, frames: npt.NDArray[Any]
) -> None:
    """No frames, too many, wrong size, wrong type."""
    with (
        opened(plan, tensorrt) as engine,
        pytest.raises(EngineError, match=r"takes uint8 \(1\.\.4, 64, 64, 3\), got"),
    ):
        engine.infer(frames)


def test_a_closed_engine_says_so(plan: Path, tensorrt: FakeTensorRT) -> None:
    """To whoever asks for an answer that it still owed, too; and it may be closed again."""
    engine = opened(plan, tensorrt)
    answer = engine.begin(some_frames(1))
    engine.close()
    engine.close()
    for work in (answer, engine.room, lambda: engine.infer(some_frames(1))):
        with pytest.raises(EngineError, match="closed"):
            work()
    assert tensorrt.gpu.held == (0, 0, 0, 0)
    assert tensorrt.gpu.violations == []


@pytest.mark.parametrize("content", [b"", b"ftrt", b"rubbish" * 100])
def test_nvidias_own_words_on_a_damaged_plan_are_understood(tmp_path: Path, content: bytes) -> None:
    """The real library refuses such files before it needs a GPU."""
    tensorrt_rtx = pytest.importorskip("tensorrt_rtx")
    path = tmp_path / "rubbish.plan"
    path.write_bytes(content)
    plan = Plan(path)
    with pytest.raises(EngineError, match=r"truncated or damaged; build it again.*It says: \S"):
        plan.load(tensorrt_rtx)
    plan.close()
