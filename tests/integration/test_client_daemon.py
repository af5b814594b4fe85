"""The client library beside a real daemon: what it says of a line that dies, hangs and comes back; previews."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import fakes
import jsonschema
import msgspec
import zmq
from dualkd.daemon import control_messages as requests
from dualkd.daemon.client import Preview, Subscriber, SubscriberTimeoutError
from dualkd.daemon.client.schemas import schema
from hearing import Ear
from running import PATIENCE_S, DaemonProcess, wait_until
from stream_server import StreamServer

FREE = {"wait_for_subscribers": 0}
TOLD_S = 6.0  # promised are 2; a busy test machine gets more


def hear(subscriber: Subscriber) -> None:
    """Take what comes in a moment."""
    try:
        subscriber.receive(0.02)
    except SubscriberTimeoutError:
        return


def seconds_to(fault: str, subscriber: Subscriber) -> float:
    """How long it takes from now until the camera's verdicts are not believed any more, for this reason."""
    began_s = time.monotonic()

    def told() -> bool:
        hear(subscriber)
        return fault in subscriber.camera_fault("cam")

    wait_until(told, f"a fault: {fault}")
    return time.monotonic() - began_s


def wait_for_verdicts(subscriber: Subscriber) -> None:
    def believed() -> bool:
        hear(subscriber)
        return not subscriber.camera_fault("cam")

    wait_until(believed, "verdicts that can be believed")


def test_a_daemon_that_hangs_or_dies_is_told_within_two_seconds_and_its_return_too(
    folder: Path, bundle: Path
) -> None:
    """Stopped, continued, killed and started again: no old verdict counts in between."""
    with (
        StreamServer() as server,
        Subscriber(f"ipc://{folder}/results") as subscriber,
    ):
        cameras = [{"name": "cam", "source": server.url}]
        with DaemonProcess(folder, bundle, cameras, publisher=FREE) as daemon:
            wait_for_verdicts(subscriber)
            daemon.process.send_signal(signal.SIGSTOP)
            assert seconds_to("the daemon has been silent", subscriber) < TOLD_S
            daemon.process.send_signal(signal.SIGCONT)
            wait_for_verdicts(subscriber)
            daemon.process.kill()
            assert seconds_to("no connection", subscriber) < TOLD_S
        with DaemonProcess(folder, bundle, cameras, publisher=FREE):
            wait_for_verdicts(subscriber)


def test_a_camera_that_falls_silent_is_told_within_two_seconds(folder: Path, bundle: Path) -> None:
    """By the daemon's own INVALID, before any status."""
    with (
        StreamServer() as server,
        DaemonProcess(folder, bundle, [{"name": "cam", "source": server.url}], publisher=FREE) as daemon,
        Subscriber(daemon.results) as subscriber,
    ):
        wait_for_verdicts(subscriber)
        server.freeze()
        assert seconds_to("the camera was lost", subscriber) < TOLD_S
        server.thaw()
        wait_for_verdicts(subscriber)


def test_previews_come_beside_verdicts_and_only_while_somebody_looks(folder: Path, bundle: Path) -> None:
    """A preview carries the very verdict that was published for its frame; no message of it fits no schema."""
    with (
        StreamServer() as server,
        DaemonProcess(folder, bundle, [{"name": "cam", "source": server.url}]) as daemon,
        Ear(daemon.results) as ear,
    ):
        ear.judged(3)
        with Subscriber(daemon.preview) as viewer:
            shown = viewer.receive(PATIENCE_S)
            assert isinstance(shown, Preview)
            wanted = shown.header.result.frame_id
            heard = [header for header in ear.results if header.frame_id == wanted]  # it was shown at once
            same = heard or [ear.result(lambda header: header.frame_id == wanted, "the preview's verdict")]
            assert same == [shown.header.result]
            again = viewer.receive(PATIENCE_S)
            assert (again.header.seq, again.lost) == (1, 0)
        daemon.terminate()
        ear.to_the_end()


def test_what_the_daemon_sends_fits_the_schemas(folder: Path, bundle: Path) -> None:
    """Raw bytes off its sockets, verdicts of all kinds, status, preview and replies."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    validators = {
        name: jsonschema.Draft202012Validator(schema(name)) for name in ("result", "status", "preview")
    }
    seen: set[str] = set()
    with (
        StreamServer() as server,
        DaemonProcess(folder, bundle, [{"name": "cam", "source": server.url}], publisher=FREE) as daemon,
        context.socket(zmq.SUB) as socket,
    ):
        for endpoint in (daemon.results, daemon.preview):
            socket.connect(endpoint)
        socket.subscribe("")
        socket.setsockopt(zmq.RCVTIMEO, int(PATIENCE_S * 1e3))
        deadline_s = time.monotonic() + PATIENCE_S
        while {"PASS", "FAIL", "INVALID", "status", "preview"} - seen and time.monotonic() < deadline_s:
            header = json.loads(socket.recv_multipart()[1])
            validators[header["kind"]].validate(header)
            seen |= {header["kind"], header.get("verdict", "status")}
            if "FAIL" in seen:
                server.serve("black")
        assert {"PASS", "FAIL", "INVALID", "status", "preview"} <= seen
        reply = daemon.ask(requests.Status())
        jsonschema.Draft202012Validator(schema("reply")).validate(json.loads(msgspec.json.encode(reply)))
    context.term()


def test_a_viewer_that_hangs_costs_the_line_nothing(folder: Path, bundle: Path) -> None:
    """A subscriber to everything that never reads: every frame still gets its verdict, in order."""
    with (
        StreamServer() as server,
        DaemonProcess(folder, bundle, [{"name": "cam", "source": server.url}]) as daemon,
        Ear(daemon.results) as ear,
        Subscriber(daemon.preview) as hanging,
    ):
        assert isinstance(hanging.receive(PATIENCE_S), Preview)
        first = ear.judged(25)[-1]  # no camera waits for the daemon's start
        ear.judged(60)
        assert ear.lost == 0
        numbers = [header.frame_id for header in ear.results if header.frame_id is not None]
        assert numbers[numbers.index(first.frame_id) :] == list(range(first.frame_id or 0, numbers[-1] + 1))
        daemon.terminate()
        ear.to_the_end()


def test_a_film_that_loops_never_ends(folder: Path, bundle: Path, tmp_path: Path) -> None:
    """Frames are counted on over the seam, and none is lost at it."""
    film = fakes.write_video(tmp_path / "film.avi", [fakes.picture(fakes.DARK)] * 10)
    cameras = [{"name": "cam", "source": str(film), "loop": True, "pace": "max"}]
    with (
        DaemonProcess(folder, bundle, cameras) as daemon,
        Ear(daemon.results) as ear,
    ):
        assert [header.frame_id for header in ear.judged(35)] == list(range(35))
        daemon.terminate()
        ear.to_the_end()
