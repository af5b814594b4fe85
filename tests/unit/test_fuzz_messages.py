"""Whatever the bytes are: requests, replies, results, statuses and capture messages are read or refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from dualkd.daemon import messages
from dualkd.daemon.cameras import ring
from dualkd.daemon.control_messages import (
    MAX_REQUEST_BYTES,
    AnyRequest,
    Reply,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)
from dualkd.daemon.messages import MessageError, ResultHeader, StatusHeader, decode_multipart, decode_scores
from fuzz.targets import check_control, check_messages, check_ring, message_seeds, request_seeds, ring_seeds
from fuzz.trees import slips, trees
from hypothesis import given, settings
from hypothesis import strategies as st

quick = settings(max_examples=200, derandomize=True, deadline=None)

REQUESTS = {type_.__struct_config__.tag: type_ for type_ in AnyRequest.__args__}


@quick
@given(st.binary(max_size=300) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    """Nothing but the promised error comes out of the decoders."""
    check_control(data)
    check_messages(data)


@quick
@given(slips(AnyRequest) | slips(Reply))
def test_any_json_is_a_request_or_refused(tree: Any) -> None:
    """Requests and replies of the right shape with anything in some places."""
    check_control(msgspec.json.encode(tree))


@quick
@given(slips(ResultHeader) | slips(StatusHeader), st.binary(max_size=24))
def test_any_header_is_a_message_or_refused(tree: Any, map_bytes: bytes) -> None:
    """Headers of the right shape with anything in some places, under the topic that they claim."""
    header = msgspec.json.encode(tree)
    line, camera = (str(tree.get(key, "")) if isinstance(tree, dict) else "" for key in ("line", "camera"))
    for topic in (messages.status_topic(line), messages.result_topic(line, camera)):
        check_messages(b"\n".join([topic.encode(), header, map_bytes]))
        check_messages(topic.encode() + b" " + header)


@quick
@given(st.binary(max_size=100) | slips(ring.FromChild | ring.NewSlot).map(msgspec.msgpack.encode))
def test_whatever_a_capture_process_says_is_heard_or_refused(data: bytes) -> None:
    """Slots, sizes and shapes of any number among it, with a descriptor and without."""
    check_ring(data)


@pytest.mark.parametrize("said", [["NewSlot", 0, -1], ["NewSlot", 0, 1 << 63], ["NewSlot", 1 << 40, 4096]])
def test_memory_that_no_capture_process_has_is_refused(said: list[Any]) -> None:
    """Less than nothing, more than there is, a slot beyond all slots: errors that the listener expects."""
    ours, theirs = ring.pair()
    with ours, theirs:
        theirs.send(msgspec.msgpack.encode(said))
        with pytest.raises(msgspec.ValidationError):
            ring.SlotReader(ours).receive()


def test_a_capture_message_nested_without_end_is_refused() -> None:
    """An error that the listener expects, where a RecursionError would end it."""
    check_ring(ring_seeds()[0])


@pytest.mark.parametrize("command", REQUESTS)
def test_every_request_survives_the_wire(command: str) -> None:
    """Of each kind, whatever its values."""

    @settings(quick, max_examples=50)
    @given(trees(REQUESTS[command]))
    def survives(tree: Any) -> None:
        try:
            request = msgspec.convert(tree, REQUESTS[command])
        except msgspec.ValidationError:  # a rule over several keys
            return
        assert decode_request(encode_request(request)) == request

    survives()


@quick
@given(trees(Reply), st.none() | st.binary(max_size=50))
def test_every_reply_survives_the_wire(tree: Any, jpeg: bytes | None) -> None:
    """With a picture and without."""
    reply = msgspec.convert(tree, Reply)
    assert decode_reply(encode_reply(reply, jpeg)) == (reply, jpeg)


@quick
@given(trees(ResultHeader))
def test_every_result_survives_both_sockets(tree: Any) -> None:
    """The header whole; the map, where there is one, in its shape."""
    if tree["map"] is not None:
        tree["map"]["shape"] = [2, 3]
    header = msgspec.convert(tree, ResultHeader)
    topic = messages.result_topic(header.line, header.camera)
    map_bytes = None if header.map is None else bytes(12)
    message = decode_multipart(messages.encode_results(topic, header, map_bytes))
    assert message.header == header
    assert (message.anomaly_map is None) == (header.map is None)
    assert decode_scores(messages.encode_scores(topic, header)).header == header


@quick
@given(trees(StatusHeader))
def test_every_status_survives_both_sockets(tree: Any) -> None:
    """The header whole."""
    header = msgspec.convert(tree, StatusHeader)
    topic = messages.status_topic(header.line)
    assert decode_multipart(messages.encode_results(topic, header)).header == header
    assert decode_scores(messages.encode_scores(topic, header)).header == header


def test_what_is_no_utf8_is_refused() -> None:
    """In a string of a request, of a header and of a reply: the decoder's own error does not get out."""
    with pytest.raises(MessageError):
        decode_request(b'{"command":"status","id":"\xff"}')
    with pytest.raises(MessageError):
        decode_scores(b'v1/a/status {"boot_id":"\xff"}')
    with pytest.raises(MessageError):
        decode_reply([b'{"id":"\xff"}'])


def test_a_name_with_a_line_break_is_refused() -> None:
    """A topic and a log line would be torn by it."""
    for request in (
        b'{"command":"pause","camera":"a\\n"}',
        b'{"command":"trigger","camera":"a","job_id":"7\\n"}',
    ):
        with pytest.raises(MessageError, match="matching regex"):
            decode_request(request)
        decode_request(request.replace(b"\\n", b""))


@pytest.mark.parametrize("piece", [b"[", b'{"a":', b'"\\u0000', b"9", b" "])
def test_depth_and_size_have_their_limits(piece: bytes) -> None:
    """Nesting, text, digits and blanks without end are refused, in little more room than they take."""
    for size in (MAX_REQUEST_BYTES // len(piece), MAX_REQUEST_BYTES):
        with pytest.raises(MessageError) as caught:
            decode_request(piece * size)
        assert len(str(caught.value)) < 2 * MAX_REQUEST_BYTES
        with pytest.raises(MessageError):
            decode_scores(b"v1/a/status " + piece * size)


def test_the_seeds_are_real_messages() -> None:
    """The coverage-guided run begins with what is read, not with what is refused."""
    assert all(_read(decode_request, raw) or _read(decode_reply, [raw]) for raw in request_seeds())
    assert all(
        _read(decode_multipart, raw.split(b"\n")) or _read(decode_scores, raw) for raw in message_seeds()
    )


def _read(decode: Any, data: Any) -> bool:
    try:
        decode(data)
    except MessageError:
        return False
    return True
