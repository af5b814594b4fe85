"""What happens to the daemon's own process: signals at bad moments, a stepped clock, a bad configuration."""

from __future__ import annotations

import re
import signal
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import fakes
import pytest
import zmq
from dualkd.daemon.control_messages import Recipe, decode_reply, encode_request
from dualkd.daemon.messages import ResultHeader
from faulty_libc import FaultyLibc
from hearing import Ear, seconds_to
from notify_socket import NotifySocket
from onnx import TensorProto, helper
from running import PATIENCE_S, DaemonProcess, wait_until
from stream_server import StreamServer

HOUR_S = 3600
UNITS = Path(__file__).parents[2] / "systemd"


def stop_limit_s() -> float:
    """How long systemd waits after SIGTERM."""
    units = "".join(unit.read_text() for unit in UNITS.glob("*.service"))
    return min(float(seconds) for seconds in re.findall(r"^TimeoutStopSec=(\d+)$", units, re.MULTILINE))


def stop(daemon: DaemonProcess, ear: Ear | None) -> None:
    """SIGTERM: status 0, closed accounts, and sooner than systemd would kill it."""
    began_s = time.monotonic()
    daemon.terminate()
    if ear is not None:
        last = ear.to_the_end()
        assert (last.exit_status, last.reason) == (0, "")
    assert daemon.wait() == 0
    took_s = time.monotonic() - began_s
    print(f"ended {took_s:.2f} s after SIGTERM")
    assert took_s < stop_limit_s()
    assert "Traceback" not in daemon.log


def camera(server: StreamServer) -> dict[str, Any]:
    return {"name": "cam", "source": server.url}


def film(folder: Path, name: str) -> dict[str, Any]:
    """A camera that gives frames as fast as they are judged."""
    path = fakes.write_video(folder / f"{name}.avi", [fakes.picture(fakes.DARK, 64, 48)] * 6000)
    return {"name": name, "source": str(path), "pace": "max"}


def ahead_s(header: ResultHeader) -> float:
    """By how much the capture process's wall clock was ahead of ours."""
    ours_ns = time.time_ns() - time.monotonic_ns()
    return (header.captured_utc_ns - header.captured_mono_ns - ours_ns) / 1e9


def test_a_clock_that_is_stepped_by_an_hour_changes_nothing_but_the_times_told(
    folder: Path, bundle: Path, tmp_path: Path
) -> None:
    """An hour forward, then two back, for all that asks libc: nothing is lost, INVALID, started again or silent."""
    faults = FaultyLibc(tmp_path)
    with StreamServer() as server:
        archive = {"folder": str(tmp_path / "kept"), "every_nth_pass": 1}
        daemon = DaemonProcess(folder, bundle, [camera(server)], archive=archive)
        daemon.environment = faults.environment
        with daemon, Ear(daemon.results) as ear:
            ear.judged(5)
            for seconds in (HOUR_S, -HOUR_S):
                faults.step_clock(seconds)
                ear.result(lambda header, s=seconds: abs(ahead_s(header) - s) < 60, "frames of the new time")
                ear.status(
                    lambda status, s=seconds: abs(status.utc_ns / 1e9 - time.time() - s) < 60, "status"
                )
                ear.judged(60)
            stop(daemon, ear)
    last = ear.statuses[-1]
    account = last.cameras["cam"]
    assert (account.invalid, account.absent, account.restarts) == (0, 0, 0)
    assert last.warnings == []
    times_ns = [header.captured_mono_ns for header in ear.results]
    assert max(after - before for before, after in pairwise(times_ns)) < 2e9


def test_a_bad_configuration_on_sighup_is_refused_and_the_old_one_goes_on(folder: Path, bundle: Path) -> None:
    """No YAML, a bundle that is not there, a key that needs a restart: a warning says it; the mended one is taken."""
    with StreamServer() as server, NotifySocket(folder) as systemd:
        cameras = [camera(server)]
        daemon = DaemonProcess(folder, bundle, cameras)
        daemon.environment = systemd.environment
        with daemon, Ear(daemon.results) as ear:
            ear.judged()
            good = daemon.config["recipes"]
            bad: list[tuple[dict[str, Any], str]] = [
                ({"line": "no line"}, "line: got 'no line'"),
                ({"line": "test", "recipes": {"default": {"bundle": f"{folder}/none"}}}, "does not exist"),
                ({"recipes": good, "cameras": [{**cameras[0], "slots": 3}]}, "cameras: changes only with a"),
            ]
            for number, (changes, said) in enumerate(bad):
                daemon.configure(**changes)
                daemon.process.send_signal(signal.SIGHUP)
                ear.status(lambda status, said=said: said in "".join(status.warnings), said)
                systemd.wait_for("READY=1", 2 + number)
                ear.judged(3)
            daemon.config_path.write_text("line: [")
            daemon.process.send_signal(signal.SIGHUP)
            ear.status(lambda status: "daemon.yaml:" in "".join(status.warnings), "no YAML")
            assert {header.threshold for header in ear.results} == {0.5}
            mended_ns = time.monotonic_ns()
            daemon.configure(cameras=cameras, recipes={"default": {"bundle": str(bundle), "fail": 0.75}})
            daemon.process.send_signal(signal.SIGHUP)
            taken = ear.result(lambda header: header.threshold == 0.75, "the mended configuration")
            seconds_to(taken, mended_ns, "configuration mended: in use after")
            ear.status(lambda status: status.warnings == [], "the warning ends")
            stop(daemon, ear)
        assert len(systemd.times_s("RELOADING=1")) == 5
    assert ear.statuses[-1].cameras["cam"].invalid == 0


def test_the_watchdog_is_fed_by_a_loop_that_turns_and_by_nothing_else(folder: Path, bundle: Path) -> None:
    """Fed in time while frames flow and while none do; a process that is stopped feeds no more, until it goes on."""
    watchdog_s = 3.0
    with StreamServer() as server, NotifySocket(folder, watchdog_s) as systemd:
        daemon = DaemonProcess(folder, bundle, [camera(server)])
        daemon.environment = systemd.environment
        with daemon, Ear(daemon.results) as ear:
            ear.judged(5)
            systemd.wait_for("WATCHDOG=1", 3)
            server.freeze()
            systemd.wait_for("WATCHDOG=1", 6)
            fed_s = systemd.times_s("WATCHDOG=1")
            daemon.process.send_signal(signal.SIGSTOP)
            wait_until(lambda: systemd.silence_s("WATCHDOG=1") > watchdog_s, "silence")
            fed = len(systemd.times_s("WATCHDOG=1"))
            server.thaw()
            daemon.process.send_signal(signal.SIGCONT)
            systemd.wait_for("WATCHDOG=1", fed + 1)
            ear.judged(5)
            stop(daemon, ear)
    gap_s = max(after - before for before, after in pairwise(fed_s))
    print(f"longest time between two feedings: {gap_s:.2f} s of {watchdog_s:g} allowed")
    assert gap_s < watchdog_s


def test_sigterm_under_load_drains(folder: Path, bundle: Path) -> None:
    """Three films at full speed and a stream: what is captured is judged or counted, status 0, in time."""
    films = [film(folder, name) for name in ("one", "two", "three")]
    with (
        StreamServer(rate=100) as server,
        DaemonProcess(folder, bundle, [camera(server), *films]) as daemon,
        Ear(daemon.results) as ear,
    ):
        for name in ("cam", "one", "two", "three"):
            ear.result(lambda header, name=name: header.camera == name, f"frames of {name}")
        ear.judged(100)
        stop(daemon, ear)
    last = ear.statuses[-1]
    assert all(0 < last.cameras[name].captured < 6000 for name in ("one", "two", "three"))
    assert all(last.cameras[name].dropped == {} for name in ("one", "two", "three"))


def test_sigterm_while_a_camera_is_lost(folder: Path, bundle: Path) -> None:
    """Its stream stands still, and so may its capture process: the daemon ends all the same."""
    with (
        StreamServer() as server,
        DaemonProcess(folder, bundle, [camera(server)]) as daemon,
        Ear(daemon.results) as ear,
    ):
        ear.judged(5)
        server.freeze()
        ear.result(lambda header: header.frame_id is None, "the loss is told")
        wait_until(lambda: len(daemon.capture_pids()) > 0, "it is tried again")
        stop(daemon, ear)


@pytest.fixture
def heavy_bundle(tmp_path: Path) -> Path:
    """A bundle that takes a while to read: 64 MiB of weights that nothing uses."""
    model = fakes.brightness_model()
    weights = helper.make_tensor("weights", TensorProto.UINT8, [64 << 20], bytes(64 << 20), raw=True)
    model.graph.initializer.append(weights)
    return fakes.write_bundle(tmp_path / "heavy", graph=model.SerializeToString())


def test_sigterm_while_the_first_recipe_loads(folder: Path, heavy_bundle: Path) -> None:
    """Nothing is judged yet; the daemon does not wait for the engine, and does not stumble over it."""
    with StreamServer() as server:
        for said in ("publishing on", "live camera", "self-test passed"):
            with DaemonProcess(folder, heavy_bundle, [camera(server)]) as daemon:
                wait_until(lambda daemon=daemon, said=said: said in daemon.log, said)
                stop(daemon, None)


def test_sigterm_while_another_recipe_loads(folder: Path, bundle: Path, heavy_bundle: Path) -> None:
    """Who asked for it is told; what was captured is judged by the old one."""
    recipes = {"default": {"bundle": str(bundle)}, "heavy": {"bundle": str(heavy_bundle)}}
    with StreamServer() as server, zmq.Context() as context:
        for frames in (0, 3, 8):  # so long after the request
            with (
                DaemonProcess(folder, bundle, [camera(server)], recipes=recipes) as daemon,
                Ear(daemon.results) as ear,
                context.socket(zmq.DEALER) as asker,
            ):
                asker.setsockopt(zmq.LINGER, 0)
                asker.setsockopt(zmq.RCVTIMEO, int(PATIENCE_S * 1e3))
                asker.connect(daemon.control)
                ear.judged(5)
                asker.send(encode_request(Recipe(recipe="heavy")))
                ear.judged(frames)
                stop(daemon, ear)
                reply = decode_reply(asker.recv_multipart()).reply
                assert reply.ok or "the daemon end" in reply.message
