"""sd_notify, to a real datagram socket."""

from __future__ import annotations

import socket
import time

import pytest
from dualkd.daemon.notify import SystemdNotifier
from running import PATIENCE_S, short_folder, wait_until


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_hears_what_is_told(abstract: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a path and at an abstract name."""
    with short_folder() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        name = f"{folder}/notify"
        systemd.bind("\0" + name if abstract else name)
        systemd.settimeout(PATIENCE_S)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name if abstract else name)
        SystemdNotifier().tell("READY=1", "STATUS=line 1")
        assert systemd.recv(100) == b"READY=1\nSTATUS=line 1"


def test_the_watchdog_is_fed_thrice_a_period_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often the loop turns; and a missing systemd is no error."""
    with short_folder() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"{folder}/notify")
        systemd.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", f"{folder}/notify")
        monkeypatch.setenv("WATCHDOG_USEC", "300000")
        notifier = SystemdNotifier()
        fed_at: list[float] = []

        def fed_twice() -> bool:
            notifier.feed_watchdog()
            try:
                assert systemd.recv(100) == b"WATCHDOG=1"
                fed_at.append(time.monotonic())
            except BlockingIOError:
                pass
            return len(fed_at) == 2

        wait_until(fed_twice, "two feedings")
        assert fed_at[1] - fed_at[0] > 0.09
    notifier.tell("STOPPING=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    SystemdNotifier().tell("READY=1")
