"""A bridge as a real process, for tests: started with a daemon's addresses, its log kept, ended."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from types import TracebackType
from typing import Any

import yaml
from running import PATIENCE_S, DaemonProcess, wait_until


class BridgeProcess:
    """`dualkd-bridge KIND` for a daemon; a context manager that waits until it serves and kills what is left."""

    def __init__(self, kind: str, daemon: DaemonProcess, cameras: list[str], **changes: Any) -> None:
        """`changes` are top-level keys. Its files are in the daemon's folder."""
        folder = daemon.config_path.parent
        self._kind = kind
        self._path, self._log = folder / f"{kind}.yaml", folder / f"{kind}.log"
        self.config = {
            "results": daemon.results,
            "control": daemon.control,
            "line": "test",
            "cameras": [{"name": name} for name in cameras],
            "recipes": ["default"],
            **changes,
        }

    def __enter__(self) -> BridgeProcess:
        self.start()
        wait_until(lambda: "INFO line: " in self.log or self.ended, "the bridge serves")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        if error is not None:
            print(self.log, file=sys.stderr)

    def start(self) -> None:
        self._path.write_text(yaml.safe_dump(self.config))
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dualkd.daemon.bridges.command", self._kind, str(self._path)],
                stderr=log,
                env=os.environ,
            )

    @property
    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def end(self) -> int:
        """What systemd does: SIGTERM. Returns the exit status."""
        self.process.terminate()
        return self.process.wait(PATIENCE_S)


def free_port() -> int:
    """One that nothing listened on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
