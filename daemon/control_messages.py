"""The control socket's requests and replies, as they travel. Imports neither zmq nor cv2.

A request is one JSON object, told apart by its `command`. A reply is one JSON object, and for `snapshot` the
JPEG as a second part. What comes in is checked for size and shape before it is believed, and no text in it
is ever used as a path.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import msgspec
from dualkd.daemon.messages import JobId, MessageError, StatusHeader, TopicName

MAX_REQUEST_BYTES = 16_384
MAX_REPLY_BYTES = 1 << 25

Threshold = Annotated[float, msgspec.Meta(gt=0, lt=1)]


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="command"):
    """What every request carries."""

    schema: Literal[1] = 1
    id: Annotated[str, msgspec.Meta(max_length=128)] = ""  # comes back in the reply


class Status(Request, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="status"):
    """The daemon's state, as its status message says it."""


class Trigger(Request, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="trigger"):
    """Judge the next frame of a camera in software trigger mode; the verdict carries `job_id`."""

    camera: TopicName
    job_id: JobId


class Recipe(Request, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="recipe"):
    """Judge a camera's frames by another recipe of the configuration."""

    recipe: TopicName
    camera: TopicName | None = None  # None: every camera


class SetThreshold(Request, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="threshold"):
    """Move a recipe's thresholds; what is left out stays."""

    recipe: TopicName
    fail: Threshold | Literal["calibrated"] | None = None
    warn: Threshold | Literal["off"] | None = None

    def __post_init__(self) -> None:
        if self.fail is None and self.warn is None:
            raise ValueError("a threshold request moves `fail`, `warn` or both; it holds neither")


class Pause(Request, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="pause"):
    """Judge no frame of a camera until `resume`; they are dropped and counted."""

    camera: TopicName | None = None


class Resume(Request, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="resume"):
    """Undo `pause`."""

    camera: TopicName | None = None


class Snapshot(Request, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="snapshot"):
    """The next judged frame of a camera, as JPEG, with its verdict."""

    camera: TopicName


class Reload(Request, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="reload"):
    """Read the configuration file again, as SIGHUP does."""


AnyRequest = Status | Trigger | Recipe | SetThreshold | Pause | Resume | Snapshot | Reload


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a request."""

    schema: Literal[1] = 1
    id: str
    ok: bool
    message: str  # what was done, or why not and what to do
    status: StatusHeader | None = None  # of `status`


class ReceivedReply(NamedTuple):
    """A reply as received."""

    reply: Reply
    jpeg: bytes | None


def encode_request(request: AnyRequest) -> bytes:
    return msgspec.json.encode(request)


def decode_request(raw: bytes) -> AnyRequest:
    """Read a request. Raises MessageError saying what does not fit."""
    if len(raw) > MAX_REQUEST_BYTES:
        raise MessageError(f"a request has at most {MAX_REQUEST_BYTES} bytes, got {len(raw)}")
    try:
        return _request.decode(raw)
    except _UNREADABLE as error:
        raise MessageError(f"not a request: {error}") from error


def request_id(raw: bytes) -> str:
    """The id of something that is no request, so that who sent it can tell the reply; empty if it has none."""
    try:
        return _identified.decode(raw).id if len(raw) <= MAX_REQUEST_BYTES else ""
    except _UNREADABLE:
        return ""


def encode_reply(reply: Reply, jpeg: bytes | None = None) -> list[bytes]:
    """The parts of a reply."""
    parts = [msgspec.json.encode(reply)]
    return parts if jpeg is None else [*parts, jpeg]


def decode_reply(parts: list[bytes]) -> ReceivedReply:
    """Read a reply. Raises MessageError saying what does not fit."""
    if not 1 <= len(parts) <= 2:
        raise MessageError(f"a reply has 1 or 2 parts, got {len(parts)}")
    size = sum(len(part) for part in parts)
    if size > MAX_REPLY_BYTES:
        raise MessageError(f"a reply has at most {MAX_REPLY_BYTES} bytes, got {size}")
    try:
        return ReceivedReply(_reply.decode(parts[0]), parts[1] if len(parts) == 2 else None)
    except _UNREADABLE as error:
        raise MessageError(f"not a reply: {error}") from error


class _Identified(msgspec.Struct, frozen=True):
    id: Annotated[str, msgspec.Meta(max_length=128)] = ""


# msgspec says a text that is no UTF-8 with Python's own error, and nesting too deep with RecursionError
_UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)
_request: msgspec.json.Decoder[AnyRequest] = msgspec.json.Decoder(AnyRequest)
_identified = msgspec.json.Decoder(_Identified)
_reply = msgspec.json.Decoder(Reply)
