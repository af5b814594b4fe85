"""What others do to the daemon's sockets: stop reading, come with a wrong key, talk nonsense, want its paths."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fakes
import pytest
import zmq
from dualkd.daemon.client import Controller, KeyDeniedError
from dualkd.daemon.control_messages import (
    MAX_REQUEST_BYTES,
    Pause,
    SetThreshold,
    Status,
    Trigger,
    decode_reply,
)
from dualkd.daemon.messages import ResultHeader
from hearing import Ear, seconds_to
from keyring import Keyring
from running import PATIENCE_S, DaemonProcess, free_port, wait_until
from stream_server import StreamServer

READER = """
import sys
from dualkd.daemon.client import Subscriber
with Subscriber(sys.argv[1], timeout_s=60, until_ended=True) as subscriber:
    for result in subscriber:
        print(result.header.seq, subscriber.lost, flush=True)
"""
MEMORY_MIB = 1.5  # more than a bounded daemon gains, and less than one gains that keeps all


class Reader:
    """A subscriber in a process of its own, that can be stopped; it writes down what it heard and lost."""

    def __init__(self, endpoint: str, notes: Path) -> None:
        self._notes = notes
        with notes.open("wb") as out:
            self.process = subprocess.Popen([sys.executable, "-c", READER, endpoint], stdout=out)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    @property
    def heard(self) -> list[tuple[int, int]]:
        """Of each verdict its seq, and how many messages were lost up to it."""
        lines = self._notes.read_text().splitlines()
        return [(int(seq), int(lost)) for seq, lost in (line.split() for line in lines)]


@contextmanager
def reader(endpoint: str, notes: Path) -> Iterator[Reader]:
    made = Reader(endpoint, notes)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()


def test_a_subscriber_that_stands_still_loses_messages_and_costs_nobody_anything(
    folder: Path, tmp_path: Path
) -> None:
    """when_full: drop. Others hear all, memory is bounded, and when it goes on it hears again and sees its gap."""
    bundle = fakes.write_bundle(tmp_path / "bundle", cell=1)  # 8 KiB a message
    publisher = {"high_water_mark": 50, "wait_for_subscribers": 2}
    with (
        StreamServer(rate=150) as server,
        DaemonProcess(folder, bundle, [{"name": "cam", "source": server.url}], publisher=publisher) as daemon,
        Ear(daemon.results) as ear,
        reader(daemon.results, tmp_path / "notes") as slow,
    ):
        wait_until(lambda: len(slow.heard) > 10, "it hears")
        slow.stop()
        ear.judged(80)  # its queue is full by now
        before_mib = daemon.resident_mib()
        ear.judged(400)
        grown_mib = daemon.resident_mib() - before_mib
        heard = len(slow.heard)
        slow.go_on()
        wait_until(lambda: len(slow.heard) > heard + 100, "it hears again")
        daemon.terminate()
        last = ear.to_the_end()
        assert daemon.wait() == 0
        slow.process.wait(PATIENCE_S)
    print(f"a subscriber stood still for 480 frames: the daemon grew by {grown_mib:.1f} MiB")
    assert grown_mib < MEMORY_MIB
    assert ear.lost == 0
    lost = slow.heard[-1][1]
    assert lost > 300
    assert (
        slow.heard[-1][0] + 1
        == len(ear.results)
        == last.cameras["cam"].captured - sum(last.cameras["cam"].dropped.values())
    )


def test_with_block_the_line_waits_for_a_subscriber_that_stands_still(folder: Path, tmp_path: Path) -> None:
    """when_full: block, for films. It stands still for a few seconds, and in the end nobody lost one message."""
    bundle = fakes.write_bundle(tmp_path / "bundle", cell=1)
    film = fakes.write_video(folder / "film.avi", [fakes.picture(fakes.DARK, 64, 48)] * 1000)
    publisher = {"high_water_mark": 50, "wait_for_subscribers": 2, "when_full": "block"}
    cameras = [{"name": "cam", "source": str(film), "pace": "max"}]
    with (
        DaemonProcess(folder, bundle, cameras, publisher=publisher) as daemon,
        Ear(daemon.results) as ear,
        reader(daemon.results, tmp_path / "notes") as slow,
    ):
        wait_until(lambda: len(slow.heard) > 10, "it hears")
        slow.stop()
        while ear.hears(within_s=2.0):
            pass
        waiting = len(ear.results)
        slow.go_on()
        last = ear.to_the_end()
        assert daemon.wait() == 0
        slow.process.wait(PATIENCE_S)
    assert waiting < 500
    assert len(ear.results) == 1000 == last.cameras["cam"].passed
    assert slow.heard == [(seq, 0) for seq in range(1000)]


def test_with_block_a_subscriber_that_stands_still_for_long_is_given_up(folder: Path, tmp_path: Path) -> None:
    """when_full: block. It answers no heartbeat for 8 s and is disconnected; the line goes on for the others."""
    bundle = fakes.write_bundle(tmp_path / "bundle", cell=1)
    film = fakes.write_video(folder / "film.avi", [fakes.picture(fakes.DARK, 64, 48)] * 500)
    publisher = {"high_water_mark": 50, "wait_for_subscribers": 2, "when_full": "block"}
    cameras = [{"name": "cam", "source": str(film), "pace": "max"}]
    with (
        DaemonProcess(folder, bundle, cameras, publisher=publisher) as daemon,
        Ear(daemon.results) as ear,
        reader(daemon.results, tmp_path / "notes") as slow,
    ):
        wait_until(lambda: len(slow.heard) > 10, "it hears")
        slow.stop()
        last = ear.to_the_end()
        assert daemon.wait() == 0
    assert len(ear.results) == 500 == last.cameras["cam"].passed
    assert last.cameras["cam"].dropped == {}


def test_a_subscriber_that_stands_still_does_not_hold_up_the_end(folder: Path, tmp_path: Path) -> None:
    """when_full: block, and SIGTERM: after drain_timeout_s what it did not take is counted, and the rest is told."""
    bundle = fakes.write_bundle(tmp_path / "bundle", cell=1)
    film = fakes.write_video(folder / "film.avi", [fakes.picture(fakes.DARK, 64, 48)] * 1000)
    publisher = {"high_water_mark": 50, "wait_for_subscribers": 2, "when_full": "block"}
    cameras = [{"name": "cam", "source": str(film), "pace": "max"}]
    with (
        DaemonProcess(
            folder, bundle, cameras, publisher=publisher, drain_timeout_s=1.0, stop_grace_s=1.0
        ) as daemon,
        Ear(daemon.results) as ear,
        reader(daemon.results, tmp_path / "notes") as slow,
    ):
        wait_until(lambda: len(slow.heard) > 10, "it hears")
        slow.stop()
        while ear.hears(within_s=2.0):
            pass
        daemon.terminate()
        last = ear.to_the_end()
        assert daemon.wait() == 0
    assert last.cameras["cam"].dropped["publisher: a full subscriber"] > 0


def test_a_wrong_key_gets_nothing_and_changes_nothing(folder: Path, bundle: Path, tmp_path: Path) -> None:
    """Strangers are denied on every socket, subscribers may not control; who is on the list hears every frame."""
    keys = Keyring(tmp_path)
    results, control = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
    curve = {
        "secret_key": str(keys.folder / "daemon.key_secret"),
        "subscribers": str(keys.subscribers),
        "controllers": str(keys.controllers),
    }
    with (
        StreamServer() as server,
        DaemonProcess(
            folder,
            bundle,
            [{"name": "cam", "source": server.url}],
            publisher={"results": results},
            control={"endpoint": control},
            curve=curve,
        ) as daemon,
        Ear(results, keys.client("watcher")) as ear,
    ):
        ear.judged(5)
        for _ in range(3):
            with Ear(results, keys.client("stranger")) as stranger, pytest.raises(KeyDeniedError):
                stranger.hear()
            for name in ("stranger", "watcher"):
                with Controller(control, keys=keys.client(name)) as denied, pytest.raises(KeyDeniedError):
                    denied.ask(Pause(), PATIENCE_S)
            with Ear(results) as keyless:
                assert not keyless.hears(within_s=0.5)
            ear.judged(5)
        with Controller(control, keys=keys.client("boss")) as boss:
            assert boss.ask(Status(), PATIENCE_S).reply.ok
        daemon.terminate()
        last = ear.to_the_end()
        assert daemon.wait() == 0
    assert not last.cameras["cam"].paused


NONSENSE = [
    b"nonsense",
    b"\xff\xfe\x00",
    b"[" * MAX_REQUEST_BYTES,
    b'{"command":"shoot"}',
    b'{"command":"pause","camera":"../../etc/passwd"}',
    b'{"command":"pause","camera":"nobody"}',
    b'{"command":"recipe","recipe":"/tmp/bundle"}',
    b'{"command":"threshold","recipe":"default","fail":NaN}',
    b'{"command":"threshold","recipe":"default","fail":2}',
    b'{"command":"trigger","camera":"cam","job_id":"' + b"j" * 1000 + b'"}',
    b'{"command":"status","schema":2}',
    b'{"command":"status","more":1}',
    b" " * (MAX_REQUEST_BYTES + 1),
]


def test_nonsense_on_the_control_socket_is_refused_while_frames_flow(folder: Path, bundle: Path) -> None:
    """Malformed and oversize requests, and bytes that are no ZeroMQ: refused or cut off, and no frame suffers."""
    with (
        StreamServer() as server,
        DaemonProcess(folder, bundle, [{"name": "cam", "source": server.url}]) as daemon,
        Ear(daemon.results) as ear,
    ):
        ear.judged(5)
        with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
            dealer.setsockopt(zmq.LINGER, 0)
            dealer.setsockopt(zmq.RCVTIMEO, int(PATIENCE_S * 1e3))
            dealer.connect(daemon.control)
            before_mib = daemon.resident_mib()
            for round_ in range(30):
                for raw in NONSENSE:
                    dealer.send(raw)
                    reply = decode_reply(dealer.recv_multipart()).reply
                    assert not reply.ok, raw[:80]
                    assert reply.message
                if round_ % 10 == 0:
                    shout_at(daemon.control)
                    dealer.send(b"x" * 1_000_000)  # cut off, and connected again by ZeroMQ
                    ear.judged(1)
                    wait_until(lambda: daemon.ask(Status()).ok, "others are served")
                    dealer.disconnect(daemon.control)
                    dealer.connect(daemon.control)
        assert daemon.resident_mib() - before_mib < MEMORY_MIB
        ear.judged(5)
        daemon.terminate()
        last = ear.to_the_end()
        assert daemon.wait() == 0
        assert "Traceback" not in daemon.log
    assert last.cameras["cam"].invalid == 0
    assert {header.threshold for header in ear.results} == {ear.results[0].threshold}


def shout_at(endpoint: str) -> None:
    """Connect without ZeroMQ and send what no protocol knows."""
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(endpoint.removeprefix("ipc://"))
        try:
            raw.sendall(b"GET / HTTP/1.1\r\n\r\n" + b"\xff" * 100_000)
        except (BrokenPipeError, ConnectionResetError):
            return


@pytest.mark.parametrize("taken", ["results", "scores", "control"])
def test_a_second_daemon_cannot_take_a_path(taken: str, folder: Path, bundle: Path, tmp_path: Path) -> None:
    """It ends with 6 and names the path; the first one's subscribers and controllers notice nothing."""
    with (
        StreamServer() as server,
        DaemonProcess(folder, bundle, [{"name": "cam", "source": server.url}]) as daemon,
        Ear(daemon.results) as ear,
    ):
        ear.judged(5)
        second = DaemonProcess(tmp_path, bundle, [{"name": "cam", "source": server.url}])
        addresses: dict[str, Any] = {
            "publisher": {key: f"ipc://{tmp_path}/{key}" for key in ("results", "scores")},
            "preview": {"endpoint": f"ipc://{tmp_path}/preview"},
            "control": {"endpoint": f"ipc://{tmp_path}/control"},
        }
        if taken in ("preview", "control"):
            addresses[taken]["endpoint"] = getattr(daemon, taken)
        else:
            addresses["publisher"][taken] = getattr(daemon, taken)
        second.configure(**addresses)
        with second:
            assert second.wait() == 6
            (said,) = [line for line in second.log.splitlines() if line.startswith("dualkd-daemon: ")]
            assert f"ipc://{folder}/{taken}: " in said
        ear.judged(5)
        assert daemon.ask(Status()).ok
        daemon.terminate()
        ear.to_the_end()
        assert daemon.wait() == 0


def test_triggers_and_requests_under_load_are_answered_in_order(folder: Path, bundle: Path) -> None:
    """Several triggers in flight beside a full engine and other requests: one verdict a job, in their order."""
    film = fakes.write_video(folder / "film.avi", [fakes.picture(fakes.DARK)] * 3000)
    jobs = [f"job-{number}" for number in range(60)]
    with (
        StreamServer(rate=100) as server,
        DaemonProcess(
            folder,
            bundle,
            [
                {"name": "cam", "source": server.url, "trigger": {"mode": "software", "queue": 8}},
                {"name": "load", "source": str(film), "pace": "max"},
            ],
        ) as daemon,
        Ear(daemon.results) as ear,
        Controller(daemon.control) as controller,
    ):
        ear.judged(5)
        full = 0
        for number, job in enumerate(jobs):
            while not (reply := controller.ask(Trigger(camera="cam", job_id=job), PATIENCE_S).reply).ok:
                assert "triggers are in flight" in reply.message
                full += 1
            if number % 5 == 0:
                assert controller.ask(Status(), PATIENCE_S).reply.ok
                fail = 0.5 + number / 1000
                assert controller.ask(SetThreshold(recipe="default", fail=fail), PATIENCE_S).reply.ok
        ear.result(lambda header: header.job_id == jobs[-1], "the last job")
        daemon.terminate()
        last = ear.to_the_end()
        assert daemon.wait() == 0
    answers = [header for header in ear.results if header.camera == "cam"]
    assert [header.job_id for header in answers] == jobs
    assert all(header.frame_id is not None and header.verdict != "INVALID" for header in answers)
    assert full > 0
    assert last.cameras["cam"].dropped["trigger: nobody asked"] > 0


def test_a_trigger_without_a_frame_is_invalid_never_silence(folder: Path, bundle: Path) -> None:
    """The camera's server stands still: each of several triggers gets its INVALID, in time and in order."""
    jobs = [f"job-{number}" for number in range(5)]
    trigger = {"mode": "software", "timeout_s": 0.5}
    with (
        StreamServer() as server,
        DaemonProcess(folder, bundle, [{"name": "cam", "source": server.url, "trigger": trigger}]) as daemon,
        Ear(daemon.results) as ear,
    ):
        ear.status(lambda status: status.cameras["cam"].captured > 5, "the camera runs")
        server.freeze()
        for job in jobs:
            assert daemon.ask(Trigger(camera="cam", job_id=job)).ok
        ear.result(lambda header: header.job_id == jobs[-1], "the last job")
        server.thaw()
        thawed_ns = ear.results[-1].captured_mono_ns
        again = answered_trigger(daemon, ear)
        seconds_to(again, thawed_ns, "server continued: a trigger gets its frame after")
        daemon.terminate()
        ear.to_the_end()
        assert daemon.wait() == 0
    answers = [header for header in ear.results if header.job_id in jobs]
    assert [header.job_id for header in answers] == jobs
    for header in answers[1:]:  # the first may have got a frame that was on its way
        assert header.verdict == "INVALID"
        assert header.reason == "no frame came within 0.5 s of the trigger (trigger.timeout_s)"


def answered_trigger(daemon: DaemonProcess, ear: Ear) -> ResultHeader:
    """Trigger until a frame comes; return its verdict."""
    for number in range(100):
        job = f"again-{number}"
        assert daemon.ask(Trigger(camera="cam", job_id=job)).ok
        answer = ear.result(lambda header, job=job: header.job_id == job, "the answer")
        if answer.frame_id is not None:
            return answer
    raise AssertionError("no trigger got a frame")
