"""The demo's commands as processes of their own, as a user would run them, on ports that nobody uses."""

from __future__ import annotations

import socket
import subprocess
import sys


class DemoError(Exception):
    """A step of the demo failed; its own output says why."""


def run_module(*command: str) -> None:
    """Run one of dualkd's commands as a user would, in a process of its own."""
    status = subprocess.run([sys.executable, "-m", *command], check=False).returncode
    if status != 0:
        raise DemoError(f"{' '.join(command)} ended with status {status}")


def free_ports(count: int) -> list[int]:
    """Ports on this host that nobody uses now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
