"""Cameras that break under a running daemon: killed processes, a real stream stopped and ended, sick pictures."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import fakes
import pytest
from dualkd.daemon.messages import ResultHeader
from hearing import Ear, seconds_to
from running import DaemonProcess
from stream_server import StreamServer


def stream(server: StreamServer, **health: Any) -> list[dict[str, Any]]:
    """A camera on the server, with the default settings but for `health`."""
    return [{"name": "cam", "source": server.url, "health": health}]


def is_absent(header: ResultHeader) -> bool:
    return header.frame_id is None


def test_a_live_cameras_killed_process_is_told_and_replaced(folder: Path, bundle: Path) -> None:
    """One INVALID without a frame says what happened; then frames come again, and the numbers go on."""
    with (
        StreamServer() as server,
        DaemonProcess(folder, bundle, stream(server)) as daemon,
        Ear(daemon.results) as ear,
    ):
        before = ear.judged(5)[-1]
        (capture,) = daemon.capture_pids()
        killed_ns = time.monotonic_ns()
        os.kill(capture, signal.SIGKILL)
        absent = ear.result(is_absent, "the loss is told")
        again = ear.judged(5)[0]
        seconds_to(again, killed_ns, "capture process killed: frames again after")
        daemon.terminate()
        last = ear.to_the_end()
        assert daemon.wait() == 0
    assert absent.verdict == "INVALID"
    assert absent.reason == "the camera was lost: its capture process died (killed by signal 9)"
    assert before.frame_id is not None
    assert again.frame_id is not None
    assert before.frame_id < again.frame_id
    assert (last.cameras["cam"].absent, last.cameras["cam"].restarts) == (1, 1)


def test_a_films_killed_process_ends_the_daemon_with_closed_accounts(folder: Path, bundle: Path) -> None:
    """A film cannot come back: what was captured is judged, and the daemon ends with 5 and the reason."""
    film = fakes.write_video(folder / "film.avi", [fakes.picture(fakes.DARK)] * 2000)
    with (
        DaemonProcess(folder, bundle, [{"name": "cam", "source": str(film)}]) as daemon,
        Ear(daemon.results) as ear,
    ):
        ear.judged(3)
        (capture,) = daemon.capture_pids()
        os.kill(capture, signal.SIGKILL)
        last = ear.to_the_end()
        assert daemon.wait() == 5
        assert "Traceback" not in daemon.log
    assert last.exit_status == 5
    assert last.reason == "camera cam: its capture process died (killed by signal 9)"


def test_a_film_that_is_cut_short_is_judged_and_then_reported(folder: Path, bundle: Path) -> None:
    """What it still holds gets its verdicts; then the daemon says what is missing and ends with 5."""
    whole = fakes.write_video(folder / "whole.mkv", [fakes.picture(fakes.DARK)] * 50).read_bytes()
    film = folder / "cut.mkv"
    film.write_bytes(whole[: len(whole) // 2])
    with (
        DaemonProcess(folder, bundle, [{"name": "cam", "source": str(film), "pace": "max"}]) as daemon,
        Ear(daemon.results) as ear,
    ):
        last = ear.to_the_end()
        assert daemon.wait() == 5
        assert "Traceback" not in daemon.log
    assert 10 < len(ear.results) < 40
    assert f"ended after {len(ear.results)} of 50 frames" in last.reason
    assert "bytes are missing" in last.reason


def test_a_stream_that_falls_silent_is_told_and_comes_back(folder: Path, bundle: Path) -> None:
    """Its server is SIGSTOPped: no error, no end, nothing. INVALID and a warning say so; SIGCONT, frames again."""
    with (
        StreamServer() as server,
        DaemonProcess(folder, bundle, stream(server)) as daemon,
        Ear(daemon.results) as ear,
    ):
        ear.judged(5)
        server.freeze()
        absent = ear.result(is_absent, "the loss is told")
        lost = ear.status(lambda status: status.cameras["cam"].state == "lost", "the status says so")
        ear.status(lambda status: status.cameras["cam"].restarts >= 1, "it is tried again")
        thawed_ns = time.monotonic_ns()
        server.thaw()
        again = ear.result(lambda header: header.captured_mono_ns > thawed_ns, "frames again")
        seconds_to(again, thawed_ns, "server continued: frames again after")
        back = ear.status(lambda status: status.cameras["cam"].state == "running", "the status says so")
        ear.judged(5)
        daemon.terminate()
        last = ear.to_the_end()
        assert daemon.wait() == 0
    assert absent.reason == "the camera was lost: no frame for 1.5 s (health.stale_after_s)"
    assert "camera cam: no frame for 1.5 s (health.stale_after_s)" in lost.warnings
    assert back.warnings == []
    assert last.cameras["cam"].absent == 1


def test_a_camera_that_is_unplugged_or_not_there_yet_is_waited_for(folder: Path, bundle: Path) -> None:
    """Its server is killed, and started again later: told, tried again, and back. FFmpeg and OpenCV keep quiet."""
    with StreamServer() as server:
        cameras, port = stream(server), server.port
    with DaemonProcess(folder, bundle, cameras) as daemon, Ear(daemon.results) as ear:
        ear.result(is_absent, "the camera is not there at the start")
        with StreamServer(port=port):
            ear.judged(5)
        ear.result(is_absent, "the loss is told")
        ear.status(lambda status: status.cameras["cam"].state == "lost", "the status says so")
        with StreamServer(port=port):
            plugged_ns = time.monotonic_ns()
            seconds_to(ear.judged(5)[0], plugged_ns, "server started again: frames again after")
            daemon.terminate()
            last = ear.to_the_end()
        assert daemon.wait() == 0
        strange = [line for line in daemon.log.splitlines() if " INFO " not in line]
        assert all("WARNING camera cam: lost: " in line for line in strange), strange
    assert last.cameras["cam"].absent == 2


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        ("black", "the picture is black: 99 % of it is darker than 4 (health.black_below)"),
        ("frozen", "the picture is frozen: the same for "),
        ("resized", "the picture has 32 x 24 pixels instead of 64 x 48 (health.size)"),
    ],
)
def test_sick_pictures_get_no_verdict(order: str, reason: str, folder: Path, bundle: Path) -> None:
    """A stream turns black, freezes, or changes its size: every such picture is INVALID with the reason."""
    with (
        StreamServer() as server,
        DaemonProcess(folder, bundle, stream(server, frozen_after_s=0.5)) as daemon,
        Ear(daemon.results) as ear,
    ):
        ear.judged(5)
        server.serve(order)
        sick = ear.result(lambda header: header.verdict == "INVALID", "the sick picture is told")
        while ear.results[-1].captured_mono_ns < sick.captured_mono_ns + 0.5e9:
            ear.hear()
        seen = [header for header in ear.results if header.captured_mono_ns >= sick.captured_mono_ns]
        healed_ns = time.monotonic_ns()
        server.serve("frames")
        seconds_to(ear.judged(5)[0], healed_ns, f"no longer {order}: verdicts again after")
        daemon.terminate()
        last = ear.to_the_end()
        assert daemon.wait() == 0
    assert len(seen) > 3
    assert all(header.verdict == "INVALID" and header.frame_id is not None for header in seen)
    assert all(header.reason.startswith(reason) and header.score is None for header in seen)
    assert last.cameras["cam"].absent == 0
