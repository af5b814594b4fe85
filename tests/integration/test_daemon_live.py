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
from dualkd.daemon.bundle import Bundle
from dualkd.daemon.cameras.camera import DROPPED_NO_SLOT
from dualkd.daemon.cameras.capture import OpenSource
from dualkd.daemon.cameras.intake import Intake
from dualkd.daemon.cameras.sources import SourceError
from dualkd.daemon.cameras.waiting import DROPPED_OLDER
from dualkd.daemon.config import DaemonConfig
from dualkd.daemon.parts import Parts
from dualkd.daemon.service import DROPPED_AT_STOP, ExitStatus, Service
from hearing import check_accounts
from running import alive, wait_until


def live_service(
    bundle: Path, source: str, open_: OpenSource, messages: fakes.KeptMessages, **changes: Any
) -> Service:
    config = msgspec.convert(
        {
            "line": "l",
            "recipes": {"default": {"bundle": str(bundle)}},
            "cameras": [{"name": "cam", "source": source}],
            **changes,
        },
        DaemonConfig,
    )
    parts = Parts(
        frames=Intake(config.cameras, config.open_timeout_s, open_),
        publisher=messages,
        preview=fakes.NoPreview(),
        control=fakes.ListedCalls(),
        archive=fakes.KeptOffers(),
        metrics=fakes.NoMetrics(),
        notifier=fakes.SilentNotifier(),
    )
    return Service(config, parts, steered_engine, lambda: config)


def steered_engine(bundle: Bundle) -> fakes.SteeredEngine:  # noqa: ARG001 (judges as the bundle's graph does)
    return fakes.SteeredEngine()


def test_a_live_camera_keeps_the_newest_frame_and_counts_the_rest(bundle: Path) -> None:
    """A frame a 2 ms, judged one a 20 ms: most are dropped, all are accounted for, none is stale."""
    messages = fakes.KeptMessages(slow_s=0.02)
    service = live_service(bundle, "steady://100000@0.002", cameras.open_steady, messages)
    messages.on_result = lambda: service.request_stop() if len(messages.results) == 60 else None
    assert service.run() == ExitStatus.DONE
    last = messages.statuses[-1]
    check_accounts(last, messages.results)
    dropped = last.cameras["cam"].dropped
    assert set(dropped) <= {DROPPED_OLDER, DROPPED_NO_SLOT, DROPPED_AT_STOP}
    assert dropped[DROPPED_OLDER] > 60
    for header in messages.results:  # the picture is the one of its own number: no slot was overwritten
        assert header.frame_id is not None
        assert header.d_semantic == pytest.approx(cameras.grey_of(header.frame_id) / 255, abs=1e-4)
    waits_ms = sorted(header.stage_ms.wait for header in messages.results)
    assert waits_ms[len(waits_ms) // 2] < 60


def test_a_hanging_camera_is_killed_when_the_daemon_stops(bundle: Path) -> None:
    """Its process hangs in read(); stopping takes the grace, not for ever, and the accounts close."""
    messages = fakes.KeptMessages()
    service = live_service(
        bundle, "3@0.001", cameras.open_hanging, messages, stop_grace_s=0.3, drain_timeout_s=30
    )
    messages.on_result = lambda: service.request_stop() if messages.results[-1].frame_id == 2 else None
    began = time.monotonic()
    assert service.run() == ExitStatus.DONE
    assert time.monotonic() - began < 20
    check_accounts(messages.statuses[-1], messages.results)
    assert messages.statuses[-1].cameras["cam"].captured == 3
    assert cameras.capture_pids() == []


def test_a_file_that_never_opens_is_told_by_name(bundle: Path) -> None:
    """After open_timeout_s the daemon gives up on what cannot come later, and the process that hangs is gone."""
    messages = fakes.KeptMessages()
    service = live_service(bundle, "1@1", cameras.open_never, messages, open_timeout_s=1.0, stop_grace_s=0.1)
    with pytest.raises(SourceError, match=r"camera cam: did not open within 1 s"):
        service.run()
    assert messages.statuses[-1].exit_status == 5
    assert cameras.capture_pids() == []


HANGING_PARENT = """
import sys, time
sys.path.insert(0, sys.argv[1])
import cameras
from dualkd.daemon.config import CameraConfig
from dualkd.daemon.cameras.intake import Intake

if __name__ == "__main__":
    intake = Intake([CameraConfig(name="cam", source="1@0.001")], 20.0, cameras.open_hanging)
    intake.start()
    intake.go()
    while not intake.take(1, 1.0, 0.0):
        pass
    print(*cameras.capture_pids(), flush=True)
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
