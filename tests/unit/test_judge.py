"""The judge with an engine that computes beside the host: what waits for what, and whose errors are whose.

The engine is TensorRT's, on a GPU that does its work as late as it may. test_service.py has the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fakes
import numpy as np
import numpy.typing as npt
import pytest
from dualkd.daemon.bundle import load_bundle
from dualkd.daemon.config import RecipeConfig
from dualkd.daemon.engine import Answer
from dualkd.daemon.engine_tensorrt import TensorRTEngine
from dualkd.daemon.judge import Judge, Judged
from dualkd.daemon.recipes import Recipe
from dualkd.daemon.records import Frame
from fake_device import FakeGpu, FakeTensorRT, write_plan

GREYS = {fakes.DARK: "PASS", fakes.BRIGHT: "FAIL"}


class Watched(TensorRTEngine):
    """Notes where the frames lie that it is given."""

    def __init__(self, plan: Path, tensorrt: FakeTensorRT) -> None:
        size = (fakes.SIDE, fakes.SIDE)
        super().__init__(plan, input_size=size, precision="fp16", device=tensorrt.gpu, tensorrt=tensorrt)
        self.page_locked: list[bool] = []
        self._gpu = tensorrt.gpu

    def begin(self, frames: npt.NDArray[np.uint8]) -> Answer:
        self.page_locked.append(any(np.shares_memory(frames, array) for array in self._gpu.arrays))
        return super().begin(frames)


@pytest.fixture
def tensorrt() -> FakeTensorRT:
    return FakeTensorRT(FakeGpu())


@pytest.fixture
def engine(tensorrt: FakeTensorRT, tmp_path: Path) -> Iterator[Watched]:
    with Watched(write_plan(tmp_path / "model.plan", max_batch=2), tensorrt) as engine:
        yield engine
    assert tensorrt.gpu.violations == []


@pytest.fixture
def judge(engine: Watched, tmp_path: Path) -> Judge:
    """Up to two frames a batch, four a turn."""
    bundle = load_bundle(fakes.write_bundle(tmp_path / "bundle", max_batch=2))
    judge = Judge(4)
    judge.use({"cam": Recipe("part", RecipeConfig(bundle="-"), bundle, engine, None, None)})
    return judge


def turn(first: int, *greys: int) -> list[Frame]:
    """Frames of these grey levels, numbered from `first`."""
    return [
        Frame(camera="cam", frame_id=first + index, captured_utc_ns=1, captured_mono_ns=1, image=image)
        for index, image in enumerate(fakes.picture(grey) for grey in greys)
    ]


def said(judged: list[Judged]) -> list[tuple[int | None, str]]:
    return [(each.frame.frame_id, each.verdict.outcome) for each in judged]


def test_frames_are_resized_and_sent_while_those_before_them_are_computed(
    judge: Judge, tensorrt: FakeTensorRT
) -> None:
    """The second turn is on its way to the GPU before anybody waits for the first."""
    assert said(list(judge.judge(turn(0, fakes.DARK, fakes.BRIGHT)))) == []
    first = judge.judge(turn(2, fakes.BRIGHT))
    assert said(list(first)) == [(0, "PASS"), (1, "FAIL")]
    calls = [name for name in tensorrt.gpu.calls if name in ("upload", "execute", "finish")]
    assert calls == ["upload", "execute", "upload", "execute", "finish"]
    assert said(list(judge.judge([]))) == [(2, "FAIL")]
    assert list(judge.judge([])) == []


def test_every_frame_gets_its_own_verdict_in_order(judge: Judge) -> None:
    """Turns of none to four frames, in batches of two, pictures of no use among them."""
    rng = np.random.default_rng(0)
    expected, found, first = [], [], 0
    for _ in range(40):
        greys = [int(rng.choice(list(GREYS))) for _ in range(int(rng.integers(0, 5)))]
        frames = turn(first, *greys)
        outcomes = [GREYS[grey] for grey in greys]
        if frames and rng.random() < 0.3:
            odd = int(rng.integers(len(frames)))
            frames[odd] = Frame("cam", first + odd, 1, 1, None)
            outcomes[odd] = "INVALID"
        expected += list(enumerate(outcomes, first))
        first += len(frames)
        found += said(list(judge.judge(frames)))
    found += said(list(judge.judge([])))
    assert found == expected


def test_scores_of_the_recipe_before_are_not_smoothed_into_those_of_the_next(
    judge: Judge, engine: Watched, tmp_path: Path
) -> None:
    """Frames that are under way at the change say nothing of the product that comes after it."""
    smoothed = RecipeConfig(bundle="-", smoothing=3)
    recipe = Recipe("next", smoothed, load_bundle(tmp_path / "bundle"), engine, None, None)
    judge.use({"cam": recipe})
    list(judge.judge(turn(0, fakes.DARK, fakes.DARK)))
    judge.use({"cam": recipe})
    assert said(list(judge.judge(turn(2, fakes.BRIGHT)))) == [(0, "PASS"), (1, "PASS")]
    assert said(list(judge.judge([]))) == [(2, "FAIL")]


def test_pictures_are_resized_straight_into_page_locked_memory(judge: Judge, engine: Watched) -> None:
    """Whatever the turn: full batches, half ones, several."""
    for count in (1, 4, 3, 2):
        list(judge.judge(turn(0, *[fakes.DARK] * count)))
    list(judge.judge([]))
    assert len(engine.page_locked) == 6
    assert all(engine.page_locked)


@pytest.mark.parametrize("failure", ["refused", "idle", "upload", "download", "finish"])
def test_an_error_is_that_of_its_own_batch(judge: Judge, tensorrt: FakeTensorRT, failure: str) -> None:
    """The batches before and after it, under way at the same time, keep their own verdicts."""
    found = list(judge.judge(turn(0, fakes.BRIGHT, fakes.DARK)))
    if failure == "finish":  # the next that is waited for is the first
        tensorrt.gpu.fail["finish"] = "CUDA_ERROR_UNKNOWN (999, unknown error)"
        bad = (0, 1)
    else:
        bad = (2, 3)
    if failure == "refused":
        tensorrt.refuse_enqueue = True
    elif failure == "idle":
        tensorrt.idle_runs = {1}
    elif failure != "finish":
        tensorrt.gpu.fail[failure] = "CUDA_ERROR_UNKNOWN (999, unknown error)"
    found += judge.judge(turn(2, fakes.BRIGHT, fakes.DARK))
    found += judge.judge(turn(4, fakes.BRIGHT, fakes.DARK))
    found += judge.judge([])
    good = ["FAIL", "PASS"] * 3
    assert said(found) == [(index, "INVALID" if index in bad else good[index]) for index in range(6)]
    assert all(found[index].verdict.score is None and found[index].prediction is None for index in bad)
    assert judge.broken_engine(1) is None


def test_an_engine_may_be_closed_once_another_is_in_use(
    judge: Judge, engine: Watched, tmp_path: Path
) -> None:
    """What was under way has its verdicts, by the recipe under which it was taken in."""
    list(judge.judge(turn(0, fakes.BRIGHT, fakes.DARK)))
    other = load_bundle(fakes.write_bundle(tmp_path / "other", max_batch=4))
    judge.use({"cam": Recipe("other", RecipeConfig(bundle="-"), other, fakes.SteeredEngine(), None, None)})
    engine.close()
    found = list(judge.judge(turn(2, fakes.DARK)))
    assert said(found) == [(0, "FAIL"), (1, "PASS"), (2, "PASS")]
    assert [each.recipe.name for each in found] == ["part", "part", "other"]
