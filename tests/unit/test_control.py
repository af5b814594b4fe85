"""The control socket, over real sockets with real keys."""

from __future__ import annotations

import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import zmq
from dualkd.daemon.client import Controller, ControllerTimeoutError, KeyDeniedError
from dualkd.daemon.config import ControlConfig
from dualkd.daemon.control import ControlError, ControlServer
from dualkd.daemon.control_messages import (
    MAX_REPLY_BYTES,
    MAX_REQUEST_BYTES,
    AnyRequest,
    Pause,
    ReceivedReply,
    Reply,
    Resume,
    Snapshot,
    Status,
    Trigger,
    decode_reply,
    encode_request,
)
from dualkd.daemon.curve import Security
from dualkd.daemon.parts import Call, Job
from keyring import Keyring
from running import PATIENCE_S, short_folder, wait_until

DONE = Reply(id="", ok=True, message="done")


class Line:
    """A control server whose triggers are noted, and where the service is the test."""

    def __init__(self, endpoint: str, security: Security | None = None, queue: int = 64) -> None:
        self.jobs: list[Job] = []
        self.why_not = ""
        self.server = ControlServer(ControlConfig(endpoint=endpoint, queue=queue), security, self._trigger)

    def _trigger(self, job: Job) -> str:
        self.jobs.append(job)
        return self.why_not

    def taken(self, count: int = 1) -> list[Call]:
        """That many calls, once they are there."""
        calls: list[Call] = []

        def there() -> bool:
            calls.extend(self.server.calls())
            return len(calls) >= count

        wait_until(there, f"{count} calls")
        return calls

    def __enter__(self) -> Line:
        self.server.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as path:
        yield path


@pytest.fixture
def line(folder: Path) -> Iterator[Line]:
    with Line(f"ipc://{folder}/c") as opened:
        yield opened


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path)


@pytest.fixture
def guarded(keyring: Keyring) -> Iterator[Line]:
    with Line("tcp://127.0.0.1:*", keyring.security()) as opened:
        yield opened


class Raw:
    """A client that sends what it likes."""

    def __init__(self, endpoint: str, kind: int = zmq.DEALER, keeps: int = 1000) -> None:
        """`keeps` replies that are not read yet."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(kind)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVHWM, keeps)
        self.socket.connect(endpoint)

    def ask(self, *parts: bytes) -> list[bytes]:
        self.socket.send_multipart(parts)
        assert self.socket.poll(int(PATIENCE_S * 1e3)), "no reply"
        return self.socket.recv_multipart()

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self._context.term()


class Asking(threading.Thread):
    """Asks in a thread of its own, because the answer is the test's to give."""

    def __init__(self, line: Line, request: AnyRequest) -> None:
        super().__init__()
        self._controller = Controller(line.server.endpoint)
        self._request = request
        self.received: ReceivedReply | None = None

    def run(self) -> None:
        with self._controller:
            self.received = self._controller.ask(self._request, PATIENCE_S)

    def reply(self) -> ReceivedReply:
        self.join(PATIENCE_S)
        assert self.received is not None
        return self.received


def test_a_request_waits_for_the_service_and_gets_its_answer(line: Line) -> None:
    """What was asked arrives as it was meant; the answer goes back to who asked, with the picture."""
    asking = Asking(line, Snapshot(camera="cam0"))
    asking.start()
    (call,) = line.taken()
    assert isinstance(call.request, Snapshot)
    assert call.request.camera == "cam0"
    call.answer(DONE, b"jpeg")
    received = asking.reply()
    assert (received.reply.ok, received.reply.message, received.jpeg) == (True, "done", b"jpeg")


def test_taking_calls_never_waits(line: Line) -> None:
    """The service's loop asks in every turn."""
    began_s = time.monotonic()
    assert line.server.calls() == []
    assert time.monotonic() - began_s < 1.0


def test_an_answer_may_come_from_any_thread(line: Line) -> None:
    """Twenty requests answered from twenty threads, in the other order: each gets its own."""
    askings = [Asking(line, Pause(camera=f"cam{n}")) for n in range(20)]
    for asking in askings:
        asking.start()
    answers = []
    for call in reversed(line.taken(20)):
        assert isinstance(call.request, Pause)
        reply = Reply(id=call.request.id, ok=True, message=str(call.request.camera))
        answers.append(threading.Thread(target=call.answer, args=(reply, None)))
    for answer in answers:
        answer.start()
    assert [asking.reply().reply.message for asking in askings] == [f"cam{n}" for n in range(20)]


def test_a_trigger_is_stamped_and_answered_while_the_service_is_busy(line: Line) -> None:
    """Nobody takes calls; the job is handed on at once, with a time between asking and the answer."""
    with Controller(line.server.endpoint) as controller:
        before_ns = time.monotonic_ns()
        reply = controller.ask(Trigger(camera="cam0", job_id="part-7"), PATIENCE_S).reply
        after_ns = time.monotonic_ns()
    assert reply.ok, reply.message
    (job,) = line.jobs
    assert (job.camera, job.job_id) == ("cam0", "part-7")
    assert before_ns <= job.received_mono_ns <= after_ns


def test_a_trigger_that_cannot_be_taken_says_why(line: Line) -> None:
    """The camera's own words."""
    line.why_not = "camera cam0 is not triggered by software"
    with Controller(line.server.endpoint) as controller:
        reply = controller.ask(Trigger(camera="cam0", job_id="1"), PATIENCE_S).reply
    assert (reply.ok, reply.message) == (False, line.why_not)


def test_a_trigger_that_fails_does_not_end_the_thread(folder: Path) -> None:
    """An error inside is answered as one, and the next request too."""

    def fail(job: Job) -> str:
        raise RuntimeError(job.job_id)

    server = ControlServer(ControlConfig(endpoint=f"ipc://{folder}/c"), None, fail)
    server.open()
    with Controller(server.endpoint) as controller:
        for _ in range(2):
            reply = controller.ask(Trigger(camera="cam0", job_id="1"), PATIENCE_S).reply
            assert (reply.ok, "see its log" in reply.message) == (False, True)
    server.close()


def test_a_thousand_malformed_requests_get_their_errors_and_then_a_good_one_is_served(line: Line) -> None:
    """Each error says what does not fit, with the request's id where it has one."""
    bad = [b"", b"{", b"[]", b"\xff", b'{"command":"nope","id":"7"}', b'{"command":"status","id":"\xff"}']
    bad += [
        b'{"command":"trigger","camera":"../x","job_id":"1"}',
        b'{"command":"status","schema":2}',
        b"[" * 9000,
    ]
    with Raw(line.server.endpoint) as raw:
        for n in range(1000):
            reply, jpeg = decode_reply(raw.ask(b"", bad[n % len(bad)])[1:])
            assert not reply.ok
            assert reply.message
            assert jpeg is None
            assert reply.id == ("7" if n % len(bad) == 4 else "")
        assert decode_reply(raw.ask(encode_request(Trigger(camera="cam0", job_id="1")))).reply.ok
    assert line.server.calls() == []


@pytest.mark.parametrize("kind", [zmq.REQ, zmq.DEALER])
def test_req_and_dealer_are_served(line: Line, kind: int) -> None:
    """REQ puts a delimiter before the request and wants it back; DEALER has none."""
    with Raw(line.server.endpoint, kind) as raw:
        parts = raw.ask(encode_request(Trigger(camera="cam0", job_id="1", id="x")))
    assert decode_reply(parts).reply == Reply(
        id="x", ok=True, message="camera cam0: job 1 waits for its frame"
    )


def test_an_envelope_of_several_addresses_comes_back(line: Line) -> None:
    """As proxies make it: addresses, the delimiter, the request."""
    with Raw(line.server.endpoint) as raw:
        parts = raw.ask(b"hop1", b"hop2", b"", encode_request(Trigger(camera="cam0", job_id="1")))
    assert parts[:3] == [b"hop1", b"hop2", b""]
    assert decode_reply(parts[3:]).reply.ok


@pytest.mark.parametrize(
    ("parts", "said"),
    [([b"a", b"b"], "one part, got 2"), ([b"", b"a", b"b"], "one part, got 2"), ([b"x"] * 40, "got 41")],
)
def test_a_message_of_too_many_parts_is_an_error(line: Line, parts: list[bytes], said: str) -> None:
    """Said, not guessed at."""
    with Raw(line.server.endpoint) as raw:
        reply = decode_reply([part for part in raw.ask(*parts) if part]).reply
    assert (reply.ok, said in reply.message) == (False, True)


def test_an_oversize_request_cuts_its_sender_off_and_nobody_else(line: Line) -> None:
    """A little too much is answered, far too much ends the connection, others go on."""
    with Raw(line.server.endpoint) as large, Raw(line.server.endpoint) as other:
        said = decode_reply(large.ask(b" " * (MAX_REQUEST_BYTES + 1))).reply.message
        assert f"at most {MAX_REQUEST_BYTES} bytes, got {MAX_REQUEST_BYTES + 1}" in said
        monitor = large.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        large.socket.send(b" " * 10_000_000)
        assert monitor.poll(int(PATIENCE_S * 1e3)), "still connected"
        large.socket.disable_monitor()
        monitor.close()
        assert decode_reply(other.ask(encode_request(Trigger(camera="cam0", job_id="1")))).reply.ok


def test_a_full_queue_is_said_and_empties(folder: Path) -> None:
    """Two requests may wait for an answer, taken or not: the third is busy; after an answer there is room."""
    with Line(f"ipc://{folder}/c", queue=2) as line, Raw(line.server.endpoint) as raw:
        pause = encode_request(Pause())
        raw.socket.send(pause)
        raw.socket.send(pause)
        assert "busy: 2 requests are waiting" in decode_reply(raw.ask(pause)).reply.message
        first, second = line.taken(2)
        assert "busy" in decode_reply(raw.ask(pause)).reply.message
        first.answer(DONE, None)
        assert decode_reply(_received(raw)).reply.ok
        raw.socket.send(encode_request(Resume()))
        (third,) = line.taken()
        assert isinstance(third.request, Resume)
        second.answer(DONE, None)
        third.answer(DONE, None)


def _received(raw: Raw) -> list[bytes]:
    assert raw.socket.poll(int(PATIENCE_S * 1e3)), "no reply"
    return raw.socket.recv_multipart()


def test_an_answer_given_twice_or_after_the_end_goes_nowhere(line: Line) -> None:
    """And harms nobody; who waited when the daemon ended is told."""
    asking = Asking(line, Status())
    asking.start()
    (call,) = line.taken()
    call.answer(DONE, None)
    call.answer(msgspec.structs.replace(DONE, message="again"), None)
    assert asking.reply().reply.message == "done"
    waiting = [Asking(line, Status()), Asking(line, Pause())]
    for asking in waiting:
        asking.start()
    calls = line.taken(2)
    line.server.close()
    calls[0].answer(DONE, None)
    assert [asking.reply().reply.ok for asking in waiting] == [False, False]
    assert "ended before it was done" in waiting[0].reply().reply.message


def test_a_client_that_went_away_is_no_error(line: Line) -> None:
    """Its answer is dropped; the next client is served."""
    with Raw(line.server.endpoint) as raw:
        raw.socket.send(encode_request(Status()))
        (call,) = line.taken()
    call.answer(DONE, b"x" * 100_000)
    with Controller(line.server.endpoint) as controller:
        assert controller.ask(Trigger(camera="cam0", job_id="1"), PATIENCE_S).reply.ok


def test_a_slow_client_holds_nobody_up(folder: Path) -> None:
    """One asks for hundreds of pictures and reads none: others are answered, and few of its own are kept."""
    with Line(f"ipc://{folder}/c", queue=1) as line, Raw(line.server.endpoint, keeps=1) as slow:
        for _ in range(300):
            slow.socket.send(encode_request(Snapshot(camera="cam0")))
            (call,) = line.taken()
            call.answer(DONE, bytes(300_000))
        with Controller(line.server.endpoint) as controller:
            assert controller.ask(Trigger(camera="cam0", job_id="1"), PATIENCE_S).reply.ok
        probe = encode_request(Trigger(camera="cam0", job_id="probe", id="probe"))
        pictures = 0
        while True:
            if not slow.socket.poll(100):
                slow.socket.send(probe)  # its reply comes behind all pictures that were kept
                continue
            received = decode_reply(slow.socket.recv_multipart())
            if received.reply.id == "probe":
                break
            pictures += 1
        assert 0 < pictures < 100


def test_a_picture_too_big_for_a_reply_is_an_error(line: Line) -> None:
    """The client would take it for an attack and hang up."""
    asking = Asking(line, Snapshot(camera="cam0"))
    asking.start()
    (call,) = line.taken()
    call.answer(DONE, bytes(MAX_REPLY_BYTES + 1))
    received = asking.reply()
    assert (received.reply.ok, received.jpeg) == (False, None)
    assert f"more than the {MAX_REPLY_BYTES} allowed" in received.reply.message


def test_two_daemons_cannot_have_one_path(line: Line, folder: Path) -> None:
    """The second is refused and leaves nothing open; the first goes on."""
    second = Line(f"ipc://{folder}/c")
    with pytest.raises(ControlError, match=r"control\.endpoint: .* in use by another daemon"):
        second.server.open()
    with Controller(line.server.endpoint) as controller:
        assert controller.ask(Trigger(camera="cam0", job_id="1"), PATIENCE_S).reply.ok
    line.server.close()
    with second:
        assert second.server.endpoint == f"ipc://{folder}/c"


def test_the_ipc_socket_is_open_to_us_and_our_group_only(line: Line, folder: Path) -> None:
    """0660, and its lock 0600."""
    assert line.server.endpoint
    assert stat.S_IMODE((folder / "c").stat().st_mode) == 0o660
    assert stat.S_IMODE((folder / "c.lock").stat().st_mode) == 0o600


def test_other_hosts_are_not_served_without_keys() -> None:
    """Even where the configuration was not checked."""
    config = msgspec.convert({"endpoint": "tcp://0.0.0.0:*"}, ControlConfig)
    with pytest.raises(ControlError, match="there is no key"):
        ControlServer(config, None, lambda _: "").open()


def test_a_used_port_is_refused() -> None:
    """With the endpoint and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        line = Line(f"tcp://127.0.0.1:{other.getsockname()[1]}")
        with pytest.raises(ControlError, match="the address is in use"):
            line.server.open()


def test_no_endpoint_is_no_control() -> None:
    """Nothing is opened, nothing comes, closing is fine."""
    server = ControlServer(ControlConfig(endpoint=None), None, lambda _: "")
    server.open()
    assert (server.endpoint, server.calls()) == ("", [])
    server.close()


def asks(line: Line, keyring: Keyring, who: str) -> Callable[[], ReceivedReply]:
    def ask() -> ReceivedReply:
        with Controller(line.server.endpoint, keys=keyring.client(who)) as controller:
            return controller.ask(Trigger(camera="cam0", job_id="1"), PATIENCE_S)

    return ask


def test_a_controller_s_key_is_let_in(guarded: Line, keyring: Keyring) -> None:
    """Over TCP, once there are keys."""
    assert asks(guarded, keyring, "boss")().reply.ok


@pytest.mark.parametrize("who", ["watcher", "stranger"])
def test_any_other_key_is_denied(guarded: Line, keyring: Keyring, who: str) -> None:
    """One that may only subscribe, and one that may nothing; nothing of theirs is carried out."""
    with pytest.raises(KeyDeniedError, match="denies this key"):
        asks(guarded, keyring, who)()
    assert guarded.jobs == []


@pytest.mark.parametrize("keys", ["none", "of another daemon"])
def test_no_key_and_a_wrong_server_key_get_no_answer(guarded: Line, keyring: Keyring, keys: str) -> None:
    """The client ends in time and says what may be wrong."""
    wrong = replace(keyring.client("boss"), server=keyring.client("stranger").public)
    silent = pytest.raises(ControllerTimeoutError, match=r"--server-key|nobody listens")
    with Controller(guarded.server.endpoint, keys=None if keys == "none" else wrong) as controller, silent:
        controller.ask(Status(), 0.5)
    assert guarded.server.calls() == []


def test_a_key_taken_out_of_the_folder_is_refused_at_once(keyring: Keyring) -> None:
    """After the reload the open connection's next request is, and a new connection too; put back, it works."""
    security = keyring.security()
    trigger = Trigger(camera="cam0", job_id="1")
    with Line("tcp://127.0.0.1:*", security) as line:
        with Controller(line.server.endpoint, keys=keyring.client("boss")) as controller:
            assert controller.ask(trigger, PATIENCE_S).reply.ok
            (keyring.controllers / "boss.key").unlink()
            assert controller.ask(trigger, PATIENCE_S).reply.ok
            security.reload()
            reply = controller.ask(trigger, PATIENCE_S).reply
            assert (reply.ok, reply.message) == (False, "this key may not control any more")
        with pytest.raises(KeyDeniedError):
            asks(line, keyring, "boss")()
        keyring.allow(keyring.controllers, "boss")
        security.reload()
        assert asks(line, keyring, "boss")().reply.ok
        assert len(line.jobs) == 3
    assert security.denied == {"control": 2}


def test_nobody_answers_is_said_in_time(folder: Path) -> None:
    """No daemon: an error with what to look at, never a hang."""
    silent = pytest.raises(ControllerTimeoutError, match="nobody listens there")
    with Controller(f"ipc://{folder}/nobody") as controller, silent:
        controller.ask(Status(), 0.1)


def test_a_late_answer_is_not_taken_for_the_next(line: Line) -> None:
    """A request was given up; its answer comes just before the next one's, and is passed over."""
    with Controller(line.server.endpoint) as controller:
        with pytest.raises(ControllerTimeoutError, match=r"connection is up|nobody listens|somebody"):
            controller.ask(Pause(), 0.05)
        (late,) = line.taken()
        late.answer(msgspec.structs.replace(DONE, message="late"), None)
        reply = controller.ask(Trigger(camera="cam0", job_id="1"), PATIENCE_S).reply
    assert "job 1" in reply.message
