"""What systemd would hear from a daemon: a real NOTIFY_SOCKET, and every message with the time it came."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from running import PATIENCE_S, wait_until


@dataclass(frozen=True, slots=True)
class Told:
    """One message."""

    at_s: float  # time.monotonic() when it came
    lines: tuple[str, ...]


class NotifySocket:
    """Listens in a thread of its own, so that times are right however busy the test is.

    with NotifySocket(folder, watchdog_s=0.3) as systemd:
        daemon.environment = systemd.environment
        with daemon: systemd.wait_for("READY=1")
    """

    def __init__(self, folder: Path, watchdog_s: float | None = None, abstract: bool = False) -> None:
        """`folder` has a short path (see running.short_folder); `abstract`: no file, as some managers do."""
        path = f"{folder}/notify"
        self.environment = {"NOTIFY_SOCKET": "@" + path if abstract else path}
        if watchdog_s is not None:
            self.environment["WATCHDOG_USEC"] = str(round(watchdog_s * 1e6))
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + path if abstract else path)
        self._thread = threading.Thread(target=self._listen, name="notify socket")
        self._messages: list[Told] = []

    def __enter__(self) -> NotifySocket:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.shutdown(socket.SHUT_RD)
        self._thread.join()
        self._socket.close()

    @property
    def messages(self) -> list[Told]:
        """All that came so far, in order."""
        return list(self._messages)

    def times_s(self, line: str) -> list[float]:
        """When `line` came, such as "WATCHDOG=1"."""
        return [told.at_s for told in self.messages if line in told.lines]

    def silence_s(self, line: str) -> float:
        """How long ago `line` came last. Raises IndexError if it never did."""
        return time.monotonic() - self.times_s(line)[-1]

    def wait_for(self, line: str, count: int = 1, timeout_s: float = PATIENCE_S) -> None:
        """Wait until `line` has come `count` times."""
        wait_until(lambda: len(self.times_s(line)) >= count, f"{line}, {count} times", timeout_s)

    def _listen(self) -> None:
        while data := self._socket.recv(65_536):
            self._messages.append(Told(time.monotonic(), tuple(data.decode().splitlines())))
