"""The life of the service, with real judgement and the rest steered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fakes
import msgspec
import numpy as np
import pytest
from dualkd.daemon.config import DaemonConfig
from dualkd.daemon.engine import EngineError, RawPrediction
from dualkd.daemon.engine_tensorrt import TensorRTEngine
from dualkd.daemon.parts import Parts
from dualkd.daemon.records import Frame
from dualkd.daemon.service import DROPPED_AT_STOP, ExitStatus, Service
from fake_device import FakeGpu, FakeTensorRT, write_plan


def frames(*images: fakes.Image | None, camera: str = "cam") -> list[Frame]:
    return [
        Frame(camera=camera, frame_id=index, captured_utc_ns=1, captured_mono_ns=1, image=image)
        for index, image in enumerate(images)
    ]


class Line:
    """A service around the given frames and engine."""

    def __init__(self, folder: Path, given: list[Frame], engine: Any, **changes: Any) -> None:
        cameras = [{"name": name, "source": "-"} for name in sorted({frame.camera for frame in given})]
        bundle = fakes.write_bundle(folder / "bundle", max_batch=2)
        recipes = {"default": {"bundle": str(bundle), **changes.pop("recipe", {})}}
        tree = {"line": "l", "recipes": recipes, "cameras": cameras, **changes}
        self.configured = msgspec.convert(tree, DaemonConfig)
        self.engine = engine
        self.frames = fakes.ListedFrames(given)
        self.messages = fakes.KeptMessages()
        self.calls = fakes.ListedCalls()
        self.archive = fakes.KeptOffers()
        self.notifier = fakes.SilentNotifier()
        parts = Parts(
            frames=self.frames,
            publisher=self.messages,
            preview=fakes.NoPreview(),
            control=self.calls,
            archive=self.archive,
            metrics=fakes.NoMetrics(),
            notifier=self.notifier,
        )
        self.service = Service(self.configured, parts, lambda _: self.engine, lambda: self.configured)

    @property
    def verdicts(self) -> list[str]:
        return [header.verdict for header in self.messages.results]


DARK, BRIGHT = fakes.picture(fakes.DARK), fakes.picture(fakes.BRIGHT)


def test_every_frame_is_judged_published_and_released(tmp_path: Path) -> None:
    """In order, batch by batch, with its memory given back once."""
    line = Line(tmp_path, frames(DARK, BRIGHT, DARK), fakes.SteeredEngine())
    assert line.service.run() == ExitStatus.DONE
    assert line.verdicts == ["PASS", "FAIL", "PASS"]
    assert [header.seq for header in line.messages.results] == [0, 1, 2]
    assert [header.batch for header in line.messages.results] == [2, 2, 1]
    assert line.frames.released == [0, 1, 2]
    assert line.engine.closed
    assert line.frames.closed
    states = [status.state for status in line.messages.statuses]
    assert states == ["starting", "running", "draining", "ended"]


def test_an_engine_error_makes_its_frames_invalid_and_no_others(tmp_path: Path) -> None:
    """The second batch fails (the first call is the self-test): two INVALID with the reason, the rest judged."""
    line = Line(tmp_path, frames(*[DARK] * 6), fakes.SteeredEngine(fail_calls=[2]))
    assert line.service.run() == ExitStatus.DONE
    assert line.verdicts == ["PASS", "PASS", "INVALID", "INVALID", "PASS", "PASS"]
    assert line.messages.results[2].reason == "steered to fail"
    assert line.messages.results[2].score is None


def test_an_engine_that_keeps_failing_ends_the_daemon_with_closed_accounts(tmp_path: Path) -> None:
    """After three batches in a row: six INVALID published, the four frames left counted as dropped, status 4."""
    line = Line(tmp_path, frames(*[DARK] * 10), fakes.SteeredEngine(fail_calls=[1, 2, 3]))
    with pytest.raises(EngineError, match="3 batches in a row failed: steered to fail"):
        line.service.run()
    assert line.verdicts == ["INVALID"] * 6
    ended = line.messages.statuses[-1]
    assert (ended.state, ended.exit_status) == ("ended", ExitStatus.ENGINE)
    totals = ended.cameras["cam"]
    assert (totals.captured, totals.invalid, totals.dropped) == (10, 6, {DROPPED_AT_STOP: 4})
    assert line.engine.closed


def test_an_engine_that_fails_its_self_test_is_refused_at_start(tmp_path: Path) -> None:
    """No frame is taken before the engine has shown that it runs."""
    line = Line(tmp_path, frames(DARK), fakes.SteeredEngine(fail_calls=[0]))
    with pytest.raises(EngineError):
        line.service.run()
    assert line.verdicts == []
    assert line.messages.statuses[-1].exit_status == ExitStatus.ENGINE


def test_a_picture_of_no_use_is_invalid_and_its_neighbours_keep_their_own_verdicts(tmp_path: Path) -> None:
    """Verdicts are not shifted by a frame that never reached the batch."""
    odd = np.zeros((4, 4, 2), np.uint8)
    line = Line(tmp_path, frames(odd, BRIGHT, None, DARK, BRIGHT), fakes.SteeredEngine())
    assert line.service.run() == ExitStatus.DONE
    assert line.verdicts == ["INVALID", "FAIL", "INVALID", "PASS", "FAIL"]
    assert "(height, width, 3) BGR" in line.messages.results[0].reason


@pytest.mark.parametrize("stop_after", [None, 3])
def test_with_an_engine_beside_the_host_no_frame_is_lost(tmp_path: Path, stop_after: int | None) -> None:
    """Frames under way when the sources end are judged; when two stops come, they are counted as dropped."""
    tensorrt = FakeTensorRT(FakeGpu())
    plan = write_plan(tmp_path / "model.plan", max_batch=2)
    engine = TensorRTEngine(
        plan,
        input_size=(fakes.SIDE, fakes.SIDE),
        precision="fp16",
        device=tensorrt.gpu,
        tensorrt=tensorrt,
    )
    line = Line(tmp_path, frames(DARK, BRIGHT, DARK, BRIGHT, BRIGHT, DARK, DARK), engine)

    def stop() -> None:
        if stop_after == len(line.messages.results):
            line.service.request_stop()
            line.service.request_stop()

    line.messages.on_result = stop
    assert line.service.run() == ExitStatus.DONE
    expected = ["PASS", "FAIL", "PASS", "FAIL", "FAIL", "PASS", "PASS"]
    judged = len(line.verdicts)
    assert line.verdicts == expected[:judged]
    assert judged == 7 if stop_after is None else 3 < judged < 7
    totals = line.messages.statuses[-1].cameras["cam"]
    assert totals.captured == 7 == totals.passed + totals.failed + sum(totals.dropped.values())
    assert sorted(line.frames.released) == list(range(7))
    assert tensorrt.gpu.held == (0, 0, 0, 0)
    assert tensorrt.gpu.violations == []


class ShortEngine(fakes.SteeredEngine):
    """Forgets the last frame of every batch of two."""

    def infer(self, frames: Any) -> RawPrediction:
        raw = super().infer(frames)
        return (
            raw if len(frames) == 1 else RawPrediction(*(None if part is None else part[:1] for part in raw))
        )


def test_an_engine_that_answers_for_fewer_frames_is_not_believed(tmp_path: Path) -> None:
    """None of the batch gets a verdict that might be another's."""
    line = Line(tmp_path, frames(DARK, BRIGHT, DARK), ShortEngine())
    assert line.service.run() == ExitStatus.DONE
    assert line.verdicts == ["INVALID", "INVALID", "PASS"]
    assert "1 values of d_local for 2 frames" in line.messages.results[0].reason


class BlindEngine(fakes.SteeredEngine):
    """Gives NaN from the second call on."""

    def infer(self, frames: Any) -> RawPrediction:
        raw = super().infer(frames)
        blind = np.full(len(frames), np.nan, np.float32)
        return raw if self.calls == 1 else RawPrediction(blind, raw.d_semantic, raw.anomaly_map)


def test_a_distance_that_is_no_number_is_invalid(tmp_path: Path) -> None:
    """NaN compares false with every threshold; it must not pass for that."""
    line = Line(tmp_path, frames(BRIGHT, DARK), BlindEngine())
    assert line.service.run() == ExitStatus.DONE
    assert line.verdicts == ["INVALID", "INVALID"]


def test_a_stop_lets_the_captured_frames_be_judged(tmp_path: Path) -> None:
    """Asked once: drain. All six frames were captured, so all six are judged."""
    line = Line(tmp_path, frames(*[DARK] * 6), fakes.SteeredEngine())
    line.messages.on_result = lambda: line.service.request_stop() if len(line.verdicts) == 1 else None
    assert line.service.run() == ExitStatus.DONE
    assert line.verdicts == ["PASS"] * 6


def test_a_second_stop_ends_at_once_with_closed_accounts(tmp_path: Path) -> None:
    """Asked twice: the batch in hand is finished, the rest counted as dropped."""
    line = Line(tmp_path, frames(*[DARK] * 6), fakes.SteeredEngine())
    line.messages.on_result = line.service.request_stop
    assert line.service.run() == ExitStatus.DONE
    assert line.verdicts == ["PASS"] * 2
    totals = line.messages.statuses[-1].cameras["cam"]
    assert totals.captured == totals.passed + sum(totals.dropped.values()) == 6


def test_the_operators_threshold_wins_over_the_calibration(tmp_path: Path) -> None:
    """A recipe's `fail` moves the verdict and is what the message names."""
    grey = fakes.picture(125)
    assert Line(tmp_path / "a", frames(grey), fakes.SteeredEngine()).service.run() == ExitStatus.DONE
    strict = Line(tmp_path / "b", frames(grey), fakes.SteeredEngine(), recipe={"fail": 0.01})
    loose = Line(tmp_path / "c", frames(grey), fakes.SteeredEngine(), recipe={"fail": 0.99})
    strict.service.run()
    loose.service.run()
    assert (strict.verdicts, loose.verdicts) == (["FAIL"], ["PASS"])
    assert strict.messages.results[0].threshold == 0.01


def test_each_camera_has_its_own_numbers(tmp_path: Path) -> None:
    """seq counts each topic by itself, and so do the accounts."""
    given = [*frames(DARK, BRIGHT, camera="a"), *frames(DARK, camera="b")]
    line = Line(tmp_path, given, fakes.SteeredEngine())
    line.service.run()
    assert [(header.camera, header.seq) for header in line.messages.results] == [("a", 0), ("a", 1), ("b", 0)]
    cameras = line.messages.statuses[-1].cameras
    assert (cameras["a"].captured, cameras["a"].failed, cameras["b"].captured) == (2, 1, 1)
