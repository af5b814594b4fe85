"""The wire: what goes out comes back, and what is no message is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from dualkd.daemon import messages
from dualkd.daemon.messages import (
    Box,
    FrameSize,
    MapSpec,
    MessageError,
    RegionBox,
    ResultHeader,
    decode_multipart,
    decode_scores,
    encode_map,
    encode_results,
    encode_scores,
)
from headers import camera_status, result_header, status_header

TOPIC = "v1/line/cam/result"
MAP = np.linspace(0, 2, 12, dtype=np.float32).reshape(3, 4)


COVERS = Box(x_px=5, y_px=6, width_px=32, height_px=24)


def result(**changes: Any) -> ResultHeader:
    usual: dict[str, Any] = {
        "seq": 7,
        "verdict": "FAIL",
        "score": 0.9,
        "regions": [RegionBox(x_px=1, y_px=2, width_px=3, height_px=4, peak=0.5)],
        "frame": FrameSize(width_px=64, height_px=48),
        "dropped": {"capture: no free slot": 3},
        "map": MapSpec(shape=(3, 4), covers=COVERS),
    }
    return result_header(**{**usual, **changes})


def test_a_result_survives_the_wire() -> None:
    """Header equal, map equal to three digits and on its own grid."""
    spec, raw = encode_map(MAP, COVERS)
    message = decode_multipart(encode_results(TOPIC, result(map=spec), raw))
    assert message.topic == TOPIC
    assert message.header == result()
    assert message.anomaly_map is not None
    np.testing.assert_allclose(message.anomaly_map, MAP, rtol=1e-3)


def test_a_score_and_a_status_survive_the_wire() -> None:
    """In one frame, split at the first space; topics hold none."""
    message = decode_scores(encode_scores(TOPIC, result(reason="words with spaces")))
    assert isinstance(message.header, ResultHeader)
    assert message.header.reason == "words with spaces"
    status = status_header({"cam": camera_status()})
    assert decode_scores(encode_scores("v1/line/status", status)).header == status


def test_a_map_is_half_precision_little_endian_row_by_row() -> None:
    """The promise to readers in other languages."""
    spec, raw = encode_map(np.array([[1.0, 2.0]], np.float32), COVERS)
    assert spec == MapSpec(covers=COVERS, shape=(1, 2), dtype="float16", encoding="raw")
    assert raw == b"\x00\x3c\x00\x40"


def test_a_receiver_of_version_1_ignores_fields_it_does_not_know() -> None:
    """So that a later 1.x may add some."""
    raw = msgspec.json.decode(msgspec.json.encode(result(map=None)))
    raw["colour_of_the_hall"] = "green"
    message = decode_multipart([TOPIC.encode(), msgspec.json.encode(raw)])
    assert message.header == result(map=None)


GOOD = encode_results(TOPIC, result(), encode_map(MAP, COVERS)[1])


def changed(**changes: Any) -> bytes:
    raw = msgspec.json.decode(GOOD[1])
    raw.update(changes)
    return msgspec.json.encode(raw)


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [GOOD[0]],
        GOOD[:2],  # the map announced is missing
        [*GOOD, b""],
        [b"v2/line/cam/result", *GOOD[1:]],
        [b"v1/other/cam/result", *GOOD[1:]],
        [b"\xff" * 10, *GOOD[1:]],
        [b"v1/" + b"x" * 1000, *GOOD[1:]],
        [GOOD[0], b"{", GOOD[2]],
        [GOOD[0], b"[" * 200_000, GOOD[2]],
        [GOOD[0], b" " * (messages.MAX_HEADER_BYTES + 1), GOOD[2]],
        [GOOD[0], changed(schema=2), GOOD[2]],
        [GOOD[0], changed(seq=-1), GOOD[2]],
        [GOOD[0], changed(verdict="OK"), GOOD[2]],
        [GOOD[0], changed(camera="../cam"), GOOD[2]],
        [GOOD[0], changed(map={"shape": [3, 5], "dtype": "float16", "encoding": "raw"}), GOOD[2]],
        [GOOD[0], changed(map={"shape": [0, 4], "dtype": "float16", "encoding": "raw"}), b""],
        [GOOD[0], changed(map={"shape": [8192, 8192], "dtype": "float16", "encoding": "raw"}), GOOD[2]],
        [GOOD[0], changed(map={"shape": [3, 4], "dtype": "object", "encoding": "raw"}), GOOD[2]],
        [GOOD[0], changed(map=None), GOOD[2]],
    ],
)
def test_hostile_bytes_are_refused(parts: list[bytes]) -> None:
    """Too few parts or too many, another version, a topic that lies, sizes that lie, values out of range."""
    with pytest.raises(MessageError):
        decode_multipart(parts)


@pytest.mark.parametrize("frame", [b"", b"v1/line/cam/result", b"v1/line/status {}", b" {}"])
def test_hostile_scores_are_refused(frame: bytes) -> None:
    """Empty, without a header, with one of another kind, without a topic."""
    with pytest.raises(MessageError):
        decode_scores(frame)
