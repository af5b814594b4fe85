"""The wire, version 1: what a verdict, a status and a preview look like as bytes.

A socket of full results carries multipart messages [topic, header, map?]; a socket of scores carries the
same header in one frame, `topic`, one space, header, which CONFLATE can keep the last of. A socket of previews
carries [topic, header, JPEG, map?]. Headers are JSON. Topics are v1/LINE/CAMERA/result, v1/LINE/status and
v1/LINE/CAMERA/preview. WIRE.md documents all of it, and how it may change.

Imports neither zmq nor cv2: whoever has the bytes can read them. What comes in is checked for size and
shape before it is believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from dualkd.daemon.records import Outcome

SCHEMA = 1
MAX_TOPIC_BYTES = 256
MAX_HEADER_BYTES = 1 << 18
MAX_MAP_BYTES = 1 << 25
MAX_JPEG_BYTES = 1 << 25
MAX_MESSAGE_BYTES = MAX_MAP_BYTES

TopicName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")]
"""A name that is one level of a topic: letters, digits, _ and -, at most 64 of them."""

Count = Annotated[int, msgspec.Meta(ge=0)]
State = Literal["starting", "running", "draining", "ended"]
CameraState = Literal["opening", "running", "lost", "ended"]
JobId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}\Z")]
"""A trigger's name, chosen by who sends it."""


class MessageError(Exception):
    """Bytes that are no message of this version: what is wrong with them."""


class Box(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the camera's picture, in its pixels."""

    x_px: int
    y_px: int
    width_px: int
    height_px: int


class MapSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How to read the map that follows: raw little-endian numbers, row by row."""

    covers: Box  # the recipe's region, or the whole picture
    shape: tuple[Annotated[int, msgspec.Meta(ge=1, le=8192)], Annotated[int, msgspec.Meta(ge=1, le=8192)]]
    dtype: Literal["float16"] = "float16"
    encoding: Literal["raw"] = "raw"


class FrameSize(msgspec.Struct, frozen=True, kw_only=True):
    """Of the camera's picture."""

    width_px: int
    height_px: int


class RegionBox(Box, frozen=True, kw_only=True):
    """An anomalous place; `peak` is the map's largest value there."""

    peak: float


class StageTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds: capture to batch, resizing, engine, decision and regions, capture to sending."""

    wait: float
    resize: float
    infer: float  # of the whole batch
    decide: float
    total: float


class BundleRef(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    sha256: str


class ResultHeader(msgspec.Struct, frozen=True, kw_only=True):
    """One frame's verdict."""

    schema: Literal[1] = 1
    kind: Literal["result"] = "result"
    boot_id: str  # another one: the daemon was started again, and seq begins at 0
    line: TopicName
    camera: TopicName
    seq: Count  # gapless for each topic
    retained: bool = False  # True: sent again for a subscriber that came later
    frame_id: Count | None  # counts what the source delivered; None: no frame came, `reason` says why
    job_id: JobId | None  # of the trigger that asked for it
    source_name: str  # the file's name, for folders of images
    captured_utc_ns: int
    captured_mono_ns: int
    verdict: Outcome
    reason: str
    doubtful: bool  # a PASS above the recipe's warn threshold
    score: float | None
    smoothed_score: float | None  # median of the last scores, where the recipe smooths: it decides
    threshold: float  # of the (smoothed) score: above it FAIL
    warn_threshold: float | None
    d_local: float | None
    d_semantic: float | None
    p_local: float | None
    p_semantic: float | None
    regions: list[RegionBox]
    region_threshold: float | None  # of the map's values
    frame: FrameSize | None  # None: the picture did not decode
    batch: Count  # frames that went through the engine together
    stage_ms: StageTimes
    dropped: dict[str, int]  # of this camera so far, by "stage: reason"
    recipe: TopicName
    bundle: BundleRef
    map: MapSpec | None


class RecipeRef(msgspec.Struct, frozen=True, kw_only=True):
    """What a camera's frames are judged by."""

    name: TopicName
    bundle: BundleRef
    fail: float
    warn: float | None
    engine: str = ""  # the runtime, its device and its precision, for a person


class CameraStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A camera, and its account: captured = passed + failed + invalid + all dropped, once none is in flight."""

    state: CameraState
    reason: str  # of a camera that is lost
    paused: bool
    restarts: Count  # of its capture process
    age_s: float | None  # since the last frame was captured; None: none yet
    recipe: RecipeRef | None  # None until it is loaded
    captured: Count
    passed: Count
    failed: Count
    invalid: Count
    absent: Count  # INVALID without a frame: an unanswered trigger, a camera that was lost
    dropped: dict[str, int]


class StatusHeader(msgspec.Struct, frozen=True, kw_only=True):
    """The daemon's state, every `heartbeat_s` and whenever it changes."""

    schema: Literal[1] = 1
    kind: Literal["status"] = "status"
    boot_id: str
    line: TopicName
    seq: Count
    retained: bool = False
    utc_ns: int
    state: State
    reason: str  # why it ended, where that is not the natural end
    exit_status: int | None  # None until it has ended
    uptime_s: float
    heartbeat_s: float  # no status for several of these: the daemon is gone
    warnings: list[str]  # what somebody should look at: drift, a full disk, a camera that is lost
    cameras: dict[TopicName, CameraStatus]
    recipes: list[TopicName] = []  # that may be chosen


class PreviewHeader(msgspec.Struct, frozen=True, kw_only=True):
    """A picture to look at: a JPEG, shrunk, of a frame whose verdict comes with it. Now and then, not every one."""

    schema: Literal[1] = 1
    kind: Literal["preview"] = "preview"
    boot_id: str
    line: TopicName
    camera: TopicName
    seq: Count  # gapless for each topic
    size: FrameSize  # of the JPEG
    result: ResultHeader  # the frame's; its map, where there is one, follows the JPEG


Header = ResultHeader | StatusHeader
"""What the results and the scores socket carry."""


class Message(NamedTuple):
    """A message as received."""

    topic: str
    header: Header | PreviewHeader
    anomaly_map: npt.NDArray[np.float32] | None  # (h, w) on the model's own grid
    jpeg: bytes | None = None  # of a preview


def result_topic(line: str, camera: str) -> str:
    return f"v1/{line}/{camera}/result"


def status_topic(line: str) -> str:
    return f"v1/{line}/status"


def preview_topic(line: str, camera: str) -> str:
    return f"v1/{line}/{camera}/preview"


def encode_map(anomaly_map: npt.NDArray[np.float32], covers: Box) -> tuple[MapSpec, bytes]:
    """Return the description and the bytes of a map (h, w): float16, about three digits, half the bytes."""
    height, width = anomaly_map.shape
    return MapSpec(shape=(height, width), covers=covers), anomaly_map.astype("<f2").tobytes()


def encode_results(topic: str, header: Header, map_bytes: bytes | None = None) -> list[bytes]:
    """The parts of a message on the results socket."""
    parts = [topic.encode(), msgspec.json.encode(header)]
    return parts if map_bytes is None else [*parts, map_bytes]


def encode_preview(header: PreviewHeader, jpeg: bytes, map_bytes: bytes | None) -> list[bytes]:
    """The parts of a message on the preview socket."""
    parts = [preview_topic(header.line, header.camera).encode(), msgspec.json.encode(header), jpeg]
    return parts if map_bytes is None else [*parts, map_bytes]


def encode_scores(topic: str, header: Header) -> bytes:
    """The one frame of a message on the scores socket."""
    return topic.encode() + b" " + msgspec.json.encode(header)


def decode_multipart(parts: Sequence[bytes]) -> Message:
    """Read a message of the results or the preview socket. Raises MessageError."""
    if not 2 <= len(parts) <= 4:
        raise MessageError(f"a message has 2 to 4 parts, got {len(parts)}")
    topic = _decode_topic(parts[0])
    header = _decode_header(topic, parts[1])
    rest = list(parts[2:])
    jpeg = _decode_jpeg(topic, rest) if isinstance(header, PreviewHeader) else None
    result = header.result if isinstance(header, PreviewHeader) else header
    spec = result.map if isinstance(result, ResultHeader) else None
    if len(rest) != int(spec is not None):
        announced = "no map" if spec is None else "a map"
        raise MessageError(
            f"{topic}: the header announces {announced}, but the message has {len(parts)} parts"
        )
    return Message(topic, header, None if spec is None else _decode_map(topic, spec, rest[0]), jpeg)


def decode_scores(frame: bytes) -> Message:
    """Read a message of the scores socket; its map is always None. Raises MessageError."""
    topic_bytes, space, raw = frame.partition(b" ")
    if not space:
        raise MessageError("a scores message is the topic, a space and the header; there is no space")
    topic = _decode_topic(topic_bytes)
    return Message(topic, _decode_header(topic, raw), None)


def _decode_topic(raw: bytes) -> str:
    try:
        topic = raw[: MAX_TOPIC_BYTES + 1].decode("ascii")
    except UnicodeDecodeError as error:
        raise MessageError("the topic is not ASCII") from error
    if len(raw) > MAX_TOPIC_BYTES or not topic.startswith("v1/"):
        raise MessageError(f"the topic {topic[:40]!r} is not one of version 1 (v1/...)")
    return topic


def _decode_header(topic: str, raw: bytes) -> Header | PreviewHeader:
    if len(raw) > MAX_HEADER_BYTES:
        raise MessageError(f"{topic}: the header has {len(raw)} bytes, more than {MAX_HEADER_BYTES}")
    try:
        header: Header | PreviewHeader
        if topic.endswith("/status"):
            header = _status.decode(raw)
            expected = status_topic(header.line)
        elif topic.endswith("/preview"):
            header = _preview.decode(raw)
            expected = preview_topic(header.line, header.camera)
        else:
            header = _result.decode(raw)
            expected = result_topic(header.line, header.camera)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(f"{topic}: the header does not fit: {error}") from error
    if topic != expected:
        raise MessageError(f"{topic}: the header is one of {expected[:MAX_TOPIC_BYTES]}")
    return header


def _decode_jpeg(topic: str, rest: list[bytes]) -> bytes:
    """Take the JPEG off the parts after the header."""
    if not rest or not rest[0].startswith(_JPEG_START) or len(rest[0]) > MAX_JPEG_BYTES:
        raise MessageError(f"{topic}: what follows the header is no JPEG of at most {MAX_JPEG_BYTES} bytes")
    return rest.pop(0)


def _decode_map(topic: str, spec: MapSpec, raw: bytes) -> npt.NDArray[np.float32]:
    height, width = spec.shape
    expected = height * width * 2
    if expected > MAX_MAP_BYTES or len(raw) != expected:
        raise MessageError(
            f"{topic}: a float16 map of {height} x {width} has {expected} bytes, got {len(raw)}"
        )
    return np.frombuffer(raw, "<f2").reshape(height, width).astype(np.float32)


_result = msgspec.json.Decoder(ResultHeader)
_status = msgspec.json.Decoder(StatusHeader)
_preview = msgspec.json.Decoder(PreviewHeader)
_JPEG_START = b"\xff\xd8\xff"
