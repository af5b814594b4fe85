"""The client library: whether a line lives, asyncio over real sockets, schemas, and what version 1 promises."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from dualkd.daemon.client import (
    AsyncController,
    AsyncSubscriber,
    ControllerTimeoutError,
    KeyDeniedError,
    Result,
    Status,
    Subscriber,
    SubscriberTimeoutError,
    reception,
)
from dualkd.daemon.client.liveness import Liveness
from dualkd.daemon.client.schemas import MESSAGES, schema, write
from dualkd.daemon.config import ControlConfig, PublisherConfig
from dualkd.daemon.control import ControlServer
from dualkd.daemon.control_messages import Pause, Reply, Resume, Trigger, encode_request
from dualkd.daemon.curve import Security
from dualkd.daemon.messages import MessageError, ResultHeader, StageTimes, StatusHeader, encode_results
from dualkd.daemon.parts import Job
from dualkd.daemon.publisher import ZmqPublisher
from headers import camera_status, result_header, status_header
from keyring import Keyring
from running import PATIENCE_S, short_folder, wait_until

TOPIC, STATUS_TOPIC = "v1/line/cam/result", "v1/line/status"
SCHEMAS = Path(reception.__file__).parent / "schemas"
GOLDEN = json.loads((Path(__file__).parents[1] / "wire_v1.json").read_text())


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, PATIENCE_S))


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as path:
        yield path


# Whether a line lives


def status(**changes: Any) -> Status:
    camera = camera_status(**changes.pop("camera", {}))
    return Status(STATUS_TOPIC, status_header({"cam": camera}, **changes), 0)


def result(**changes: Any) -> Result:
    return Result(TOPIC, result_header(**changes), None, 0)


def heard(*messages: Status | Result, at_s: float = 0.0, period_s: float | None = None) -> Liveness:
    liveness = Liveness({} if period_s is None else {"cam": period_s})
    for message in messages:
        liveness.take(message, at_s)
    return liveness


def test_a_line_that_was_never_heard_does_not_live() -> None:
    """Not even with a connection: somebody else may listen there."""
    assert Liveness({}).daemon_fault(True, 0.0) == "the daemon has said nothing yet"
    assert "no connection" in Liveness({}).daemon_fault(False, 0.0)


def test_a_daemon_may_be_silent_for_one_and_a_half_heartbeats_and_a_batch() -> None:
    """So a slow engine is not taken for a dead one, and with a quick one silence is told within two seconds."""
    slow = result(stage_ms=StageTimes(wait=0, resize=0, infer=900.0, decide=0, total=0))
    liveness = heard(status(), slow)
    assert liveness.daemon_fault(True, 2.3) == ""
    assert liveness.daemon_fault(True, 2.5) == "the daemon has been silent for 2.4 s"
    quick = heard(status(), result())
    assert quick.daemon_fault(True, 1.49) == ""
    assert quick.daemon_fault(True, 1.6) == "the daemon has been silent for 1.5 s"


def test_a_verdict_counts_until_something_speaks_against_it() -> None:
    """Alone, a camera may be as slow as it likes; with an expected period it may be late once."""
    assert heard(status(), result()).camera_fault("cam", True, 1.4) == ""
    liveness = heard(status(), result(), period_s=0.2)
    assert liveness.camera_fault("cam", True, 0.39) == ""
    assert liveness.camera_fault("cam", True, 0.41) == "no verdict for 0.4 s, one is expected every 0.2 s"


@pytest.mark.parametrize(
    ("news", "fault"),
    [
        (status(camera={"state": "lost", "reason": "no frame for 1.5 s"}), "lost: no frame for 1.5 s"),
        (status(camera={"state": "ended"}), "source has ended"),
        (status(camera={"state": "opening"}), "being opened"),
        (status(camera={"paused": True}), "is paused"),
        (result(frame_id=None, verdict="INVALID", reason="the camera was lost"), "the camera was lost"),
        (status(state="ended", reason="the engine failed"), "the daemon has ended: the engine failed"),
        (status(boot_id="another"), "no verdict yet"),
    ],
)
def test_what_speaks_against_a_verdict(news: Status | Result, fault: str) -> None:
    """And the old verdict does not count again when it is over; a new one does, before any status says so."""
    liveness = heard(status(), result(), news)
    assert fault in liveness.camera_fault("cam", True, 0.0)
    if "ended" not in fault or "source" in fault:
        liveness.take(status(boot_id=news.header.boot_id), 0.1)
        assert liveness.camera_fault("cam", True, 0.1) == "no verdict yet"
        liveness.take(news, 0.2)
        liveness.take(result(boot_id=news.header.boot_id), 0.2)
        assert liveness.camera_fault("cam", True, 0.2) == ""


def test_silence_and_a_lost_connection_end_old_verdicts() -> None:
    """When the daemon is heard again, what it said before says nothing of now."""
    silent = heard(status(), result())
    silent.take(status(), 10.0)
    assert silent.camera_fault("cam", True, 10.0) == "no verdict yet"
    cut = heard(status(), result())
    assert "no connection" in cut.camera_fault("cam", False, 0.1)
    assert cut.camera_fault("cam", True, 0.2) == "no verdict yet"


def test_a_retained_verdict_and_an_unanswered_trigger_are_told_apart_from_frames() -> None:
    """The first is old; the second is a verdict on a job, and says nothing against the camera."""
    assert heard(status(), result(retained=True)).camera_fault("cam", True, 0.0) == "no verdict yet"
    unanswered = result(frame_id=None, job_id="job", verdict="INVALID", reason="no frame in time")
    assert heard(status(), unanswered).camera_fault("cam", True, 0.0) == ""


def test_an_unknown_camera_is_named_with_those_there_are() -> None:
    """Somebody mistyped it in a bridge's configuration."""
    assert heard(status()).camera_fault("cma", True, 0.0) == "the daemon has no camera 'cma'; it has: cam"


def test_a_hostile_daemon_cannot_fill_the_memory_with_topics(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound far above what a line has."""
    monkeypatch.setattr(reception, "MAX_TOPICS", 3)
    received = reception.Reception(newest_only=False)
    for name in ("a", "b", "c"):
        received.take(encode_results(f"v1/line/{name}/result", result_header(camera=name)))
    with pytest.raises(MessageError, match="more than 3 topics"):
        received.take(encode_results("v1/line/d/result", result_header(camera="d")))


# asyncio


def publishing(folder: Path, security: Security | None = None, results: str | None = None) -> ZmqPublisher:
    config = PublisherConfig(results=results or f"ipc://{folder}/r", scores=f"ipc://{folder}/s", linger_ms=0)
    publisher = ZmqPublisher(config, security)
    publisher.open()
    return publisher


async def subscribed(publisher: ZmqPublisher) -> None:
    while not publisher.subscriptions:
        publisher.serve_subscriptions()
        await asyncio.sleep(0.005)


def test_an_async_subscriber_receives_what_a_thread_would(folder: Path) -> None:
    """Verdicts in order with gaps counted, statuses aside, the last values kept, and the end ends it."""
    publisher = publishing(folder)

    async def listen() -> None:
        async with AsyncSubscriber(publisher.endpoints[0], until_ended=True) as subscriber:
            await subscribed(publisher)
            publisher.publish(STATUS_TOPIC, status_header({"cam": camera_status()}))
            for seq in (0, 1, 4):
                publisher.publish(TOPIC, result_header(seq=seq, score=seq / 10))
            publisher.publish(STATUS_TOPIC, status_header({"cam": camera_status()}, seq=1, state="ended"))
            scores = [(received.header.score, received.lost) async for received in subscriber]
            assert scores == [(0.0, 0), (0.1, 0), (0.4, 2)]
            assert subscriber.lost == 2
            assert subscriber.last["cam"].header.seq == 4
            assert subscriber.daemon_fault() == "the daemon has ended"

    run(listen())
    publisher.close()


def test_an_async_subscriber_says_why_nothing_comes_and_loses_nothing_by_being_cancelled(
    folder: Path,
) -> None:
    """Silence has a reason in it, as for a thread."""
    publisher = publishing(folder)

    async def listen() -> None:
        async with AsyncSubscriber(publisher.endpoints[0]) as subscriber:
            await subscribed(publisher)
            for seq in range(50):
                waiting = asyncio.create_task(subscriber.receive())
                await asyncio.sleep(0)
                publisher.publish(TOPIC, result_header(seq=2 * seq))
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
                publisher.publish(TOPIC, result_header(seq=2 * seq + 1))
                last = -1
                while last != 2 * seq + 1:
                    last = (await subscriber.receive(PATIENCE_S)).header.seq
            assert subscriber.lost == 0
            with pytest.raises(SubscriberTimeoutError, match="the connection is up"):
                await subscriber.receive(0.05)

    run(listen())
    publisher.close()


def test_an_async_subscriber_with_a_key_that_is_not_allowed_is_told(tmp_path: Path, folder: Path) -> None:
    """As a thread is."""
    keyring = Keyring(tmp_path)
    publisher = publishing(folder, keyring.security(), "tcp://127.0.0.1:*")

    async def listen() -> None:
        async with AsyncSubscriber(publisher.endpoints[0], keys=keyring.client("stranger")) as subscriber:
            with pytest.raises(KeyDeniedError, match="the daemon denies this key"):
                await subscriber.receive(PATIENCE_S)

    run(listen())
    publisher.close()


class ControlledLine:
    """A control server that answers: triggers at once, all else when the test says so."""

    def __init__(self, endpoint: str) -> None:
        self.jobs: list[str] = []
        self.server = ControlServer(ControlConfig(endpoint=endpoint), None, self._trigger)

    def _trigger(self, job: Job) -> str:
        self.jobs.append(job.job_id)
        return ""

    def __enter__(self) -> ControlledLine:
        self.server.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.close()


def test_an_async_controller_has_any_number_of_requests_under_way(folder: Path) -> None:
    """Each gets its own answer, in whatever order they come; a trigger does not wait for a slow one."""
    endpoint = f"ipc://{folder}/control"

    async def ask(line: ControlledLine) -> None:
        async with AsyncController(endpoint) as controller:
            slow = [
                asyncio.create_task(controller.ask(request, PATIENCE_S))
                for request in (Pause(camera="a"), Resume(camera="b"))
            ]
            calls = []
            while len(calls) < 2:
                calls += line.server.calls()
                await asyncio.sleep(0.005)
            assert (await controller.ask(Trigger(camera="a", job_id="1"), PATIENCE_S)).reply.ok
            assert line.jobs == ["1"]
            for call in reversed(calls):
                request = call.request
                assert isinstance(request, Pause | Resume)
                call.answer(Reply(id=request.id, ok=True, message=str(request.camera)), None)
            assert [(await task).reply.message for task in slow] == ["a", "b"]

    with ControlledLine(endpoint) as line:
        run(ask(line))


def test_a_request_to_a_daemon_that_is_away_is_not_carried_out_when_it_comes_back(folder: Path) -> None:
    """Or a trigger that a PLC gave up long ago would take a picture of another part."""
    endpoint = f"ipc://{folder}/control"

    async def ask() -> None:
        async with AsyncController(endpoint) as controller:
            with pytest.raises(ControllerTimeoutError, match="nobody listens there"):
                await controller.ask(Trigger(camera="a", job_id="old"), 0.2)
            with ControlledLine(endpoint) as line:
                assert (await controller.ask(Trigger(camera="a", job_id="new"), PATIENCE_S)).reply.ok
                assert line.jobs == ["new"]

    run(ask())


# Schemas, and what version 1 promises


def test_the_schema_files_are_those_of_the_code(tmp_path: Path) -> None:
    """After a change of the wire: python -m dualkd.daemon.client.schemas daemon/client/schemas."""
    for path in write(tmp_path):
        assert (SCHEMAS / path.name).read_text() == path.read_text(), path.name
    assert sorted(path.stem for path in SCHEMAS.iterdir()) == sorted(MESSAGES)


@pytest.mark.parametrize("name", MESSAGES)
def test_a_schema_is_one(name: str) -> None:
    """Of the draft that it names."""
    jsonschema.Draft202012Validator.check_schema(schema(name))


def test_requests_fit_their_schema_and_misspelt_ones_do_not() -> None:
    """So that a bridge in another language can check its own before it sends them."""
    validator = jsonschema.Draft202012Validator(schema("request"))
    request = json.loads(encode_request(Trigger(camera="cam", job_id="7")))
    validator.validate(request)
    assert not validator.is_valid({**request, "job": "7"})
    assert not validator.is_valid({**request, "job_id": "no spaces"})


@pytest.mark.parametrize(("topic", "type_"), [(TOPIC, ResultHeader), (STATUS_TOPIC, StatusHeader)])
def test_what_an_earlier_daemon_of_version_1_sent_is_still_read(topic: str, type_: type[Any]) -> None:
    """tests/wire_v1.json is never changed: fields may be added, with a default, and that is all."""
    sent = GOLDEN[topic]
    read = msgspec.json.decode(json.dumps(sent).encode(), type=type_)
    sends = json.loads(msgspec.json.encode(read))
    assert {key: sends[key] for key in sent if key != "cameras"} == {
        key: value for key, value in sent.items() if key != "cameras"
    }


def test_a_reader_of_version_1_takes_fields_that_it_does_not_know() -> None:
    """A later daemon may send more."""
    received = reception.Reception(newest_only=False).take(
        [TOPIC.encode(), json.dumps({**GOLDEN[TOPIC], "added_later": {"deep": [1]}}).encode()]
    )
    assert isinstance(received, Result)
    assert received.header.verdict == "FAIL"


def test_a_sync_subscriber_knows_the_same_of_the_line(folder: Path) -> None:
    """Alive while it is heard; at once not any more when the daemon's socket is gone."""
    publisher = publishing(folder)
    with Subscriber(publisher.endpoints[0]) as subscriber:
        wait_until(lambda: bool(publisher.serve_subscriptions() or publisher.subscriptions), "a subscription")
        publisher.publish(STATUS_TOPIC, status_header({"cam": camera_status()}))
        publisher.publish(TOPIC, result_header())
        subscriber.receive(PATIENCE_S)
        assert subscriber.camera_fault("cam") == "no verdict yet"
        subscriber.receive(PATIENCE_S)
        assert (subscriber.daemon_fault(), subscriber.camera_fault("cam")) == ("", "")
        publisher.close()

        def gone() -> bool:
            with pytest.raises(SubscriberTimeoutError):
                subscriber.receive(0.01)
            return "no connection" in subscriber.camera_fault("cam")

        wait_until(gone, "the end of the connection")
