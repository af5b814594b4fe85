"""What a broker's subscribers hear of the line.

Knows topics and payloads. How they reach the broker is in link.py, what waits for it in outbox.py, what may be asked
in commands.py.
"""

from __future__ import annotations

import asyncio
import logging
import time
from types import TracebackType
from typing import Literal

import msgspec
from dualkd.daemon.bridges.config import BridgeConfig
from dualkd.daemon.bridges.feed import LineNow, Orders
from dualkd.daemon.bridges.mqtt.access import read_access
from dualkd.daemon.bridges.mqtt.commands import Commands
from dualkd.daemon.bridges.mqtt.link import Link
from dualkd.daemon.bridges.mqtt.outbox import Message, Outbox
from dualkd.daemon.client import Result
from dualkd.daemon.messages import CameraStatus, State

logger = logging.getLogger(__name__)

REPEAT_S = 2.0  # the condition is told so often at least
CAMERA_EXPIRES_S = 10  # the will speaks for the line alone: what a dead bridge said of a camera must go
LOG_EVERY_S = 10.0


class LineMessage(msgspec.Struct, frozen=True, kw_only=True):
    """PREFIX/LINE/status, retained. Without `online` nothing else below PREFIX/LINE can be believed."""

    schema: Literal[1] = 1
    line: str
    state: Literal["online", "daemon_gone", "bridge_gone"]
    reason: str  # empty: online
    utc_ns: int | None  # when the bridge said so; None: the broker says so, of a bridge that is gone
    lost: int  # verdicts and replies that the broker did not take in time, since the bridge began
    boot_id: str | None  # of the daemon, None before it was heard
    daemon: State | None  # as last heard
    warnings: list[str]  # of the daemon, as last heard


class CameraMessage(msgspec.Struct, frozen=True, kw_only=True):
    """PREFIX/LINE/CAMERA/state, retained."""

    schema: Literal[1] = 1
    line: str
    camera: str
    state: Literal["ok", "fault"]
    fault: str  # why its last verdict says nothing of now; empty: ok
    utc_ns: int
    status: CameraStatus | None  # the daemon's account, as last heard


class MqttBridge:
    """One line below one prefix of one broker. An async context manager; see feed.Bridge."""

    def __init__(self, config: BridgeConfig, orders: Orders) -> None:
        """Raises ConfigError for a file that cannot be used."""
        self._line = config.line
        self._cameras = [camera.name for camera in config.cameras]
        self._mqtt = config.mqtt
        self._base = f"{config.mqtt.prefix}/{config.line}"
        self._now: LineNow | None = None
        self._outbox = Outbox(config.mqtt.hold_s)
        will = self._line_message("bridge_gone", "the bridge's connection to the broker broke off", None)
        commands = Commands(config, orders, self._answer)
        self._link = Link(
            read_access(config.mqtt, config.line),
            self._outbox,
            will,
            commands.topics if config.mqtt.commands else [],
            commands.receive,
        )
        self._commands = commands
        self._repeating: asyncio.Task[None] | None = None

    async def __aenter__(self) -> MqttBridge:
        self._link.open()
        self._repeating = asyncio.create_task(self._repeat())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave nothing retained that says the line is well."""
        self._commands.close()
        if self._repeating is not None:
            self._repeating.cancel()
        reason = "the bridge was ended" if error is None else f"the bridge ended: {error}"
        for camera in self._cameras:
            self._outbox.discard(f"{self._base}/{camera}/result")
            self._outbox.retain(self._camera_message(camera, reason))
        self._outbox.retain(self._line_message("bridge_gone", reason, time.time_ns()))
        self._link.push()
        await self._link.close()

    async def verdict(self, result: Result) -> None:
        """Publish the header as it came. The map that it may speak of stays behind."""
        header = result.header
        self._outbox.add(
            Message(
                f"{self._base}/{header.camera}/result",
                msgspec.json.encode(header),
                self._mqtt.qos,
                expires_s=self._mqtt.expire_s,
            ),
            time.monotonic(),
        )
        if self._now is not None and not self._now.fault:
            self._link.push()  # otherwise `condition` follows: it says first that the daemon is back, or discards this

    async def condition(self, now: LineNow) -> None:
        """Publish how the line and its cameras are. After a fault no verdict of before it is told any more."""
        self._now = now
        for name, camera in now.cameras.items():
            if camera.fault:
                self._outbox.discard(f"{self._base}/{name}/result")
        self._tell()

    def _answer(self, reply: Message) -> None:
        self._outbox.add(reply, time.monotonic())
        self._link.push()

    def _tell(self) -> None:
        now = self._now
        if now is None:
            return
        state: Literal["online", "daemon_gone"] = "daemon_gone" if now.fault else "online"
        self._outbox.retain(self._line_message(state, now.fault, time.time_ns()))
        for name, camera in now.cameras.items():
            self._outbox.retain(self._camera_message(name, camera.fault))
        self._link.push()

    async def _repeat(self) -> None:
        """Tell the condition again and again, and log what was lost."""
        logged, logged_s = 0, 0.0
        while True:
            await asyncio.sleep(REPEAT_S)
            self._tell()
            if self._outbox.lost > logged and time.monotonic() - logged_s > LOG_EVERY_S:
                logger.warning(
                    "mqtt: %d messages lost so far: the broker is away or too slow", self._outbox.lost
                )
                logged, logged_s = self._outbox.lost, time.monotonic()

    def _line_message(
        self, state: Literal["online", "daemon_gone", "bridge_gone"], reason: str, utc_ns: int | None
    ) -> Message:
        status = None if self._now is None else self._now.status
        said = LineMessage(
            line=self._line,
            state=state,
            reason=reason,
            utc_ns=utc_ns,
            lost=self._outbox.lost,
            boot_id=None if status is None else status.boot_id,
            daemon=None if status is None else status.state,
            warnings=[] if status is None else status.warnings,
        )
        return Message(f"{self._base}/status", msgspec.json.encode(said), retain=True)

    def _camera_message(self, camera: str, fault: str) -> Message:
        said = CameraMessage(
            line=self._line,
            camera=camera,
            state="fault" if fault else "ok",
            fault=fault,
            utc_ns=time.time_ns(),
            status=None if self._now is None else self._now.cameras[camera].status,
        )
        topic = f"{self._base}/{camera}/state"
        return Message(topic, msgspec.json.encode(said), retain=True, expires_s=CAMERA_EXPIRES_S)
