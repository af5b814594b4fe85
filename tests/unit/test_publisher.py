"""The publisher and the subscriber, over real sockets."""

from __future__ import annotations

import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from dualkd.daemon.client import KeyDeniedError, Result, Status, Subscriber, SubscriberTimeoutError
from dualkd.daemon.config import PublisherConfig
from dualkd.daemon.messages import Box, MapSpec, ResultHeader, StatusHeader, encode_map
from dualkd.daemon.publisher import PublisherError, ZmqPublisher
from headers import result_header, status_header
from keyring import Keyring
from running import PATIENCE_S, short_folder, wait_until

TOPIC = "v1/line/cam/result"
MAP = np.ones((2, 3), np.float32)
WHOLE = Box(x_px=0, y_px=0, width_px=64, height_px=48)


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as path:
        yield path


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path)


def config(folder: Path, **changes: Any) -> PublisherConfig:
    raw = {"results": f"ipc://{folder}/r", "scores": f"ipc://{folder}/s", "linger_ms": 0, **changes}
    return msgspec.convert(raw, PublisherConfig)


@pytest.fixture
def publisher(folder: Path) -> Iterator[ZmqPublisher]:
    opened = ZmqPublisher(config(folder))
    opened.open()
    yield opened
    opened.close()


def header(seq: int, boot_id: str = "boot", shape: tuple[int, int] = (2, 3)) -> ResultHeader:
    return result_header(boot_id=boot_id, seq=seq, frame_id=seq, map=MapSpec(covers=WHOLE, shape=shape))


def ended() -> StatusHeader:
    return status_header({}, boot_id="boot", state="ended", exit_status=0)


def publish(publisher: ZmqPublisher, seq: int, boot_id: str = "boot") -> bool:
    return publisher.publish(TOPIC, header(seq, boot_id), encode_map(MAP, WHOLE)[1])


def wait_for_subscription(publisher: ZmqPublisher, count: int) -> None:
    def there() -> bool:
        publisher.serve_subscriptions()
        return publisher.subscriptions >= count

    wait_until(there, f"{count} subscriptions")


def receive(subscriber: Subscriber) -> Result:
    received = subscriber.receive(PATIENCE_S)
    assert isinstance(received, Result)
    return received


def test_who_comes_late_gets_the_last_value_marked_and_then_no_gap(publisher: ZmqPublisher) -> None:
    """Verdict 41 again with its map, marked as retained; 42 follows, and nothing counts as lost."""
    publish(publisher, 40)
    publish(publisher, 41)
    with Subscriber(publisher.endpoints[0]) as late:
        wait_for_subscription(publisher, 1)
        publish(publisher, 42)
        first, second = receive(late), receive(late)
    assert (first.header.seq, first.header.retained, first.lost) == (41, True, 0)
    assert first.anomaly_map is not None
    np.testing.assert_array_equal(first.anomaly_map, MAP)
    assert (second.header.seq, second.header.retained, second.lost) == (42, False, 0)


def test_who_was_there_does_not_see_a_verdict_twice(publisher: ZmqPublisher) -> None:
    """The retained message for a second subscriber reaches the first as well; its client drops it."""
    with Subscriber(publisher.endpoints[0]) as early:
        wait_for_subscription(publisher, 1)
        publish(publisher, 0)
        with Subscriber(publisher.endpoints[0]) as late:
            wait_for_subscription(publisher, 2)
            publish(publisher, 1)
            assert [receive(early).header.seq for _ in range(2)] == [0, 1]
            assert [receive(late).header.seq for _ in range(2)] == [0, 1]


def test_lost_messages_are_counted_and_a_new_start_begins_at_zero(publisher: ZmqPublisher) -> None:
    """A gap in seq is what was lost; another boot_id with seq 2 means that two were missed."""
    with Subscriber(publisher.endpoints[0]) as subscriber:
        wait_for_subscription(publisher, 1)
        for seq, boot_id in ((5, "a"), (6, "a"), (9, "a"), (2, "b"), (3, "b")):
            publish(publisher, seq, boot_id)
        assert [receive(subscriber).lost for _ in range(5)] == [0, 0, 2, 2, 0]
        assert subscriber.lost == 4


def test_a_slow_subscriber_loses_messages_and_holds_nobody_up(folder: Path) -> None:
    """`when_full: drop`: the sender is never held up, and the subscriber knows how many it lost."""
    publisher = ZmqPublisher(config(folder, high_water_mark=2))
    publisher.open()
    big = bytes(600 * 600 * 2)
    with Subscriber(publisher.endpoints[0]) as subscriber:
        wait_for_subscription(publisher, 1)
        for seq in range(3000):
            assert publisher.publish(TOPIC, header(seq, shape=(600, 600)), big)
        received = [receive(subscriber)]
        wait_until(lambda: publisher.publish("v1/line/status", ended()), "status")
        while not received[-1].lost:
            received.append(receive(subscriber))
            publisher.publish(TOPIC, header(3000 + len(received), shape=(600, 600)), big)
    assert received[-1].lost > 0
    publisher.close()


def test_blocking_loses_nothing_and_can_be_given_up(folder: Path) -> None:
    """`when_full: block`: all big messages arrive at a slow subscriber; without one reading, giving up works."""
    publisher = ZmqPublisher(config(folder, high_water_mark=1, when_full="block"))
    publisher.open()
    big = bytes(600 * 600 * 2)
    seqs: list[int] = []
    with Subscriber(publisher.endpoints[0]) as subscriber:
        wait_for_subscription(publisher, 1)

        def read_slowly() -> None:
            while len(seqs) < 60:
                seqs.append(receive(subscriber).header.seq)
                time.sleep(0.002)

        reader = threading.Thread(target=read_slowly)
        reader.start()
        for seq in range(60):
            assert publisher.publish(TOPIC, header(seq, shape=(600, 600)), big, reader.is_alive)
        reader.join(PATIENCE_S)
        assert seqs == list(range(60))
        tries = iter([True, True, False])
        sent = True
        for seq in range(60, 3000):
            sent = publisher.publish(TOPIC, header(seq, shape=(600, 600)), big, lambda: next(tries))
            if not sent:
                break
        assert not sent
    publisher.close()


def test_scores_can_be_conflated(publisher: ZmqPublisher) -> None:
    """One frame a message, so CONFLATE keeps the newest: the client wakes up to the present."""
    with Subscriber(publisher.endpoints[1], newest_only=True) as subscriber:
        wait_for_subscription(publisher, 1)
        for seq in range(200):
            publish(publisher, seq)
        last = receive(subscriber)
        while last.header.seq < 199:
            last = receive(subscriber)
        with pytest.raises(SubscriberTimeoutError):
            subscriber.receive(0.05)
    assert subscriber.lost == 0


def test_iterating_ends_with_the_daemon(publisher: ZmqPublisher) -> None:
    """until_ended: results come, the status is kept, the loop ends."""
    with Subscriber(publisher.endpoints[0], timeout_s=PATIENCE_S, until_ended=True) as subscriber:
        wait_for_subscription(publisher, 1)
        publish(publisher, 0)
        publisher.publish("v1/line/status", ended())
        assert [result.header.seq for result in subscriber] == [0]
        assert subscriber.status is not None
        assert subscriber.status.state == "ended"


def test_a_second_daemon_cannot_steal_an_ipc_path(publisher: ZmqPublisher, folder: Path) -> None:
    """ZeroMQ would let it, silently. The first goes on; when it is gone the path is free."""
    second = ZmqPublisher(config(folder))
    with pytest.raises(PublisherError, match=r"publisher\.results: .*in use by another daemon"):
        second.open()
    second.close()
    with Subscriber(publisher.endpoints[0]) as subscriber:
        wait_for_subscription(publisher, 1)
        publish(publisher, 0)
        assert receive(subscriber).header.seq == 0
    publisher.close()
    second.open()
    second.close()


def test_a_used_port_is_refused(folder: Path) -> None:
    """With the endpoint and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        publisher = ZmqPublisher(config(folder, scores=f"tcp://127.0.0.1:{other.getsockname()[1]}"))
        with pytest.raises(PublisherError, match="the address is in use"):
            publisher.open()
        publisher.close()


def test_an_ipc_path_that_cannot_be_had_is_refused_and_harms_nothing(folder: Path) -> None:
    """A file that is no socket stays; a folder that is not there and a path too long are named."""
    (folder / "thesis.txt").write_text("x")
    for path, said in (("thesis.txt", "no socket"), ("none/r", "No such file"), ("x" * 120, "longer than")):
        publisher = ZmqPublisher(config(folder, results=f"ipc://{folder}/{path}"))
        with pytest.raises(PublisherError, match=said):
            publisher.open()
        publisher.close()
    assert (folder / "thesis.txt").read_text() == "x"


def test_other_hosts_are_not_served_without_keys(folder: Path) -> None:
    """Even where the configuration was not checked: no port is opened."""
    publisher = ZmqPublisher(config(folder, results="tcp://0.0.0.0:*"))
    with pytest.raises(PublisherError, match=r"other hosts can reach it, and there is no key"):
        publisher.open()
    assert publisher.endpoints == []
    publisher.close()


def test_an_address_of_another_host_is_refused(folder: Path, keyring: Keyring) -> None:
    """With what to look at; keys would have let it open."""
    publisher = ZmqPublisher(config(folder, results="tcp://192.0.2.1:5571"), keyring.security())
    with pytest.raises(PublisherError, match=r"this host has no address 192\.0\.2\.1"):
        publisher.open()
    publisher.close()


def test_ipc_sockets_are_open_to_us_and_our_group_only(publisher: ZmqPublisher, folder: Path) -> None:
    """Mode 0660 whatever the umask, and the locks 0600; the umask itself is as it was."""
    assert publisher.endpoints[0] == f"ipc://{folder}/r"
    assert [stat.S_IMODE((folder / name).stat().st_mode) for name in ("r", "s")] == [0o660, 0o660]
    assert stat.S_IMODE((folder / "r.lock").stat().st_mode) == 0o600
    (folder / "plain").touch()
    before = os.umask(0)
    os.umask(before)
    assert stat.S_IMODE((folder / "plain").stat().st_mode) == 0o666 & ~before


def test_an_ipc_socket_is_never_open_to_others(folder: Path) -> None:
    """Somebody who looks all the time, under a umask that hides nothing, never sees it more open than 0660."""
    seen: set[int] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            with suppress(FileNotFoundError):
                seen.add(stat.S_IMODE((folder / "r").stat().st_mode))

    looker = threading.Thread(target=look)
    before = os.umask(0)
    looker.start()
    try:
        for _ in range(50):
            publisher = ZmqPublisher(config(folder))
            publisher.open()
            publisher.close()
    finally:
        os.umask(before)
        done.set()
        looker.join()
    assert seen
    assert not any(mode & 0o007 for mode in seen), {oct(mode) for mode in seen}


@pytest.fixture
def guarded(folder: Path, keyring: Keyring) -> Iterator[ZmqPublisher]:
    opened = ZmqPublisher(config(folder, results="tcp://127.0.0.1:*"), keyring.security())
    opened.open()
    yield opened
    opened.close()


@pytest.mark.parametrize("who", ["watcher", "boss"])
def test_who_is_on_the_list_reads_over_tcp(guarded: ZmqPublisher, keyring: Keyring, who: str) -> None:
    """Subscribers read the results, and controllers do; on loopback too, once there are keys."""
    with Subscriber(guarded.endpoints[0], keys=keyring.client(who)) as subscriber:
        wait_for_subscription(guarded, 1)
        publish(guarded, 7)
        assert receive(subscriber).header.seq == 7


def test_who_is_not_on_the_list_is_told_so(
    guarded: ZmqPublisher, keyring: Keyring, caplog: pytest.LogCaptureFixture
) -> None:
    """The client ends at once instead of hearing nothing for ever; the daemon's log says who it was."""
    stranger = keyring.client("stranger")
    refused = pytest.raises(KeyDeniedError, match="denies this key")
    with Subscriber(guarded.endpoints[0], keys=stranger) as subscriber, refused:
        subscriber.receive(PATIENCE_S)
    guarded.serve_subscriptions()
    assert guarded.subscriptions == 0
    assert f"results: denied: 127.0.0.1 came with the key {stranger.public.decode()}" in caplog.text


def test_without_a_key_nothing_is_heard(guarded: ZmqPublisher) -> None:
    """Nor does a plain client subscribe; it is told what may be missing."""
    silent = pytest.raises(SubscriberTimeoutError, match=r"--key, --server-key|nobody listens")
    with Subscriber(guarded.endpoints[0]) as subscriber, silent:
        subscriber.receive(0.5)
    guarded.serve_subscriptions()
    assert guarded.subscriptions == 0


def test_an_impostor_is_not_heard(guarded: ZmqPublisher, keyring: Keyring) -> None:
    """A client that expects another daemon's key takes nothing from this one."""
    keys = replace(keyring.client("watcher"), server=keyring.client("stranger").public)
    with Subscriber(guarded.endpoints[0], keys=keys) as subscriber:
        publish(guarded, 0)
        with pytest.raises(SubscriberTimeoutError, match=r"--server-key|nobody listens"):
            subscriber.receive(0.5)


def test_ipc_needs_no_key(guarded: ZmqPublisher) -> None:
    """File modes guard it."""
    with Subscriber(guarded.endpoints[1]) as subscriber:
        wait_for_subscription(guarded, 1)
        publish(guarded, 3)
        assert receive(subscriber).header.seq == 3


def test_a_wild_port_is_reported_as_bound(folder: Path) -> None:
    """tcp://127.0.0.1:* takes a free one; endpoints says which."""
    publisher = ZmqPublisher(config(folder, results="tcp://127.0.0.1:*"))
    publisher.open()
    assert publisher.endpoints[0].startswith("tcp://127.0.0.1:")
    with Subscriber(publisher.endpoints[0], prefix="v1/line/status") as subscriber:
        wait_for_subscription(publisher, 1)
        publish(publisher, 0)
        publisher.publish("v1/line/status", ended())
        assert isinstance(subscriber.receive(PATIENCE_S), Status)
    publisher.close()
