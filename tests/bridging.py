"""A bridge as a real process, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from running import DaemonProcess, Program


class BridgeProcess(Program):
    """`dualkd-bridge KIND` beside a daemon."""

    def __init__(self, kind: str, folder: Path, daemon: DaemonProcess, **changes: Any) -> None:
        """`changes` are top-level keys of its configuration; the daemon's cameras and recipes are all in it."""
        path = folder / f"{kind}.yaml"
        super().__init__(folder / f"{kind}.log", "dualkd.daemon.bridges.command", kind, str(path))
        config = {
            "results": daemon.results,
            "control": daemon.control,
            "line": daemon.config["line"],
            "cameras": [{"name": camera["name"]} for camera in daemon.config["cameras"]],
            "recipes": list(daemon.config["recipes"]),
            **changes,
        }
        path.write_text(yaml.safe_dump(config))

    def stop(self) -> int:
        """What `systemctl stop` does; the exit status."""
        self.terminate()
        return self.wait()
