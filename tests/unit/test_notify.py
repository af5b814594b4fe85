"""sd_notify, to a real datagram socket."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from dualkd.daemon.notify import SystemdNotifier
from notify_socket import NotifySocket
from running import PATIENCE_S, short_folder, wait_until


def notifier_for(systemd: NotifySocket, monkeypatch: pytest.MonkeyPatch) -> SystemdNotifier:
    for name, value in systemd.environment.items():
        monkeypatch.setenv(name, value)
    return SystemdNotifier()


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_hears_what_is_told(abstract: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a path and at an abstract name, all lines in one message."""
    with short_folder() as folder, NotifySocket(folder, abstract=abstract) as systemd:
        notifier_for(systemd, monkeypatch).tell("READY=1", "STATUS=line 1")
        systemd.wait_for("READY=1")
        assert [told.lines for told in systemd.messages] == [("READY=1", "STATUS=line 1")]


def test_the_watchdog_is_fed_thrice_a_period_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often the loop turns."""
    with short_folder() as folder, NotifySocket(folder, watchdog_s=0.3) as systemd:
        notifier = notifier_for(systemd, monkeypatch)
        began_s = time.monotonic()

        def fed_thrice() -> bool:
            notifier.feed_watchdog()
            return len(systemd.times_s("WATCHDOG=1")) == 3

        wait_until(fed_thrice, "three feedings")
        assert time.monotonic() - began_s > 0.19


def test_without_a_watchdog_none_is_fed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit without WatchdogSec= hears no WATCHDOG=1."""
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    with short_folder() as folder, NotifySocket(folder) as systemd:
        notifier = notifier_for(systemd, monkeypatch)
        notifier.feed_watchdog()
        notifier.tell("STOPPING=1")
        systemd.wait_for("STOPPING=1")
        assert systemd.times_s("WATCHDOG=1") == []


def test_a_reload_says_since_when(monkeypatch: pytest.MonkeyPatch) -> None:
    """RELOADING=1 with the monotonic clock in microseconds, as notify-reload of later systemds wants it."""
    with short_folder() as folder, NotifySocket(folder) as systemd:
        before_us = time.monotonic_ns() // 1000
        notifier_for(systemd, monkeypatch).reloading()
        after_us = time.monotonic_ns() // 1000
        systemd.wait_for("RELOADING=1")
        (told,) = systemd.messages
        key, _, value = told.lines[1].partition("=")
        assert key == "MONOTONIC_USEC"
        assert before_us <= int(value) <= after_us


def test_more_time_is_asked_for_in_microseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole ones: systemd refuses a fraction."""
    with short_folder() as folder, NotifySocket(folder) as systemd:
        notifier_for(systemd, monkeypatch).extend_timeout(90.0000004)
        systemd.wait_for("EXTEND_TIMEOUT_USEC=90000000")


def test_no_systemd_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither none at all nor one that has gone."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    SystemdNotifier().tell("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    SystemdNotifier().tell("READY=1")


def test_a_systemd_that_does_not_read_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its queue full the message is given up, and the line goes on."""
    with short_folder() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(f"{folder}/notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler, suppress(BlockingIOError):
            filler.setblocking(False)
            while True:
                filler.sendto(b"STATUS=full", f"{folder}/notify")
        monkeypatch.setenv("NOTIFY_SOCKET", f"{folder}/notify")
        line = threading.Thread(target=SystemdNotifier().tell, args=["WATCHDOG=1"], daemon=True)
        line.start()
        line.join(PATIENCE_S)
        assert not line.is_alive()
