"""Requests and replies: what goes out comes back, and what is neither is refused."""

from __future__ import annotations

import pytest
from dualkd.daemon.control_messages import (
    MAX_REPLY_BYTES,
    MAX_REQUEST_BYTES,
    AnyRequest,
    Pause,
    Recipe,
    Reload,
    Reply,
    Resume,
    SetThreshold,
    Snapshot,
    Status,
    Trigger,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
    request_id,
)
from dualkd.daemon.messages import MessageError

REQUESTS: list[AnyRequest] = [
    Status(id="7"),
    Trigger(camera="cam0", job_id="part:7.1"),
    Recipe(recipe="tiles"),
    Recipe(recipe="tiles", camera="cam0"),
    SetThreshold(recipe="tiles", fail=0.5),
    SetThreshold(recipe="tiles", fail="calibrated", warn="off"),
    Pause(),
    Pause(camera="cam0"),
    Resume(camera="cam0"),
    Snapshot(camera="cam0"),
    Reload(),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
def test_a_request_survives_the_wire(request_: AnyRequest) -> None:
    """Told apart by its command."""
    assert decode_request(encode_request(request_)) == request_


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"{}",
        b"\xff",
        b'{"command":"status","id":"\xff"}',
        b'{"command":"status"} x',
        b'{"command":"shell"}',
        b'{"command":"status","schema":2}',
        b'{"command":"status","path":"/etc/passwd"}',
        b'{"command":"status","id":"' + b"x" * 129 + b'"}',
        b'{"command":"trigger","camera":"cam0"}',
        b'{"command":"trigger","camera":"../cam","job_id":"1"}',
        b'{"command":"trigger","camera":"cam0","job_id":""}',
        b'{"command":"recipe","recipe":"/etc/passwd"}',
        b'{"command":"threshold","recipe":"a"}',
        b'{"command":"threshold","recipe":"a","fail":1}',
        b'{"command":"threshold","recipe":"a","fail":1e999}',
        b'{"command":"threshold","recipe":"a","fail":NaN}',
        b'{"command":"threshold","recipe":"a","fail":"off"}',
        b'{"command":' + b"[" * 10_000,
        b"[" * MAX_REQUEST_BYTES,
        b" " * (MAX_REQUEST_BYTES + 1),
    ],
)
def test_what_is_no_request_is_refused(raw: bytes) -> None:
    """Another version, unknown keys, values out of range, text that is none, nesting, size: one error."""
    with pytest.raises(MessageError):
        decode_request(raw)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"id":"7","command":"nope"}', "7"),
        (b'{"id":7}', ""),
        (b'{"id":"\xff"}', ""),
        (b"{", ""),
        (b"[" * 10_000, ""),
        (b'{"id":"7"}' + b" " * MAX_REQUEST_BYTES, ""),
    ],
)
def test_the_id_of_what_is_no_request_is_found_if_it_has_one(raw: bytes, expected: str) -> None:
    """So that the error can be told from other replies."""
    assert request_id(raw) == expected


@pytest.mark.parametrize("jpeg", [None, b"picture"])
def test_a_reply_survives_the_wire(jpeg: bytes | None) -> None:
    """With and without a picture."""
    reply = Reply(id="7", ok=True, message="done")
    assert decode_reply(encode_reply(reply, jpeg)) == (reply, jpeg)


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [b"{}"],
        [b'{"id":"\xff","ok":true,"message":""}'],
        [b"{}", b"", b""],
        [b" " * (MAX_REPLY_BYTES + 1)],
    ],
)
def test_what_is_no_reply_is_refused(parts: list[bytes]) -> None:
    """No parts or too many, no fields, text that is none, too many bytes."""
    with pytest.raises(MessageError):
        decode_reply(parts)
