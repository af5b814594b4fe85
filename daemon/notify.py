"""Tells systemd how the service is (sd_notify); silent where no systemd listens.

The protocol is a datagram to the socket named by NOTIFY_SOCKET, declared stable in sd_notify(3). What is sent:
    READY=1               started up, or done with reloading
    RELOADING=1           reading the configuration again; MONOTONIC_USEC says since when. Units are Type=notify
                          and not notify-reload, which systemd 249 does not know; it ignores the second line.
    STOPPING=1            shutting down
    STATUS=...            a line for `systemctl status`
    WATCHDOG=1            the loop turns
    EXTEND_TIMEOUT_USEC   starting, reloading or stopping takes longer than the unit allows
Does not know when any of this is so.
"""

from __future__ import annotations

import os
import socket
import time

_LONGEST_WAIT_S = 1.0  # for a systemd that does not read: a line does not wait for it


class SystemdNotifier:
    """Where systemd listens, if it does, and when its watchdog was fed last."""

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
            out.settimeout(_LONGEST_WAIT_S)
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

    def reloading(self) -> None:
        """Say that the configuration is read again. "READY=1" must follow, whether it was accepted or not."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def extend_timeout(self, seconds: float) -> None:
        """Ask for `seconds` from now for what goes on (start, reload, stop), where the unit allows less.

        Not for the watchdog, which must be fed meanwhile once the service is ready.
        """
        self.tell(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")
