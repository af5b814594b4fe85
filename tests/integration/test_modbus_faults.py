"""Daemons and cameras that go away while a PLC reads: INVALID in time, and never an old verdict."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import fakes
from dualkd.daemon.bridges.modbus.map import CameraState, DaemonState, Fault, JobState, Verdict
from dualkd.daemon.control_messages import Pause, Resume
from hearing import Ear
from plc import Plc, daemon_of, has_verdict, live, modbus, show
from running import free_port, wait_until
from stream_server import StreamServer

TOLD_WITHIN_S = 2.0


def assert_invalid_in_time(plc: Plc, fault: Fault) -> None:
    """The register says INVALID with the fault, within the time that is promised."""
    began_s = time.monotonic()
    wait_until(lambda: plc.camera()["verdict"] == Verdict.INVALID, "INVALID", 10 * TOLD_WITHIN_S)
    took_s = time.monotonic() - began_s
    print(f"{fault.name}: INVALID after {took_s:.2f} s")
    camera = plc.camera()
    assert camera["fault"] == fault
    assert camera["reason"]
    assert camera["score"] == camera["score_1e4"] == 0
    assert took_s < TOLD_WITHIN_S


def assert_heartbeat_stands(plc: Plc) -> None:
    before = plc.line()["heartbeat"]
    until_s = time.monotonic() + 1.0
    while time.monotonic() < until_s:
        assert plc.line()["heartbeat"] == before
    assert "alive" not in plc.line_bits()


def test_a_killed_daemon_is_invalid_within_two_seconds_and_comes_back_by_itself(
    folder: Path, bundle: Path
) -> None:
    """No old PASS, a heartbeat that stands; the daemon started again, and verdicts go on with no word to the bridge."""
    port = free_port()
    with (
        StreamServer() as server,
        daemon_of(folder, bundle, live(server)) as daemon,
        modbus(folder, daemon, port) as bridge,
        Plc(port) as plc,
    ):
        wait_until(has_verdict(plc), "a verdict")
        beat = plc.line()["heartbeat"]
        wait_until(lambda: plc.line()["heartbeat"] != beat, "the heartbeat beats")
        daemon.process.kill()
        assert_invalid_in_time(plc, Fault.DAEMON_GONE)
        assert_heartbeat_stands(plc)
        assert plc.bits() == {"invalid"}
        assert plc.line()["daemon_state"] == DaemonState.UNKNOWN
        daemon.process.wait()
        with daemon_of(folder, bundle, live(server)):
            wait_until(has_verdict(plc), "verdicts come again")
            beat = plc.line()["heartbeat"]
            wait_until(lambda: plc.line()["heartbeat"] != beat, "the heartbeat beats again")
        assert bridge.stop() == 0


def test_a_daemon_that_hangs_is_invalid_within_two_seconds(folder: Path, bundle: Path) -> None:
    """SIGSTOP: its connections stay open, but nothing comes; SIGCONT, and verdicts come again."""
    port = free_port()
    with (
        StreamServer() as server,
        daemon_of(folder, bundle, live(server)) as daemon,
        modbus(folder, daemon, port),
        Plc(port) as plc,
    ):
        wait_until(has_verdict(plc), "a verdict")
        daemon.process.send_signal(signal.SIGSTOP)
        assert_invalid_in_time(plc, Fault.DAEMON_GONE)
        assert_heartbeat_stands(plc)
        daemon.process.send_signal(signal.SIGCONT)
        wait_until(has_verdict(plc), "verdicts come again")
        assert "alive" in plc.line_bits()


def test_a_job_whose_daemon_dies_is_invalid(folder: Path, bundle: Path) -> None:
    """The handshake is completed all the same; a trigger without a daemon is refused at once."""
    port = free_port()
    with (
        StreamServer() as server,
        daemon_of(folder, bundle, live(server, trigger={"mode": "software", "timeout_s": 30.0})) as daemon,
        modbus(folder, daemon, port),
        Plc(port) as plc,
    ):
        wait_until(lambda: plc.camera()["state"] == CameraState.RUNNING, "the camera runs")
        server.freeze()
        sequence = plc.camera()["sequence"]
        assert plc.trigger(8) == 0
        wait_until(lambda: "trigger_acknowledged" in plc.bits(), "the daemon takes the job")
        daemon.process.kill()
        assert_invalid_in_time(plc, Fault.DAEMON_GONE)
        camera = plc.camera()
        assert (camera["job_number"], camera["job_state"]) == (8, JobState.READY)
        assert camera["sequence"] == sequence + 1
        plc.acknowledge()
        assert plc.trigger(9) == 0
        assert "trigger_error" in plc.bits()
        camera = plc.camera()
        assert (camera["job_number"], camera["job_error"]) == (9, Fault.DAEMON_GONE)
        assert camera["verdict"] == Verdict.INVALID


def test_a_job_that_is_never_answered_is_invalid(folder: Path, bundle: Path) -> None:
    """The daemon would wait longer than the bridge does."""
    port = free_port()
    with (
        StreamServer() as server,
        daemon_of(folder, bundle, live(server, trigger={"mode": "software", "timeout_s": 30.0})) as daemon,
        modbus(folder, daemon, port, modbus={"job_timeout_s": 0.3}),
        Plc(port) as plc,
    ):
        wait_until(lambda: plc.camera()["state"] == CameraState.RUNNING, "the camera runs")
        server.freeze()
        assert plc.trigger(8) == 0
        wait_until(lambda: "result_ready" in plc.bits(), "the bridge gives up")
        camera = plc.camera()
        assert (camera["verdict"], camera["fault"]) == (Verdict.INVALID, Fault.JOB_TIMEOUT)


def test_a_lost_and_a_paused_camera_are_told_by_their_numbers(folder: Path, bundle: Path) -> None:
    """Its stream falls silent, comes back, is paused and resumed; the daemon lives all the while."""
    port = free_port()
    with (
        StreamServer() as server,
        daemon_of(folder, bundle, live(server)) as daemon,
        modbus(folder, daemon, port),
        Plc(port) as plc,
        Ear(daemon.results) as ear,
    ):
        wait_until(has_verdict(plc), "a verdict")
        server.freeze()
        ear.result(lambda header: header.frame_id is None, "the daemon tells the loss")
        assert_invalid_in_time(plc, Fault.CAMERA_LOST)
        assert "alive" in plc.line_bits()
        assert "cameras_ok" not in plc.line_bits()
        server.thaw()
        wait_until(has_verdict(plc), "verdicts come again")
        assert daemon.ask(Pause(camera="cam")).ok
        assert_invalid_in_time(plc, Fault.CAMERA_PAUSED)
        assert plc.camera()["state"] == CameraState.PAUSED
        assert daemon.ask(Resume(camera="cam")).ok
        wait_until(has_verdict(plc), "verdicts come again")
        daemon.terminate()
        assert_invalid_in_time(plc, Fault.DAEMON_ENDED)
        assert (plc.line()["daemon_state"], plc.line()["fault"]) == (DaemonState.ENDED, Fault.DAEMON_ENDED)


def test_a_camera_that_is_late_is_invalid_and_a_late_bridge_shows_no_old_verdict(
    folder: Path, bundle: Path
) -> None:
    """One picture and no more; a bridge that starts afterwards gets the verdict again, and does not believe it."""
    pictures = folder / "pictures"
    pictures.mkdir()
    port, late = free_port(), free_port()
    second = folder / "second"
    second.mkdir()
    cameras = [{"name": "cam", "expected_period_s": 0.4}]
    with (
        daemon_of(folder, bundle, [{"name": "cam", "source": str(pictures), "follow": True}]) as daemon,
        modbus(folder, daemon, port, cameras=cameras),
        Plc(port) as plc,
    ):
        wait_until(lambda: plc.camera()["fault"] == Fault.NO_VERDICT, "the camera is there")
        show(pictures, fakes.picture(fakes.DARK), "0.png")
        wait_until(has_verdict(plc), "a verdict")
        assert_invalid_in_time(plc, Fault.LATE)
        with modbus(second, daemon, late), Plc(late) as latecomer:
            wait_until(lambda: latecomer.camera()["captured"] == 1, "the status is there")
            until_s = time.monotonic() + 1.5
            while time.monotonic() < until_s:
                camera = latecomer.camera()
                assert (camera["verdict"], camera["fault"]) == (Verdict.NONE, Fault.NO_VERDICT)
            show(pictures, fakes.picture(fakes.DARK), "1.png")
            wait_until(has_verdict(latecomer), "a new verdict")


def test_a_bridge_that_hangs_or_dies_changes_nothing_for_the_daemon(folder: Path, bundle: Path) -> None:
    """SIGSTOP, then SIGKILL: every frame is judged, and another subscriber loses nothing."""
    port = free_port()
    with (
        StreamServer() as server,
        daemon_of(folder, bundle, live(server)) as daemon,
        modbus(folder, daemon, port) as bridge,
        Plc(port) as plc,
        Ear(daemon.results) as ear,
    ):
        wait_until(has_verdict(plc), "a verdict")
        bridge.process.send_signal(signal.SIGSTOP)
        hung = ear.judged(50)
        os.kill(bridge.process.pid, signal.SIGKILL)
        dead = ear.judged(50)
        daemon.terminate()
        ear.to_the_end()
        assert daemon.wait() == 0
    assert ear.lost == 0
    for headers in (hung, dead):
        seconds = (headers[-1].captured_mono_ns - headers[0].captured_mono_ns) / 1e9
        assert seconds < 1.5 * 49 / 25  # the camera's own pace, and air for a busy machine
