"""A bridge as a real process, for tests."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml
from running import PATIENCE_S, DaemonProcess


def free_port() -> int:
    """A TCP port of this host that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class BridgeProcess:
    """`dualkd-bridge KIND` beside a daemon; a context manager that kills what is left."""

    def __init__(self, kind: str, folder: Path, daemon: DaemonProcess, **changes: Any) -> None:
        """`changes` are top-level keys of its configuration; the daemon's cameras and recipes are all in it."""
        self._kind = kind
        self._log = folder / f"{kind}.log"
        self._config_path = folder / f"{kind}.yaml"
        config = {
            "results": daemon.results,
            "control": daemon.control,
            "line": daemon.config["line"],
            "cameras": [{"name": camera["name"]} for camera in daemon.config["cameras"]],
            "recipes": list(daemon.config["recipes"]),
            **changes,
        }
        self._config_path.write_text(yaml.safe_dump(config))

    def __enter__(self) -> BridgeProcess:
        command = [
            sys.executable,
            "-m",
            "dualkd.daemon.bridges.command",
            self._kind,
            str(self._config_path),
        ]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stderr=log)
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

    def wait(self) -> int:
        """The exit status, once it has ended."""
        return self.process.wait(PATIENCE_S)

    def stop(self) -> int:
        """What `systemctl stop` does; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()
