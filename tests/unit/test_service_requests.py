"""What requests do to a running service: recipes, thresholds, pause, snapshot, reload."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import fakes
import msgspec
import numpy as np
import pytest
from dualkd.configs.loader import ConfigError
from dualkd.daemon import control_messages as requests
from dualkd.daemon.bundle import Bundle
from dualkd.daemon.config import DaemonConfig
from dualkd.daemon.control_messages import AnyRequest
from dualkd.daemon.engine import EngineError
from dualkd.daemon.parts import Parts
from dualkd.daemon.records import Frame
from dualkd.daemon.service import ExitStatus, Service

GREY = fakes.picture(125)  # score about a quarter


class Line:
    """A service over `frames` of camera cam, judged one by one; `ask` happens between two of them."""

    def __init__(self, folder: Path, frames: Sequence[Frame], **changes: Any) -> None:
        for name in ("a", "b"):
            if not (folder / name).exists():
                fakes.write_bundle(folder / name)
        recipes = {"a": {"bundle": str(folder / "a")}, "b": {"bundle": str(folder / "b"), "fail": 0.01}}
        recipes["a"].update(changes.pop("a", {}))
        cameras = [{"name": "cam", "source": "-", "recipe": "a"}]
        tree = {"line": "l", "recipes": recipes, "cameras": cameras, "batch": {"size": 1}, **changes}
        self.tree = tree
        self.frames = fakes.ListedFrames(frames)
        self.messages = fakes.KeptMessages()
        self.calls = fakes.ListedCalls()
        self.archive = fakes.KeptOffers()
        self.notifier = fakes.SilentNotifier()
        self.engines: list[fakes.SteeredEngine] = []
        self.next_engines: list[fakes.SteeredEngine] = []  # to be loaded instead of good ones
        self.refuse_engines = False
        self._asked: dict[int, AnyRequest] = {}
        self.messages.on_result = self._after_result
        self.calls.on_answer = lambda: setattr(self.frames, "held", False)
        parts = Parts(
            frames=self.frames,
            publisher=self.messages,
            preview=fakes.NoPreview(),
            control=self.calls,
            archive=self.archive,
            metrics=fakes.NoMetrics(),
            notifier=self.notifier,
        )
        self.service = Service(self._read(), parts, self._load_engine, self._read)

    def ask(self, request: AnyRequest, after: int) -> Line:
        """Ask once `after` frames are judged; the next frame comes when it is answered."""
        self._asked[after] = request
        return self

    def run(self) -> list[str]:
        assert self.service.run() == ExitStatus.DONE
        return [header.verdict for header in self.messages.results]

    def _after_result(self) -> None:
        request = self._asked.pop(len(self.messages.results), None)
        if request is not None:
            self.calls.waiting.append(request)
            self.frames.held = True

    def _load_engine(self, bundle: Bundle) -> fakes.SteeredEngine:  # noqa: ARG002 (all are alike)
        if self.refuse_engines:
            raise EngineError("no room for another engine")
        self.engines.append(self.next_engines.pop(0) if self.next_engines else fakes.SteeredEngine())
        return self.engines[-1]

    def _read(self) -> DaemonConfig:
        try:
            return msgspec.convert(self.tree, DaemonConfig)
        except msgspec.ValidationError as error:
            raise ConfigError([str(error)]) from error


def frames(*images: fakes.Image | None) -> list[Frame]:
    return [Frame("cam", index, 1, 1, image) for index, image in enumerate(images)]


def test_a_recipe_is_changed_between_two_frames(tmp_path: Path) -> None:
    """The frame before is judged by a, the one after by b; a's engine is freed."""
    line = Line(tmp_path, frames(GREY, GREY)).ask(requests.Recipe(recipe="b"), after=1)
    assert line.run() == ["PASS", "FAIL"]
    assert [header.recipe for header in line.messages.results] == ["a", "b"]
    assert line.calls.replies[0].ok
    assert line.engines[0].closed
    reference = line.messages.statuses[-1].cameras["cam"].recipe
    assert reference is not None
    assert (reference.name, reference.fail) == ("b", 0.01)


def test_a_recipe_that_cannot_be_loaded_leaves_the_old_one_in_use(tmp_path: Path) -> None:
    """A damaged graph: refused with the file and the reason, and judging goes on."""
    line = Line(tmp_path, frames(GREY, GREY)).ask(requests.Recipe(recipe="b"), after=1)
    with (tmp_path / "b" / "model.onnx").open("ab") as file:
        file.write(b"x")
    assert line.run() == ["PASS", "PASS"]
    assert not line.calls.replies[0].ok
    assert "model.onnx: sha256 is" in line.calls.replies[0].message
    assert [header.recipe for header in line.messages.results] == ["a", "a"]


def test_an_engine_that_does_not_load_leaves_the_old_one_in_use(tmp_path: Path) -> None:
    """The new bundle is good, but there is no memory for its engine."""
    line = Line(tmp_path, frames(GREY, GREY)).ask(requests.Recipe(recipe="b"), after=1)
    (tmp_path / "b" / "bundle.json").write_bytes((tmp_path / "b" / "bundle.json").read_bytes() + b"\n")
    line.messages.on_result = lambda: (setattr(line, "refuse_engines", True), line._after_result())[1]
    assert line.run() == ["PASS", "PASS"]
    assert line.calls.replies[0].message == "no room for another engine"
    assert not line.calls.replies[0].ok


def test_an_unknown_recipe_or_camera_is_refused_by_name(tmp_path: Path) -> None:
    """With what there is instead."""
    line = Line(tmp_path, frames(GREY, GREY, GREY))
    line.ask(requests.Recipe(recipe="c"), after=1).ask(requests.Pause(camera="x"), after=2).run()
    assert [reply.message for reply in line.calls.replies] == [
        "there is no recipe 'c'; recipes: a, b",
        "there is no camera 'x'; cameras: cam",
    ]


def test_a_threshold_moves_between_two_frames_without_another_engine(tmp_path: Path) -> None:
    """Below the score, then back to what the calibration set."""
    line = Line(tmp_path, frames(GREY, GREY, GREY))
    line.ask(requests.SetThreshold(recipe="a", fail=0.1), after=1)
    line.ask(requests.SetThreshold(recipe="a", fail="calibrated"), after=2)
    assert line.run() == ["PASS", "FAIL", "PASS"]
    assert [header.threshold for header in line.messages.results] == [0.5, 0.1, 0.5]
    assert len(line.engines) == 1


def test_thresholds_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    """warn above fail: nothing changes."""
    line = Line(tmp_path, frames(GREY, GREY)).ask(requests.SetThreshold(recipe="a", warn=0.7), after=1)
    assert line.run() == ["PASS", "PASS"]
    assert "warn must lie below fail" in line.calls.replies[0].message


def test_changes_survive_a_restart(tmp_path: Path) -> None:
    """Recipe and thresholds as they were set, in a new daemon with the same folder."""
    state = {"state": str(tmp_path / "state")}
    line = Line(tmp_path, frames(GREY, GREY, GREY), **state)
    line.ask(requests.Recipe(recipe="b"), after=1)
    line.ask(requests.SetThreshold(recipe="b", fail=0.9), after=2)
    assert line.run() == ["PASS", "FAIL", "PASS"]
    again = Line(tmp_path, frames(GREY), **state)
    assert again.run() == ["PASS"]
    assert (again.messages.results[0].recipe, again.messages.results[0].threshold) == ("b", 0.9)


def test_a_change_that_cannot_be_remembered_is_made_and_said(tmp_path: Path) -> None:
    """The state folder's place is taken by a file: a warning in every status."""
    (tmp_path / "state").write_text("in the way")
    line = Line(tmp_path, frames(GREY, GREY), state=str(tmp_path / "state" / "folder"))
    line.ask(requests.SetThreshold(recipe="a", fail=0.1), after=1)
    assert line.run() == ["PASS", "FAIL"]
    assert "in use but not remembered" in line.messages.statuses[-1].warnings[0]


def test_a_doubtful_frame_passes_and_says_so(tmp_path: Path) -> None:
    """Above warn, below fail."""
    line = Line(tmp_path, frames(fakes.picture(fakes.DARK), GREY), a={"warn": 0.1})
    assert line.run() == ["PASS", "PASS"]
    assert [header.doubtful for header in line.messages.results] == [False, True]
    assert [header.warn_threshold for header in line.messages.results] == [0.1, 0.1]
    assert "above warn threshold" in line.messages.results[1].reason
    assert line.archive.offers == line.messages.results


def test_smoothing_judges_the_median_and_forgets_at_a_gap(tmp_path: Path) -> None:
    """One bright frame among dark ones passes at smoothing 3; after a camera was lost it stands alone."""
    dark, bright = fakes.picture(fakes.DARK), fakes.picture(fakes.BRIGHT)
    given = frames(dark, dark, bright, bright)
    lost = Frame("cam", None, 1, 1, None, fault="camera cam was lost")
    line = Line(tmp_path, [*given[:3], lost, given[3]], a={"smoothing": 3})
    assert line.run() == ["PASS", "PASS", "PASS", "INVALID", "FAIL"]
    third = line.messages.results[2]
    assert third.score is not None
    assert third.score > 0.5 > (third.smoothed_score or 1.0)


def test_a_frame_that_never_came_is_no_captured_frame(tmp_path: Path) -> None:
    """It ends as INVALID with its job, and the account of captured frames stays closed."""
    absent = Frame("cam", None, 1, 1, None, fault="no frame within 1 s", job_id="job-7")
    line = Line(tmp_path, [*frames(GREY), absent])
    assert line.run() == ["PASS", "INVALID"]
    answer = line.messages.results[1]
    assert (answer.job_id, answer.frame_id, answer.reason) == ("job-7", None, "no frame within 1 s")
    account = line.messages.statuses[-1].cameras["cam"]
    assert (account.captured, account.passed, account.invalid, account.absent) == (1, 1, 0, 1)


def test_a_region_is_all_that_the_model_sees(tmp_path: Path) -> None:
    """The bright square lies outside: PASS. Inside, its box is in pixels of the whole picture."""
    region = {"x_px": 32, "y_px": 16, "width_px": 64, "height_px": 64}
    outside = fakes.with_square(fakes.picture(fakes.DARK), 0, 0, 32)
    inside = fakes.with_square(fakes.picture(fakes.DARK), 48, 32, 16)
    line = Line(tmp_path, frames(outside, inside), a={"region": region})
    assert line.run() == ["PASS", "FAIL"]
    (box,) = line.messages.results[1].regions
    assert (box.x_px, box.y_px, box.width_px, box.height_px) == (48, 32, 16, 16)
    covers = line.messages.results[1].map
    assert covers is not None
    assert (covers.covers.x_px, covers.covers.width_px) == (32, 64)


def test_a_region_outside_the_picture_makes_it_invalid(tmp_path: Path) -> None:
    """The camera came back smaller: no verdict, and the reason names both."""
    region = {"x_px": 100, "y_px": 0, "width_px": 64, "height_px": 64}
    line = Line(tmp_path, frames(GREY), a={"region": region})
    assert line.run() == ["INVALID"]
    assert "leaves the picture of 128 x 96" in line.messages.results[0].reason


def test_a_mask_hides_a_place_and_fits_one_size_only(tmp_path: Path) -> None:
    """The bright square lies under the mask: PASS. A picture of another size is INVALID."""
    mask = np.full((96, 128), 255, np.uint8)
    mask[:, :64] = 0
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    hidden = fakes.with_square(fakes.picture(fakes.DARK), 16, 16, 32)
    seen = fakes.with_square(fakes.picture(fakes.DARK), 80, 16, 32)
    line = Line(
        tmp_path,
        frames(hidden, seen, fakes.picture(fakes.DARK, 64, 64)),
        a={"mask": str(tmp_path / "mask.png")},
    )
    assert line.run() == ["PASS", "FAIL", "INVALID"]
    assert "was drawn for 128 x 96" in line.messages.results[2].reason


def test_a_snapshot_is_the_next_judged_picture(tmp_path: Path) -> None:
    """As JPEG, with the verdict in words."""
    line = Line(tmp_path, frames(GREY, fakes.picture(fakes.BRIGHT)))
    line.messages.on_result = lambda: (
        line.calls.waiting.append(requests.Snapshot(camera="cam", id="7"))
        if len(line.messages.results) == 1
        else None
    )
    line.run()
    (reply,), (jpeg,) = line.calls.replies, line.calls.jpegs
    assert (reply.ok, reply.id, reply.message[:15]) == (True, "7", "frame 1: FAIL, ")
    picture = cv2.imdecode(np.frombuffer(jpeg or b"", np.uint8), cv2.IMREAD_COLOR)
    assert abs(int(picture[50, 50, 0]) - fakes.BRIGHT) < 4


def test_pause_and_resume_reach_the_camera(tmp_path: Path) -> None:
    """Without a name: every camera."""
    line = Line(tmp_path, frames(GREY, GREY, GREY))
    line.ask(requests.Pause(), after=1).ask(requests.Status(), after=2).run()
    status = line.calls.replies[1].status
    assert status is not None
    assert status.cameras["cam"].paused


def test_a_reload_takes_recipes_over(tmp_path: Path) -> None:
    """A threshold edited in the file holds from the next frame on; systemd hears both ends."""
    line = Line(tmp_path, frames(GREY, GREY)).ask(requests.Reload(), after=1)
    line.service.startup()
    line.tree["recipes"]["a"]["fail"] = 0.1
    line.service.main_loop()
    line.service.shutdown(ExitStatus.DONE, "")
    assert [header.verdict for header in line.messages.results] == ["PASS", "FAIL"]
    assert line.calls.replies[0].ok


def test_a_bad_configuration_on_reload_changes_nothing(tmp_path: Path) -> None:
    """As a signal asks for it: refused, said in every status, READY again, judging goes on."""
    line = Line(tmp_path, frames(GREY, GREY))
    line.messages.on_result = lambda: (
        line.service.request_reload() if len(line.messages.results) == 1 else None
    )
    line.service.startup()
    line.tree["recipes"]["a"]["fail"] = 7
    line.service.main_loop()
    line.service.shutdown(ExitStatus.DONE, "")
    assert [header.threshold for header in line.messages.results] == [0.5, 0.5]
    assert "reload refused" in line.messages.statuses[-1].warnings[0]
    at = line.notifier.told.index("RELOADING=1")
    assert line.notifier.told[at + 1] == "READY=1"
    assert line.notifier.told[at + 2].startswith("STATUS=reload refused: ")


def test_what_needs_a_restart_is_named_on_reload(tmp_path: Path) -> None:
    """And then nothing is taken over, not even what could be."""
    line = Line(tmp_path, frames(GREY, GREY)).ask(requests.Reload(), after=1)
    line.service.startup()
    line.tree["recipes"]["a"]["fail"] = 0.1
    line.tree["heartbeat_s"] = 2.0
    line.service.main_loop()
    line.service.shutdown(ExitStatus.DONE, "")
    assert line.calls.replies[0].message == "heartbeat_s: changes only with a restart; nothing was changed"
    assert [header.verdict for header in line.messages.results] == ["PASS", "PASS"]


def test_requests_are_answered_while_the_recipes_load(tmp_path: Path) -> None:
    """What is asked for before there is anything to judge by holds from the first frame on."""
    line = Line(tmp_path, frames(GREY))
    line.calls.waiting += [requests.Status(), requests.SetThreshold(recipe="a", fail=0.1)]
    assert line.run() == ["FAIL"]
    assert [reply.ok for reply in line.calls.replies] == [True, True]
    status = line.calls.replies[0].status
    assert status is not None
    assert (status.state, status.cameras["cam"].recipe) == ("starting", None)


def test_an_engine_that_keeps_failing_is_noticed_beside_one_that_works(tmp_path: Path) -> None:
    """Two cameras, two bundles: each turn one engine fails and the other judges. It is status 4 all the same."""
    given = [Frame(camera, index, 1, 1, GREY) for index in range(5) for camera in ("cam", "other")]
    cameras = [
        {"name": "cam", "source": "-", "recipe": "a"},
        {"name": "other", "source": "-", "recipe": "b"},
    ]
    line = Line(tmp_path, given, cameras=cameras, batch={"size": 2})
    (tmp_path / "b" / "bundle.json").write_bytes((tmp_path / "b" / "bundle.json").read_bytes() + b"\n")
    failing = fakes.SteeredEngine(fail_calls=[1, 2, 3, 4, 5])
    line.next_engines = [failing, fakes.SteeredEngine()]
    with pytest.raises(EngineError, match="3 batches in a row failed: steered to fail"):
        line.service.run()
    outcomes = [(header.camera, header.verdict) for header in line.messages.results]
    assert outcomes == [("cam", "INVALID"), ("other", "FAIL")] * 3


def test_a_reload_asked_for_at_the_start_waits_until_the_line_runs(tmp_path: Path) -> None:
    """systemd must not hear READY because of it before the line is ready."""
    line = Line(tmp_path, frames(GREY))
    line.service.request_reload()
    line.run()
    told = [word for word in line.notifier.told if word in ("READY=1", "RELOADING=1")]
    assert told[:2] == ["READY=1", "RELOADING=1"]
