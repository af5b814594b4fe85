"""What a bridge is told of the line, in which order: the last word on a daemon that is gone is that it is gone."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from dualkd.daemon.bridges.config import BridgeConfig
from dualkd.daemon.bridges.feed import LineNow, follow
from dualkd.daemon.client import Received, Result
from headers import result_header


class LastWords:
    """A subscriber of a daemon that has been killed: what it still holds comes after the end of the connection."""

    status = None

    def __init__(self, waiting: list[Received]) -> None:
        self._waiting = waiting

    def daemon_fault(self) -> str:
        return "there is no connection to the daemon"

    def camera_fault(self, camera: str) -> str:  # noqa: ARG002 (the same for each)
        return self.daemon_fault()

    async def receive(self, timeout_s: float | None = None) -> Received:  # noqa: ARG002 (never waits)
        if not self._waiting:
            raise asyncio.CancelledError
        return self._waiting.pop(0)


class Diary:
    """A bridge that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    async def verdict(self, result: Result) -> None:
        self.told.append(result.header.verdict)

    async def condition(self, now: LineNow) -> None:
        self.told.append(now.fault)


def test_a_verdict_from_a_daemon_that_is_gone_is_followed_by_its_fault() -> None:
    """Or a bridge that shows the last thing it was told would show PASS for ever."""
    results: list[Received] = [Result("", result_header(seq=number), None, 0) for number in range(3)]
    config = msgspec.convert({"line": "line", "cameras": [{"name": "cam"}]}, BridgeConfig)
    bridge = Diary()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(follow(LastWords(results), config, bridge, lambda: None))  # type: ignore[arg-type]
    gone = "there is no connection to the daemon"
    assert bridge.told == ["PASS", gone] * 3
