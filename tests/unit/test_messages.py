"""The wire: what goes out comes back, and what is no message is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from dualkd.daemon import messages
from dualkd.daemon.messages import (
    BundleRef,
    FrameSize,
    MapSpec,
    MessageError,
    RegionBox,
    ResultHeader,
    StageTimes,
    StatusHeader,
    decode_results,
    decode_scores,
    encode_map,
    encode_results,
    encode_scores,
)

TOPIC = "v1/line/cam/result"
MAP = np.linspace(0, 2, 12, dtype=np.float32).reshape(3, 4)


def result(**changes: Any) -> ResultHeader:
    header = ResultHeader(
        boot_id="b",
        line="line",
        camera="cam",
        seq=7,
        frame_id=9,
        source_name="a.png",
        captured_utc_ns=1,
        captured_mono_ns=2,
        verdict="FAIL",
        reason="r",
        score=0.9,
        threshold=0.5,
        d_local=0.1,
        d_semantic=None,
        p_local=0.9,
        p_semantic=None,
        regions=[RegionBox(x_px=1, y_px=2, width_px=3, height_px=4, peak=0.5)],
        region_threshold=0.2,
        frame=FrameSize(width_px=64, height_px=48),
        batch=2,
        stage_ms=StageTimes(wait=1, resize=2, infer=3, decide=4, total=11),
        dropped={"capture: no free slot": 3},
        bundle=BundleRef(name="n", sha256="0" * 64),
        map=MapSpec(shape=(3, 4)),
    )
    return msgspec.structs.replace(header, **changes)


def status() -> StatusHeader:
    return StatusHeader(
        boot_id="b",
        line="line",
        seq=0,
        utc_ns=1,
        state="running",
        reason="",
        exit_status=None,
        uptime_s=1.0,
        heartbeat_s=1.0,
        bundle=BundleRef(name="n", sha256="0" * 64),
        cameras={},
    )


def test_a_result_survives_the_wire() -> None:
    """Header equal, map equal to three digits and on its own grid."""
    spec, raw = encode_map(MAP)
    message = decode_results(encode_results(TOPIC, result(map=spec), raw))
    assert message.topic == TOPIC
    assert message.header == result()
    assert message.anomaly_map is not None
    np.testing.assert_allclose(message.anomaly_map, MAP, rtol=1e-3)


def test_a_score_and_a_status_survive_the_wire() -> None:
    """In one frame, split at the first space; topics hold none."""
    message = decode_scores(encode_scores(TOPIC, result(reason="words with spaces")))
    assert isinstance(message.header, ResultHeader)
    assert message.header.reason == "words with spaces"
    assert decode_scores(encode_scores("v1/line/status", status())).header == status()


def test_a_map_is_half_precision_little_endian_row_by_row() -> None:
    """The promise to readers in other languages."""
    spec, raw = encode_map(np.array([[1.0, 2.0]], np.float32))
    assert spec == MapSpec(shape=(1, 2), dtype="float16", encoding="raw")
    assert raw == b"\x00\x3c\x00\x40"


def test_a_receiver_of_version_1_ignores_fields_it_does_not_know() -> None:
    """So that a later 1.x may add some."""
    raw = msgspec.json.decode(msgspec.json.encode(result(map=None)))
    raw["colour_of_the_hall"] = "green"
    message = decode_results([TOPIC.encode(), msgspec.json.encode(raw)])
    assert message.header == result(map=None)


GOOD = encode_results(TOPIC, result(), encode_map(MAP)[1])


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
        decode_results(parts)


@pytest.mark.parametrize("frame", [b"", b"v1/line/cam/result", b"v1/line/status {}", b" {}"])
def test_hostile_scores_are_refused(frame: bytes) -> None:
    """Empty, without a header, with one of another kind, without a topic."""
    with pytest.raises(MessageError):
        decode_scores(frame)
