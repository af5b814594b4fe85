"""Tells systemd how the service is (sd_notify); silent where no systemd listens.

The protocol is a datagram to the socket named by NOTIFY_SOCKET, declared stable in sd_notify(3).
"""

from __future__ import annotations

import os
import socket
import time


class SystemdNotifier:
    """READY=1, STATUS=..., WATCHDOG=1, STOPPING=1."""

    def __init__(self) -> None:
        path = os.environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        watchdog_us = os.environ.get("WATCHDOG_USEC", "")
        self._feed_every_s = int(watchdog_us) / 3e6 if watchdog_us.isdigit() else 0.0
        self._fed_at = 0.0

    def tell(self, *lines: str) -> None:
        """Send `lines` such as "READY=1"."""
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
            try:
                out.sendto("\n".join(lines).encode(), self._address)
            except OSError:
                return  # systemd's own timeouts decide what follows

    def feed_watchdog(self) -> None:
        """Say that the loop turns; to be called from the loop itself, as often as it likes."""
        now = time.monotonic()
        if self._feed_every_s and now - self._fed_at >= self._feed_every_s:
            self._fed_at = now
            self.tell("WATCHDOG=1")
