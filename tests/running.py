"""The daemon as a real process, for tests: start it, hear it, stop it, and leave nothing behind."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import yaml
from cameras import capture_pids
from dualkd.daemon import control_messages as requests
from dualkd.daemon.client import Controller, Result, Status, Subscriber
from dualkd.daemon.control_messages import AnyRequest, Reply
from dualkd.daemon.messages import StatusHeader

if TYPE_CHECKING:
    from typing_extensions import Self

PATIENCE_S = 60.0  # a deadline, not a wait: on a busy machine everything takes longer


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Wait for `condition`; fail with `what` when it does not come."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout_s:g} s")
        time.sleep(0.005)


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for a socket's address."""
    with tempfile.TemporaryDirectory(prefix="dk", dir="/tmp") as name:
        yield Path(name)


def free_port() -> int:
    """A TCP port that nothing listens on, below those that the kernel gives to whoever connects somewhere."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port


class Program:
    """`python -m MODULE ARGUMENTS...`; a context manager that kills what is left."""

    def __init__(self, log: Path, module: str, *arguments: str) -> None:
        """What it says to stderr is in the file `log`."""
        self._log = log
        self._command = [sys.executable, "-m", module, *arguments]
        self.environment: dict[str, str] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        if error is not None:
            print(self.log, file=sys.stderr)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def start(self) -> None:
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(self._command, stderr=log, env={**os.environ, **self.environment})

    def terminate(self) -> None:
        """What `systemctl stop` does first."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """The exit status, once it has ended."""
        return self.process.wait(PATIENCE_S)


class DaemonProcess(Program):
    """`dualkd-daemon` with a configuration."""

    def __init__(self, folder: Path, bundle: Path, cameras: list[dict[str, Any]], **changes: Any) -> None:
        """`changes` are top-level keys; `publisher` and `recipe` are merged. Sockets are ipc ones in `folder`."""
        self.results = f"ipc://{folder}/results"
        self.scores = f"ipc://{folder}/scores"
        self.preview = f"ipc://{folder}/preview"
        self.control = f"ipc://{folder}/control"
        publisher = {"results": self.results, "scores": self.scores, "wait_for_subscribers": 1}
        publisher.update(changes.pop("publisher", {}))
        self.config = {
            "line": "test",
            "recipes": {"default": {"bundle": str(bundle), **changes.pop("recipe", {})}},
            "engine": {"threads": 1},
            "cameras": cameras,
            "publisher": publisher,
            "preview": {"endpoint": self.preview, **changes.pop("preview", {})},
            "control": {"endpoint": self.control},
            "metrics": {"address": None},
            **changes,
        }
        self.config_path = folder / "daemon.yaml"
        self.configure()
        super().__init__(folder / "log", "dualkd.daemon", str(self.config_path))

    def configure(self, **changes: Any) -> None:
        """Write the configuration file, with other top-level keys from now on."""
        self.config.update(changes)
        self.config_path.write_text(yaml.safe_dump(self.config))

    def subscriber(self, endpoint: str | None = None) -> Subscriber:
        return Subscriber(endpoint or self.results, timeout_s=PATIENCE_S, until_ended=True)

    def ask(self, request: AnyRequest) -> Reply:
        """Send one request over a connection of its own and return the answer."""
        controller = Controller(self.control)
        try:
            return controller.ask(request, PATIENCE_S).reply
        finally:
            controller.close()

    def status(self) -> StatusHeader:
        """How it is now, as it answers itself."""
        status = self.ask(requests.Status()).status
        if status is None:
            raise AssertionError("the answer to a status request holds no status")
        return status

    def capture_pids(self) -> list[int]:
        """The processes that it started to capture."""
        return capture_pids(self.process.pid)

    def resident_mib(self) -> float:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def receive_to_the_end(subscriber: Subscriber) -> tuple[list[Result], list[Status]]:
    """Everything until the status that says the daemon has ended."""
    results: list[Result] = []
    statuses: list[Status] = []
    while True:
        received = subscriber.receive(PATIENCE_S)
        if isinstance(received, Result):
            results.append(received)
            continue
        statuses.append(received)
        if received.header.state == "ended":
            return results, statuses


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
