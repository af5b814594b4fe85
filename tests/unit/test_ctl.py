"""dualkd-ctl as it is typed, against a real control socket."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dualkd.daemon import ctl
from dualkd.daemon.config import ControlConfig
from dualkd.daemon.control import ControlServer
from dualkd.daemon.control_messages import (
    AnyRequest,
    Pause,
    Recipe,
    Reload,
    Reply,
    Resume,
    SetThreshold,
    Snapshot,
    Status,
)
from dualkd.daemon.curve import Security
from dualkd.daemon.messages import CameraStatus, RecipeRef, StatusHeader
from dualkd.daemon.parts import Job
from headers import BUNDLE, camera_status, status_header
from keyring import Keyring
from running import short_folder


class AnsweringLine:
    """A control socket with a service that says yes to everything, or no."""

    def __init__(self, endpoint: str, security: Security | None = None) -> None:
        self.jobs: list[Job] = []
        self.requests: list[AnyRequest] = []
        self.ok = True
        self._server = ControlServer(ControlConfig(endpoint=endpoint), security, self._trigger)
        self._done = threading.Event()
        self._service = threading.Thread(target=self._serve)

    def __enter__(self) -> AnsweringLine:
        self._server.open()
        self.endpoint = self._server.endpoint
        self._service.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._service.join()
        self._server.close()

    def _trigger(self, job: Job) -> str:
        self.jobs.append(job)
        return "" if self.ok else "no such camera"

    def _serve(self) -> None:
        while not self._done.wait(0.002):
            for call in self._server.calls():
                self.requests.append(call.request)
                wanted = isinstance(call.request, Status) and self.ok
                message = "done" if self.ok else "no such camera: \033[2Jcam9"
                reply = Reply(id="", ok=self.ok, message=message, status=status() if wanted else None)
                call.answer(reply, b"picture" if isinstance(call.request, Snapshot) and self.ok else None)


def status() -> StatusHeader:
    def camera(**changes: Any) -> CameraStatus:
        dropped = {"capture: no free slot": 3, "service: paused": 1}
        return camera_status(captured=20, passed=12, failed=3, invalid=1, dropped=dropped, **changes)

    tiles = RecipeRef(name="tiles", bundle=BUNDLE, fail=0.75, warn=0.5)
    return status_header(
        {
            "cam0": camera(age_s=0.04, recipe=tiles),
            "cam1": camera(state="lost", age_s=754.0, reason="no frame for 2 s", recipe=tiles),
            "cam2": camera(paused=True, recipe=None),
        },
        line="line1",
        uptime_s=93_784,
        warnings=["archive: the disk is full"],
    )


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as path:
        yield path


@pytest.fixture
def line(folder: Path) -> Iterator[AnsweringLine]:
    with AnsweringLine(f"ipc://{folder}/c") as answering:
        yield answering


def run(line: AnsweringLine, *words: str) -> int:
    return ctl.main(["--endpoint", line.endpoint, "--timeout", "60", *words])


def test_status_shows_what_is_wrong_first_and_a_row_a_camera(
    line: AnsweringLine, capsys: pytest.CaptureFixture[str]
) -> None:
    """What an operator reads: the line, the warnings, then each camera with its numbers and its reason."""
    assert run(line, "status") == ctl.DONE
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "line line1: running, up 1 d 2 h"
    assert said[1] == "  !! archive: the disk is full"
    assert [" ".join(row.split()) for row in said[2:]] == [
        "CAMERA STATE RECIPE FAIL WARN PASSED FAILED INVALID DROPPED LAST FRAME",
        "cam0 running tiles 0.750 0.500 12 3 1 4 0.0 s ago",
        "cam1 lost tiles 0.750 0.500 12 3 1 4 12 min 34 s ago no frame for 2 s",
        "cam2 running, paused - - off 12 3 1 4 none yet",
    ]


def test_status_as_json_is_the_whole_reply(line: AnsweringLine, capsys: pytest.CaptureFixture[str]) -> None:
    """One object, for scripts."""
    assert run(line, "--json", "status") == ctl.DONE
    reply = json.loads(capsys.readouterr().out)
    assert reply["ok"] is True
    assert reply["status"]["cameras"]["cam1"]["reason"] == "no frame for 2 s"


@pytest.mark.parametrize(
    ("words", "request_"),
    [
        ("recipe tiles", Recipe(recipe="tiles")),
        ("recipe tiles --camera cam0", Recipe(recipe="tiles", camera="cam0")),
        ("threshold tiles --fail 0.5", SetThreshold(recipe="tiles", fail=0.5)),
        ("threshold tiles --fail calibrated --warn off", SetThreshold(recipe="tiles", fail="calibrated", warn="off")),
        ("threshold tiles --warn 0.25", SetThreshold(recipe="tiles", warn=0.25)),
        ("pause", Pause()),
        ("pause cam0", Pause(camera="cam0")),
        ("resume", Resume()),
        ("resume cam0", Resume(camera="cam0")),
        ("reload", Reload()),
    ],
)  # fmt: skip
def test_what_is_typed_is_what_is_asked(line: AnsweringLine, words: str, request_: AnyRequest) -> None:
    """Every command, to the daemon and back."""
    assert run(line, *words.split()) == ctl.DONE
    (asked,) = line.requests
    assert type(asked) is type(request_)
    wanted = {name: getattr(request_, name) for name in request_.__struct_fields__ if name != "id"}
    assert {name: getattr(asked, name) for name in wanted} == wanted


def test_a_trigger_without_a_job_id_gets_one(line: AnsweringLine, capsys: pytest.CaptureFixture[str]) -> None:
    """Which is said, for it comes back in the verdict; a given one is kept."""
    assert run(line, "trigger", "cam0", "part-7") == ctl.DONE
    assert run(line, "trigger", "cam0") == ctl.DONE
    assert line.jobs[0].job_id == "part-7"
    assert len(line.jobs[1].job_id) == 12
    assert line.jobs[1].job_id in capsys.readouterr().out


def test_a_snapshot_is_written_whole(line: AnsweringLine, folder: Path) -> None:
    """Over an older one, with nothing left beside it."""
    (folder / "shot.jpg").write_bytes(b"old")
    assert run(line, "snapshot", "cam0", "--out", str(folder / "shot.jpg")) == ctl.DONE
    assert (folder / "shot.jpg").read_bytes() == b"picture"
    assert [path.name for path in folder.iterdir() if "shot" in path.name] == ["shot.jpg"]


def test_a_picture_that_cannot_be_written_is_said(
    line: AnsweringLine, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 4."""
    assert run(line, "snapshot", "cam0", "--out", str(folder / "none" / "shot.jpg")) == ctl.UNUSABLE
    assert "No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["status", "pause cam9", "trigger cam9", "snapshot cam9 --out x.jpg"])
def test_a_refusal_is_said_and_cannot_steer_the_terminal(
    line: AnsweringLine, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    """Status 1, the daemon's words on the error output, no control characters, no picture."""
    line.ok = False
    assert run(line, *words.split()) == ctl.REFUSED
    said = capsys.readouterr()
    assert "refused: no such camera" in said.err
    assert "\033" not in said.err
    assert said.out == ""
    assert not Path("x.jpg").exists()


def test_no_answer_ends_in_time_and_says_what_to_check(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 3."""
    assert ctl.main(["--endpoint", f"ipc://{folder}/c", "--timeout", "0.1", "status"]) == ctl.NO_ANSWER
    assert "no answer within 0.1 s: nobody listens there; is the daemon running" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--endpoint", "nonsense", "status"],
        ["--key", "/nowhere", "status"],
        ["--key", "/nowhere", "--server-key", "/nowhere", "status"],
        ["trigger", "no/camera"],
        ["threshold", "tiles"],
        ["threshold", "tiles", "--fail", "2"],
        ["keygen", "/tmp", "../x"],
    ],
)
def test_what_makes_no_sense_is_a_usage_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2 and one line, before anybody is asked."""
    assert ctl.main(words) == ctl.USAGE
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [[], ["dance"], ["snapshot", "cam0"], ["threshold", "t", "--fail", "x"], ["--timeout", "0", "status"]],
)
def test_what_cannot_be_read_is_a_usage_error(words: list[str]) -> None:
    """Status 2, from the command line's own reader."""
    with pytest.raises(SystemExit) as ended:
        ctl.main(words)
    assert ended.value.code == ctl.USAGE


def test_keys_made_by_keygen_open_the_door_and_others_do_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over TCP: status 0 with a key on the list, 5 with another, and the reason."""
    keyring = Keyring(tmp_path)
    assert ctl.main(["keygen", str(tmp_path), "new"]) == ctl.DONE
    assert str(tmp_path / "new.key_secret") in capsys.readouterr().out
    options = ["--key", str(tmp_path / "new.key_secret"), "--server-key", str(tmp_path / "daemon.key")]
    with AnsweringLine("tcp://127.0.0.1:*", keyring.security()) as line:
        assert run(line, *options, "pause") == ctl.DENIED
        assert "denies this key" in capsys.readouterr().err
        assert line.requests == []
    keyring.allow(keyring.controllers, "new")
    with AnsweringLine("tcp://127.0.0.1:*", keyring.security()) as line:
        assert run(line, *options, "pause") == ctl.DONE


def test_the_command_ends_with_its_status(folder: Path) -> None:
    """As a process, without OpenCV or an engine."""
    code = (
        "import sys; from dualkd.daemon.ctl import main\n"
        f"status = main(['--endpoint', 'ipc://{folder}/c', '--timeout', '0.1', 'status'])\n"
        "heavy = {name.split('.')[0] for name in sys.modules} & {'cv2', 'onnxruntime', 'torch'}\n"
        "sys.exit(99 if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert done.returncode == ctl.NO_ANSWER, done.stderr
