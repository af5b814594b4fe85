"""The line as a bridge tells of it: each new verdict once, and at every moment what may be believed.

Knows the daemon from outside. Does not know what a bridge speaks. What the protocol modules may rely on: a
verdict is never told again, so none is old; and a fault is told TICK_S after it can be known, which is at once
when the daemon's process ends, and 1.5 heartbeats after the last word of one that hangs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from dualkd.daemon.bridges.config import BridgeConfig
from dualkd.daemon.client import (
    AsyncController,
    AsyncSubscriber,
    ControllerTimeoutError,
    KeyDeniedError,
    Received,
    Result,
    SubscriberTimeoutError,
)
from dualkd.daemon.control_messages import AnyRequest, Recipe, Trigger
from dualkd.daemon.messages import CameraStatus, MessageError, StatusHeader

logger = logging.getLogger(__name__)

TICK_S = 0.1
TRIGGER_TIMEOUT_S = 1.0
RECIPE_TIMEOUT_S = 60.0  # it is loaded and tried first


class BridgeError(Exception):
    """An address that cannot be had: which, why, and what to do."""


@dataclass(frozen=True, slots=True)
class CameraNow:
    """A camera at this moment."""

    fault: str  # why its last verdict says nothing of now; empty: it does
    status: CameraStatus | None  # as last heard, None where the daemon has said nothing of it


@dataclass(frozen=True, slots=True)
class LineNow:
    """The line at this moment."""

    fault: str  # why the daemon cannot be believed to live; empty: it does
    status: StatusHeader | None  # as last heard
    cameras: Mapping[str, CameraNow]  # the configured ones, in their order


class Bridge(Protocol):
    """What a protocol module offers. Both are called in the event loop, and must not hold it up."""

    async def verdict(self, result: Result) -> None:
        """Tell a new verdict on."""
        ...

    async def condition(self, now: LineNow) -> None:
        """Tell how the line is: called when something of it has changed, with each status at least.

        And after a verdict that comes while the daemon is not believed to live.
        """
        ...


async def follow(
    subscriber: AsyncSubscriber, config: BridgeConfig, bridge: Bridge, tick: Callable[[], None]
) -> None:
    """Tell `bridge` of the line for as long as it goes on; `tick` is called every TICK_S. Raises KeyDeniedError."""
    names = [camera.name for camera in config.cameras]
    told: LineNow | None = None
    while True:
        received = await _receive(subscriber)
        tick()
        is_news = isinstance(received, Result) and not received.header.retained
        if isinstance(received, Result) and is_news and received.header.camera in names:
            await bridge.verdict(received)
        now = _line_now(subscriber, names)
        if now != told or (now.fault and is_news):  # the last words of a daemon that is known to be gone
            _log_change(told, now)
            await bridge.condition(now)
            told = now


class Orders:
    """What may be asked of the daemon. Each answers why not, or with an empty text when it is done."""

    def __init__(self, controller: AsyncController | None) -> None:
        self._controller = controller

    async def trigger(self, camera: str, job_id: str) -> str:
        """Have the camera's next frame judged; its verdict carries `job_id`."""
        return await self._ask(lambda: Trigger(camera=camera, job_id=job_id), TRIGGER_TIMEOUT_S)

    async def recipe(self, camera: str | None, recipe: str) -> str:
        """Judge a camera's frames by another recipe, or every camera's."""
        return await self._ask(lambda: Recipe(camera=camera, recipe=recipe), RECIPE_TIMEOUT_S)

    async def _ask(self, request: Callable[[], AnyRequest], timeout_s: float) -> str:
        if self._controller is None:
            return "this bridge only reads (control: null)"
        try:
            reply = (await self._controller.ask(request(), timeout_s)).reply
        except (ControllerTimeoutError, KeyDeniedError, MessageError, ValueError) as error:
            return str(error)
        return "" if reply.ok else reply.message


async def _receive(subscriber: AsyncSubscriber) -> Received | None:
    try:
        return await subscriber.receive(TICK_S)
    except SubscriberTimeoutError:
        return None
    except MessageError as error:  # as if nothing had come: if it goes on, the daemon counts as silent
        logger.warning("%s", error)
        return None


def _line_now(subscriber: AsyncSubscriber, names: list[str]) -> LineNow:
    status = subscriber.status
    cameras = {
        name: CameraNow(subscriber.camera_fault(name), None if status is None else status.cameras.get(name))
        for name in names
    }
    return LineNow(subscriber.daemon_fault(), status, cameras)


def _log_change(before: LineNow | None, now: LineNow) -> None:
    if before is None or before.fault != now.fault:
        logger.info("line: %s", now.fault or "the daemon lives")
    for name, camera in now.cameras.items():
        if not now.fault and (before is None or before.fault or before.cameras[name].fault != camera.fault):
            logger.info("camera %s: %s", name, camera.fault or "its verdicts come")
