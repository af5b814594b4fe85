"""Previews, over real sockets: made only while somebody subscribes, a few a second, never in the way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import fakes
import msgspec
import numpy as np
import pytest
from dualkd.daemon.client import Preview, Subscriber, SubscriberTimeoutError
from dualkd.daemon.config import PreviewConfig
from dualkd.daemon.messages import (
    Box,
    MessageError,
    ResultHeader,
    decode_multipart,
    encode_map,
    encode_preview,
)
from dualkd.daemon.preview import PreviewError, ZmqPreview
from headers import result_header
from keyring import Keyring
from running import PATIENCE_S, short_folder, wait_until

IMAGE = fakes.with_square(fakes.picture(60, 400, 300), 100, 100, 80)
MAP = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
SPEC, MAP_BYTES = encode_map(MAP, Box(x_px=0, y_px=0, width_px=400, height_px=300))


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as path:
        yield path


def showing(folder: Path, **changes: Any) -> ZmqPreview:
    settings = {"endpoint": f"ipc://{folder}/p", "frames_per_s": 50.0, **changes}
    preview = ZmqPreview(msgspec.convert(settings, PreviewConfig), None, "line")
    preview.open()
    return preview


def header(frame_id: int, **changes: Any) -> ResultHeader:
    return result_header(frame_id=frame_id, map=SPEC, **changes)


def received(preview: ZmqPreview, subscriber: Subscriber, frame_id: int, **changes: Any) -> Preview:
    """Offer a frame until it comes: a subscription takes a moment to arrive."""
    came: list[Preview] = []

    def comes() -> bool:
        preview.offer(header(frame_id, **changes), IMAGE, MAP_BYTES)
        try:
            message = subscriber.receive(0.05)
        except SubscriberTimeoutError:
            return False
        assert isinstance(message, Preview)
        came.append(message)
        return message.header.result.frame_id == frame_id

    wait_until(comes, "a preview")
    return came[-1]


def test_a_preview_is_the_frame_with_its_verdict_and_its_map(folder: Path) -> None:
    """Shrunk to the largest side, in the picture's proportions, and the header is the verdict's own."""
    preview = showing(folder, max_side_px=200)
    with Subscriber(preview.endpoint) as subscriber:
        shown = received(preview, subscriber, 7, verdict="FAIL")
    preview.close()
    picture = cv2.imdecode(np.frombuffer(shown.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape == (150, 200, 3)
    assert (shown.header.size.width_px, shown.header.size.height_px) == (200, 150)
    assert picture[20, 20].mean() == pytest.approx(60, abs=6)
    assert picture[70, 70].mean() == pytest.approx(fakes.BRIGHT, abs=12)
    assert shown.header.result == header(7, verdict="FAIL")
    assert shown.anomaly_map is not None
    np.testing.assert_allclose(shown.anomaly_map, MAP, atol=1e-3)


def test_nothing_is_made_for_nobody_nor_for_another_camera(folder: Path) -> None:
    """The picture is not even copied."""
    preview = showing(folder)
    copies: list[int] = []

    class Counted(np.ndarray):  # type: ignore[type-arg]
        def copy(self, *arguments: Any, **settings: Any) -> Any:
            copies.append(1)
            return super().copy(*arguments, **settings)

    image = IMAGE.view(Counted)
    preview.offer(header(0), image, MAP_BYTES)
    with Subscriber(preview.endpoint, prefix="v1/line/other/") as subscriber:
        received(preview, subscriber, 1, camera="other")
        preview.offer(header(2), image, MAP_BYTES)
        assert copies == []
        preview.offer(header(3, camera="other", verdict="FAIL"), image, MAP_BYTES)
        assert copies == [1]

    def forgotten() -> bool:
        before = len(copies)
        time.sleep(0.03)  # its turn comes every 0.02 s
        preview.offer(header(4, camera="other"), image, MAP_BYTES)
        return len(copies) == before

    wait_until(forgotten, "the subscription to be gone")
    preview.close()


def test_a_camera_shows_so_many_frames_a_second_and_a_fail_does_not_wait(folder: Path) -> None:
    """A FAIL has a turn of its own, so that the PASS before it cannot hide it."""
    preview = showing(folder, frames_per_s=2.0)
    with Subscriber(preview.endpoint) as subscriber:
        received(preview, subscriber, 0)
        began_s, shown = time.monotonic(), []
        frame_id = 1
        while time.monotonic() - began_s < 1.2:
            frame_id += 1
            verdict = "FAIL" if frame_id == 5 else "PASS"
            preview.offer(header(frame_id, verdict=verdict), IMAGE, MAP_BYTES)
            try:
                message = subscriber.receive(0.005)
            except SubscriberTimeoutError:
                continue
            assert isinstance(message, Preview)
            shown.append(message.header.result)
    preview.close()
    assert [result.frame_id for result in shown if result.verdict == "FAIL"] == [5]
    assert 1 <= sum(result.verdict == "PASS" for result in shown) <= 3


def test_a_subscriber_that_does_not_read_holds_nobody_up_and_no_memory(folder: Path) -> None:
    """It loses previews, the others get theirs."""
    preview = showing(folder, frames_per_s=60.0)
    with Subscriber(preview.endpoint) as reader, Subscriber(preview.endpoint) as sleeper:
        received(preview, reader, 0)
        for frame_id in range(1, 200):
            received(preview, reader, frame_id)
        sleeper.receive(PATIENCE_S)
    preview.close()


def test_a_key_is_asked_for_where_there_is_one(tmp_path: Path) -> None:
    """Who may read results may see previews."""
    keyring = Keyring(tmp_path)
    preview = ZmqPreview(PreviewConfig(endpoint="tcp://127.0.0.1:*"), keyring.security(), "line")
    preview.open()
    with Subscriber(preview.endpoint, keys=keyring.client("watcher")) as subscriber:
        received(preview, subscriber, 0)
    with Subscriber(preview.endpoint) as subscriber, pytest.raises(SubscriberTimeoutError):
        subscriber.receive(0.3)
    preview.close()


def test_an_endpoint_that_is_taken_is_named(folder: Path) -> None:
    """By its key, with what to do."""
    first = showing(folder)
    with pytest.raises(PreviewError, match=r"preview.endpoint: ipc://.* in use by another daemon"):
        showing(folder)
    first.close()


def test_without_an_endpoint_there_is_nothing() -> None:
    """And offering costs nothing."""
    preview = ZmqPreview(PreviewConfig(endpoint=None), None, "line")
    preview.open()
    preview.offer(header(0), IMAGE, None)
    preview.close()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda parts: parts[:2], "no JPEG"),
        (lambda parts: [*parts[:2], b"GIF89a", *parts[3:]], "no JPEG"),
        (lambda parts: parts[:3], "announces a map, but the message has 3 parts"),
        (lambda parts: [*parts[:3], parts[3][:-1]], "has 24 bytes, got 23"),
        (lambda parts: [b"v1/line/other/preview", *parts[1:]], "is one of v1/line/cam/preview"),
        (lambda parts: [*parts, b""], "2 to 4 parts, got 5"),
    ],
)
def test_what_is_no_preview_is_refused(folder: Path, spoil: Any, message: str) -> None:
    """Part by part."""
    preview = showing(folder)
    with Subscriber(preview.endpoint) as subscriber:
        shown = received(preview, subscriber, 0)
    preview.close()
    parts = encode_preview(shown.header, shown.jpeg, MAP_BYTES)
    assert decode_multipart(parts).jpeg == shown.jpeg
    with pytest.raises(MessageError, match=message):
        decode_multipart(spoil(parts))
