"""An MJPEG stream over HTTP as a process of its own, as a network camera serves it, to be stopped and killed.

    python -m stream_server --rate 25      (in tests/; says its URL in its first line)

Every client gets the same numbered pictures, plain grey ones: the n-th since the server began has the grey
level of cameras.grey_of(n). A line on its standard input changes that: "black", "frozen" (one picture again and
again), "resized" (half as wide and high), and "frames" changes it back.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from cameras import grey_of
from dualkd.daemon.frames import Image

BOUNDARY = "picture"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # who connects while the process is stopped is served when it goes on
    rate: float
    size: tuple[int, int]  # width, height
    order = "frames"

    def picture(self, number: int) -> Image:
        """The n-th picture, as ordered."""
        width, height = self.size
        match self.order:
            case "black":
                return np.zeros((height, width, 3), np.uint8)
            case "frozen":
                return np.full((height, width, 3), 77, np.uint8)
            case "resized":
                return np.full((height // 2, width // 2, 3), grey_of(number), np.uint8)
        return np.full((height, width, 3), grey_of(number), np.uint8)

    def obey(self) -> None:
        """Take orders until there will be no more."""
        for line in sys.stdin:
            self.order = line.strip()


class _Stream(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={BOUNDARY}")
        self.end_headers()
        began, number = time.monotonic(), 0
        while True:
            _, encoded = cv2.imencode(".jpg", self.server.picture(number))
            body = encoded.tobytes()
            head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
            try:
                self.wfile.write(head.encode() + body + b"\r\n")
            except OSError:
                return  # the client is gone
            number = max(number + 1, int((time.monotonic() - began) * self.server.rate))
            time.sleep(max(0.0, began + number / self.server.rate - time.monotonic()))

    def log_message(self, *args: object) -> None:
        """A test has nothing to read here."""


class StreamServer:
    """The server as a process, for tests; a context manager that leaves nothing behind."""

    def __init__(self, rate: float = 25.0, width: int = 64, height: int = 48, port: int = 0) -> None:
        """`port` 0: any that is free."""
        self._options = ["--rate", str(rate), "--size", str(width), str(height), "--port", str(port)]

    def __enter__(self) -> StreamServer:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "stream_server", *self._options],
            cwd=Path(__file__).parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()  # a stopped one dies of it too
        self.process.wait()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2].partition("/")[0])

    def serve(self, order: str) -> None:
        """From now on: "frames", "black", "frozen" or "resized"."""
        assert self.process.stdin is not None
        print(order, file=self.process.stdin, flush=True)

    def freeze(self) -> None:
        """Stop it where it stands: connections stay open, new ones are accepted by the kernel, all are silent."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)


def main() -> None:
    parser = argparse.ArgumentParser(description="serve numbered grey pictures as an MJPEG stream")
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--rate", type=float, default=25.0, help="pictures a second")
    parser.add_argument("--size", type=int, nargs=2, default=[64, 48], help="width and height in pixels")
    arguments = parser.parse_args()
    server = _Server(("127.0.0.1", arguments.port), _Stream)
    server.rate, server.size = arguments.rate, tuple(arguments.size)
    threading.Thread(target=server.obey, name="orders", daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}/stream.mjpg", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
