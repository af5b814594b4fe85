"""Live cameras in real capture processes: the newest frame wins, and a hanging one holds nobody up."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cameras
import fakes
import msgspec
import pytest
from dualkd.daemon.bundle import load_bundle
from dualkd.daemon.config import DaemonConfig
from dualkd.daemon.intake import DROPPED_NO_SLOT, DROPPED_OLDER, Intake
from dualkd.daemon.service import Service
from dualkd.daemon.sources import SourceError
from running import alive, wait_until


def live_service(
    folder: Path, source: str, open_: Any, messages: fakes.KeptMessages, **changes: Any
) -> tuple[Service, Intake]:
    config = msgspec.convert(
        {"line": "l", "bundle": "b", "cameras": [{"name": "cam", "source": source}], **changes}, DaemonConfig
    )
    intake = Intake(config.cameras, open_)
    bundle = load_bundle(fakes.write_bundle(folder / "bundle"))
    return Service(config, bundle, fakes.SteeredEngine, intake, messages, fakes.SilentNotifier()), intake


def test_a_live_camera_keeps_the_newest_frame_and_counts_the_rest(tmp_path: Path) -> None:
    """300 frames, one a 2 ms, judged one a 20 ms: most are dropped, all are accounted for, none is stale."""
    messages = fakes.KeptMessages(slow_s=0.02)
    service, _ = live_service(tmp_path, "300@0.002", cameras.open_steady, messages)
    with pytest.raises(SourceError, match="camera cam: unplugged"):
        service.run()
    totals = messages.statuses[-1].cameras["cam"]
    assert totals.captured == 300
    assert len(messages.results) == totals.passed + totals.failed + totals.invalid
    assert totals.captured == len(messages.results) + sum(totals.dropped.values())
    assert set(totals.dropped) <= {DROPPED_OLDER, DROPPED_NO_SLOT}
    assert totals.dropped[DROPPED_OLDER] > 100
    frame_ids = [header.frame_id for header in messages.results]
    assert frame_ids == sorted(set(frame_ids))
    assert frame_ids[-1] == 299
    for header in messages.results:  # the picture is the one of its own number: no slot was overwritten
        assert header.d_semantic == pytest.approx((header.frame_id % 200) / 255, abs=1e-4)
    waits = sorted(header.stage_ms.wait for header in messages.results)
    assert waits[len(waits) // 2] < 60


def test_a_hanging_camera_is_killed_when_the_daemon_stops(tmp_path: Path) -> None:
    """Its process hangs in read(); stopping takes the grace, not for ever, and the accounts close."""
    messages = fakes.KeptMessages()
    service, intake = live_service(
        tmp_path, "3@0.001", cameras.open_hanging, messages, stop_grace_s=0.3, drain_timeout_s=30
    )
    messages.on_result = lambda: service.request_stop() if messages.results[-1].frame_id == 2 else None
    began = time.monotonic()
    service.run()
    assert time.monotonic() - began < 20
    totals = messages.statuses[-1].cameras["cam"]
    assert totals.captured == 3 == len(messages.results) + sum(totals.dropped.values())
    assert intake.running() == []


def test_a_camera_that_never_opens_is_told_by_name(tmp_path: Path) -> None:
    """After open_timeout_s the daemon gives up, and the process that hangs is gone."""
    messages = fakes.KeptMessages()
    service, _ = live_service(
        tmp_path, "1@1", cameras.open_never, messages, open_timeout_s=0.3, stop_grace_s=0.1
    )
    with pytest.raises(SourceError, match=r"camera cam: did not open within 0\.3 s"):
        service.run()
    assert messages.statuses[-1].exit_status == 5


def test_a_capture_process_that_speaks_nonsense_is_ended_and_told(tmp_path: Path) -> None:
    """The listener neither dies of it nor believes it: the daemon ends with the camera's name."""
    messages = fakes.KeptMessages()
    service, _ = live_service(tmp_path, "100@0.01", cameras.open_babbling, messages)
    with pytest.raises(SourceError, match=r"camera cam: its capture process died .*DecodeError"):
        service.run()
    assert messages.statuses[-1].exit_status == 5


HANGING_PARENT = """
import sys, time
sys.path.insert(0, sys.argv[1])
import cameras
from dualkd.daemon.config import CameraConfig
from dualkd.daemon.intake import Intake

if __name__ == "__main__":
    intake = Intake([CameraConfig(name="cam", source="1@0.001")], cameras.open_hanging)
    intake.start()
    intake.go()
    while not intake.take(1, 1.0, 0.0):
        pass
    print(intake._cameras["cam"].process.pid, flush=True)
    time.sleep(1e6)
"""


def test_a_hanging_capture_process_dies_with_its_parent(tmp_path: Path) -> None:
    """It cannot see that the pipe is closed while it hangs in read(), so the kernel has to end it."""
    script = tmp_path / "parent.py"
    script.write_text(HANGING_PARENT)
    command = [sys.executable, str(script), str(Path(__file__).parents[1])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
        wait_until(lambda: not alive(pid), "the capture process ends with its parent")
