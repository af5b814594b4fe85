"""The control socket: requests in, replies out, in a thread of its own.

Knows envelopes, limits and who is waiting for a reply. Does not know what a request means: a trigger goes
to the one callable given for it, at once, because it is stamped with the time it came at; everything else
waits for the service to take it. Every request is answered, malformed ones too.

A client that sends more than a request can hold is cut off by ZeroMQ; one that does not read its replies
loses them after a few, and holds nobody up.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import msgspec
import zmq
from dualkd.daemon.config import ControlConfig
from dualkd.daemon.control_messages import (
    MAX_REPLY_BYTES,
    MAX_REQUEST_BYTES,
    AnyRequest,
    Reply,
    Trigger,
    decode_request,
    encode_reply,
    request_id,
)
from dualkd.daemon.curve import Security
from dualkd.daemon.endpoints import is_tcp
from dualkd.daemon.messages import MessageError
from dualkd.daemon.parts import Call, Job
from dualkd.daemon.sockets import BoundSockets, EndpointError

logger = logging.getLogger(__name__)

_MAX_FRAME_BYTES = 2 * MAX_REQUEST_BYTES  # up to here a client is told, beyond it is cut off
_MAX_PARTS = 16  # of a message: addresses, the delimiter, the request
_UNREAD_REPLIES = 32  # that may wait for a client
_UNTAKEN_REQUESTS = 32  # of a client, that may wait for this thread
_LINGER_MS = 500


class ControlError(Exception):
    """A control endpoint that cannot be had: which, why, and what to do."""


@dataclass(frozen=True, slots=True, eq=False)
class _Asker:
    """Where the reply to a request goes, and the id that it goes with."""

    envelope: list[bytes]
    id: str


class ControlServer:
    """A ROUTER socket and the thread that owns it. `calls` and answers may come from any thread."""

    def __init__(
        self, config: ControlConfig, security: Security | None, trigger: Callable[[Job], str]
    ) -> None:
        """`trigger` takes a job in without waiting and returns why it cannot, or an empty string."""
        self._config = config
        self._security = security
        self._trigger = trigger
        self._guarded = False  # requests come with the key of who sent them
        self._bound: BoundSockets | None = None
        self._thread: threading.Thread | None = None
        self._wake = -1
        self._lock = threading.Lock()
        self._ending = False
        self._untaken: list[Call] = []
        self._unanswered: set[_Asker] = set()
        self._replies: deque[list[bytes]] = deque()
        self.endpoint = ""  # as bound

    def open(self) -> None:
        """Bind and begin to serve; without an endpoint, do nothing. Raises ControlError."""
        endpoint = self._config.endpoint
        if endpoint is None:
            return
        options: dict[int, int] = {
            zmq.LINGER: _LINGER_MS,
            zmq.SNDHWM: _UNREAD_REPLIES,
            zmq.RCVHWM: _UNTAKEN_REQUESTS,
            zmq.MAXMSGSIZE: _MAX_FRAME_BYTES,
        }
        self._bound = BoundSockets(self._security)
        try:
            socket = self._bound.bind(zmq.ROUTER, "control", endpoint, options)
        except EndpointError as error:
            self.close()
            raise ControlError(f"control.endpoint: {error}") from error
        self.endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._guarded = self._security is not None and is_tcp(endpoint)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._ending = False
        self._thread = threading.Thread(target=self._serve, args=(socket,), name="control", daemon=True)
        self._thread.start()

    def calls(self) -> list[Call]:
        """What was asked since the last call, oldest first. Never waits. Answer each of them, once."""
        with self._lock:
            taken, self._untaken = self._untaken, []
        return taken

    def close(self) -> None:
        """Tell who is still waiting that the daemon ends, and free the endpoint."""
        if self._thread is not None:
            with self._lock:
                self._ending = True
                for asker in self._unanswered:
                    self._replies.append(_refusal(asker, "the daemon ended before it was done"))
                self._unanswered.clear()
                self._untaken.clear()
                os.eventfd_write(self._wake, 1)
            self._thread.join()
            self._thread = None
            os.close(self._wake)
        if self._bound is not None:
            self._bound.close()
            self._bound = None

    def _serve(self, socket: zmq.Socket[bytes]) -> None:
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(self._wake, zmq.POLLIN)
        while not self._ending:
            ready = dict(poller.poll())
            if socket in ready:
                parts = socket.recv_multipart(copy=False)
                reply = self._take(parts, time.monotonic_ns())
                if reply is not None:
                    _send(socket, reply)
            if self._wake in ready:
                os.eventfd_read(self._wake)
                self._send_replies(socket)
        self._send_replies(socket)  # those of `close`

    def _send_replies(self, socket: zmq.Socket[bytes]) -> None:
        while self._replies:
            _send(socket, self._replies.popleft())

    def _take(self, frames: list[zmq.Frame], received_mono_ns: int) -> list[bytes] | None:
        """Take a message in; return the reply if there is one already."""
        parts = [frame.bytes for frame in frames[: _MAX_PARTS + 1]]
        if len(frames) > _MAX_PARTS:
            return _refusal(
                _Asker(parts[:1], ""), f"a message has at most {_MAX_PARTS} parts, got {len(frames)}"
            )
        envelope, content = _open_envelope(parts)
        if len(content) != 1:
            return _refusal(_Asker(envelope, ""), f"a request is one part, got {len(content)}")
        if self._guarded and not self._admits(frames[-1]):
            return _refusal(_Asker(envelope, request_id(content[0])), "this key may not control any more")
        try:
            request = decode_request(content[0])
        except MessageError as error:
            return _refusal(_Asker(envelope, request_id(content[0])), str(error))
        asker = _Asker(envelope, request.id)
        if isinstance(request, Trigger):
            return self._take_trigger(asker, Job(request.camera, request.job_id, received_mono_ns))
        return self._take_call(asker, request)

    def _admits(self, frame: zmq.Frame) -> bool:
        key, address = str(frame.get("User-Id")), str(frame.get("Peer-Address"))
        return self._security is not None and self._security.admits("control", key.encode(), address)

    def _take_trigger(self, asker: _Asker, job: Job) -> list[bytes]:
        try:
            why_not = self._trigger(job)
        except Exception:
            logger.exception("control: trigger of camera %s, job %s", job.camera, job.job_id)
            why_not = "the daemon failed at it, see its log"
        if why_not:
            return _refusal(asker, why_not)
        done = f"camera {job.camera}: job {job.job_id} waits for its frame"
        return [*asker.envelope, *encode_reply(Reply(id=asker.id, ok=True, message=done))]

    def _take_call(self, asker: _Asker, request: AnyRequest) -> list[bytes] | None:
        with self._lock:
            if self._ending:
                return _refusal(asker, "the daemon is ending")
            if len(self._unanswered) >= self._config.queue:
                return _refusal(
                    asker, f"busy: {self._config.queue} requests are waiting (control.queue); try again"
                )
            self._unanswered.add(asker)
            self._untaken.append(Call(request, partial(self._answer, asker)))
        return None

    def _answer(self, asker: _Asker, reply: Reply, jpeg: bytes | None = None) -> None:
        """Send a reply off. The second to a request, and one after `close`, go nowhere."""
        parts = encode_reply(msgspec.structs.replace(reply, id=asker.id), jpeg)
        size = sum(len(part) for part in parts)
        with self._lock:
            if asker not in self._unanswered:
                return
            self._unanswered.remove(asker)
            self._replies.append(
                [*asker.envelope, *parts]
                if size <= MAX_REPLY_BYTES
                else _refusal(asker, f"the reply has {size} bytes, more than the {MAX_REPLY_BYTES} allowed")
            )
            os.eventfd_write(self._wake, 1)


def _open_envelope(parts: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Split a message into what a reply goes back behind and what was sent.

    The first part names the client. REQ and proxies put more addresses there, up to an empty delimiter.
    """
    cut = parts.index(b"", 1) + 1 if b"" in parts[1:] else 1
    return parts[:cut], parts[cut:]


def _refusal(asker: _Asker, why: str) -> list[bytes]:
    return [*asker.envelope, *encode_reply(Reply(id=asker.id, ok=False, message=why))]


def _send(socket: zmq.Socket[bytes], parts: list[bytes]) -> None:
    """Never waits: ROUTER drops what is for a client that went away or does not read."""
    socket.send_multipart(parts, zmq.NOBLOCK)
