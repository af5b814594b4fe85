"""Pages over real connections, those of bad guests among them."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus

import pytest
from dualkd.daemon.monitoring import http_server
from dualkd.daemon.monitoring.http_server import CONNECTIONS, HEAD_MAX_BYTES, HttpServer, Page
from running import PATIENCE_S, wait_until

BIG = b"x" * (8 << 20)  # more than the buffers of two sockets


def big() -> Page:
    return Page(BIG)


def broken() -> Page:
    raise ValueError("a page that fails")


@pytest.fixture
def server() -> Iterator[HttpServer]:
    server = HttpServer(
        "127.0.0.1:0",
        {
            "/fine": lambda: Page(b"fine\n"),
            "/sick": lambda: Page(b"sick\n", HTTPStatus.SERVICE_UNAVAILABLE),
            "/big": big,
            "/broken": broken,
        },
    )
    yield server
    server.close()


def ask(server: HttpServer, path: str, method: str = "GET") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    with contextlib.closing(connection):
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()


def connect(server: HttpServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)


def serving_threads() -> int:
    return sum("process_request_thread" in thread.name for thread in threading.enumerate())


def has_ended(connection: socket.socket) -> bool:
    """Whether the other side has closed it, without an answer."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_page_is_answered_by_its_exact_path(server: HttpServer) -> None:
    """With its status; anything else is not found, whatever it looks like."""
    assert ask(server, "/fine") == (200, b"fine\n")
    assert ask(server, "/sick") == (503, b"sick\n")
    for path in ("/", "/fine/", "/fine?x=1", "/../fine", "/%66ine", "/etc/passwd"):
        assert ask(server, path)[0] == 404, path


def test_head_is_get_without_the_page(server: HttpServer) -> None:
    """The same status, no body; what else there is in HTTP is refused."""
    with connect(server) as guest:
        guest.sendall(b"HEAD /sick HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: guest.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.0 503 ")
    assert answer.endswith(b"\r\n\r\n")
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
        assert ask(server, "/fine", method)[0] == HTTPStatus.NOT_IMPLEMENTED, method


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /fine HTTP/1.0\r\nX: " + b"x" * (HEAD_MAX_BYTES + 1),
        b"GET /" + b"x" * (HEAD_MAX_BYTES + 1) + b" HTTP/1.0\r\n\r\n",
        b"GET /fine HTTP/1.0\r\n" + b"X: x\r\n" * HEAD_MAX_BYTES + b"\r\n",
    ],
    ids=["header", "path", "headers"],
)
def test_a_request_that_is_too_long_is_not_answered(server: HttpServer, sent: bytes) -> None:
    """It is cut off, with no more of it read than the limit."""
    with connect(server) as guest:
        with contextlib.suppress(ConnectionError):
            guest.sendall(sent)
        assert has_ended(guest)
    assert ask(server, "/fine") == (200, b"fine\n")


@pytest.mark.parametrize(
    "sent", [b"\0\xff\r\n\r\n", b"GET\r\n\r\n", b"GET /fine HTTP/9.9\r\n\r\n", b"\r\n\r\n"]
)
def test_what_is_no_request_harms_nobody(server: HttpServer, sent: bytes) -> None:
    """It gets an error or nothing, and the next guest its page."""
    with connect(server) as guest:
        guest.sendall(sent)
        answer = b"".join(iter(lambda: guest.recv(4096), b""))
    assert b"fine" not in answer
    assert ask(server, "/fine") == (200, b"fine\n")


def test_a_hundred_idle_connections_keep_nobody_out(server: HttpServer) -> None:
    """Their threads are bounded, and who comes need not wait until these are given up, sixteen at a time."""
    with contextlib.ExitStack() as guests:
        began_s = time.monotonic()
        idle = [guests.enter_context(connect(server)) for _ in range(100)]
        assert ask(server, "/fine") == (200, b"fine\n")
        assert time.monotonic() - began_s < 100 / CONNECTIONS * http_server.PATIENCE_S / 2
        assert serving_threads() <= CONNECTIONS
        assert has_ended(idle[0])
    wait_until(lambda: serving_threads() == 0, "the threads end")


def test_a_slow_request_is_given_up(server: HttpServer) -> None:
    """A byte now and then does not hold a thread: the patience is for the whole request."""
    with connect(server) as guest:
        guest.settimeout(0.05)

        def ended() -> bool:
            try:
                guest.sendall(b"G")
                return has_ended(guest)
            except TimeoutError:
                return False
            except BrokenPipeError:
                return True

        wait_until(ended, "the connection ends")
    wait_until(lambda: serving_threads() == 0, "the thread ends")


def test_who_does_not_read_the_answer_is_given_up(server: HttpServer) -> None:
    """A page larger than the buffers, never taken, holds a thread no longer than the patience."""
    with connect(server) as guest:
        guest.sendall(b"GET /big HTTP/1.0\r\n\r\n")
        wait_until(lambda: serving_threads() == 1, "the thread begins")
        assert ask(server, "/fine") == (200, b"fine\n")
        wait_until(lambda: serving_threads() == 0, "the thread ends")
    assert ask(server, "/big") == (200, BIG)


def test_a_page_that_fails_is_logged_and_the_next_served(
    server: HttpServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The guest gets no answer; the error is in the log."""
    with connect(server) as guest:
        guest.sendall(b"GET /broken HTTP/1.0\r\n\r\n")
        assert has_ended(guest)
    assert "a page that fails" in caplog.text
    assert ask(server, "/fine") == (200, b"fine\n")


def test_a_closed_server_gives_its_port_back_and_leaves_nothing() -> None:
    """Idle guests are put out, threads end, and the port can be taken again at once."""
    first = HttpServer("127.0.0.1:0", {})
    with connect(first) as guest:
        wait_until(lambda: serving_threads() == 1, "the thread begins")
        first.close()
        assert has_ended(guest)
    wait_until(lambda: serving_threads() == 0, "the thread ends")
    second = HttpServer(f"127.0.0.1:{first.port}", {"/fine": lambda: Page(b"second\n")})
    try:
        assert ask(second, "/fine") == (200, b"second\n")
        with pytest.raises(OSError, match="in use"):
            HttpServer(f"127.0.0.1:{first.port}", {})
    finally:
        second.close()


def test_an_address_of_the_newer_kind_is_served() -> None:
    """[::1]:PORT, where this host has it."""
    try:
        server = HttpServer("[::1]:0", {"/fine": lambda: Page(b"fine\n")})
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    connection = http.client.HTTPConnection("::1", server.port, timeout=PATIENCE_S)
    with contextlib.closing(connection):
        connection.request("GET", "/fine")
        assert connection.getresponse().read() == b"fine\n"
    server.close()
