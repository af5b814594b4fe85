"""A few pages over HTTP, whatever else hangs on the port.

Knows connections and their limits; the standard library reads the requests. Does not know what the pages
say. A connection is one request, in a thread of its own: it has PATIENCE_S and HEAD_MAX_BYTES to send it and
PATIENCE_S to take each part of the answer. There are CONNECTIONS threads at most; who comes when all are
taken puts out whoever has been there longest.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from typing import Any

logger = logging.getLogger(__name__)

CONNECTIONS = 16
HEAD_MAX_BYTES = 8192
PATIENCE_S = 2.0
POLL_S = 0.1  # how soon `close` is noticed
PLAIN_TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Page:
    """What a path answers."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = PLAIN_TEXT


Pages = Mapping[str, Callable[[], Page]]


class HttpServer:
    """Answers GET and HEAD of `pages`, by exact path, until closed. Several threads may ask for a page at once."""

    def __init__(self, address: str, pages: Pages) -> None:
        """Begin to listen on `address`, HOST:PORT. Raises OSError."""
        host, _, port = address.rpartition(":")
        self._server = _Server(host.strip("[]"), int(port), pages)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=[POLL_S], name="http", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Give the port back and end every connection."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server.put_out(CONNECTIONS)


class _Server(socketserver.ThreadingTCPServer):
    """Bounds the threads. A connection has a place from process_request to shutdown_request."""

    allow_reuse_address = True  # though old connections linger; a second server is refused all the same
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: str, port: int, pages: Pages) -> None:
        self.pages = pages
        self._places = threading.Semaphore(CONNECTIONS)
        self._open: dict[socket.socket, None] = {}  # in the order they came
        self._lock = threading.Lock()  # of _open; what is in it is not closed yet
        resolved = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self.address_family = resolved[0]
        super().__init__((str(resolved[4][0]), port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.put_out(1)
            self._places.acquire()
        with self._lock:
            self._open[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)
        self._places.release()

    def put_out(self, count: int) -> None:
        """End the oldest connections; their threads see it at once, wherever they wait."""
        with self._lock:
            for connection in list(self._open)[:count]:
                del self._open[connection]
                with contextlib.suppress(OSError):  # the other side has gone already
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 (the signature of the base)
        """A client that went away or was too slow is none of ours."""
        if not isinstance(sys.exc_info()[1], OSError):
            logger.exception("a request over HTTP failed")


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "dualkd", ""
    error_content_type, error_message_format = PLAIN_TEXT, "%(code)d %(message)s\n"

    def setup(self) -> None:
        super().setup()
        self.rfile = BytesIO(_receive_head(self.connection))
        self.connection.settimeout(PATIENCE_S)

    def do_GET(self) -> None:
        page = self.server.pages.get(self.path)
        if page is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        answer = page()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(answer.body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        """A line a request would fill the log."""


def _receive_head(connection: socket.socket) -> bytes:
    """Return what came up to the blank line; nothing if that is too much. Raises OSError when it takes too long."""
    until_s = time.monotonic() + PATIENCE_S
    head = b""
    while b"\r\n\r\n" not in head:
        if len(head) == HEAD_MAX_BYTES:
            return b""
        connection.settimeout(max(until_s - time.monotonic(), 1e-3))
        received = connection.recv(HEAD_MAX_BYTES - len(head))
        if not received:
            return b""
        head += received
        if time.monotonic() > until_s:
            raise TimeoutError
    return head
