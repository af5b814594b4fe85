"""The bridge: what feed.py tells goes into registers, what a PLC writes goes to the daemon.

One event loop does all of it, so what a request reads was written whole.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from functools import partial
from types import TracebackType

from dualkd.daemon.bridges.config import BridgeConfig
from dualkd.daemon.bridges.feed import BridgeError, LineNow, Orders
from dualkd.daemon.bridges.modbus.camera import Camera
from dualkd.daemon.bridges.modbus.line import Line
from dualkd.daemon.bridges.modbus.map import Fault
from dualkd.daemon.bridges.modbus.orders import Job, RecipeOrder
from dualkd.daemon.bridges.modbus.server import ModbusServer
from dualkd.daemon.bridges.modbus.store import MAX_CAMERAS, Store
from dualkd.daemon.client import Result
from dualkd.daemon.endpoints import stays_on_host
from dualkd.daemon.messages import ResultHeader

logger = logging.getLogger(__name__)


class ModbusBridge:
    """A Modbus TCP server that follows the line; an async context manager that listens from entering on."""

    def __init__(self, config: BridgeConfig, orders: Orders) -> None:
        """Raises BridgeError for more cameras than there are addresses."""
        if len(config.cameras) > MAX_CAMERAS:
            raise BridgeError(f"cameras: Modbus has addresses for {MAX_CAMERAS}, got {len(config.cameras)}")
        self._orders = orders
        self._job_timeout_s = config.modbus.job_timeout_s
        self._one_clock = stays_on_host(config.results)
        self._tasks: dict[tuple[str, str | None], asyncio.Task[None]] = {}  # by what is asked, and for whom
        self._cameras = {
            name: Camera(config.recipes, partial(self._ask_job, name), partial(self._ask_recipe, name))
            for name in (camera.name for camera in config.cameras)
        }
        cameras = list(self._cameras.values())
        self._line = Line(cameras, config.recipes, partial(self._ask_recipe, None))
        self._server = ModbusServer(config.modbus, Store([self._line, *cameras]))

    async def __aenter__(self) -> ModbusBridge:
        await self._server.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.close()
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def verdict(self, result: Result) -> None:
        header = result.header
        self._cameras[header.camera].verdict(header, self._latency_ms(header), time.monotonic())

    async def condition(self, now: LineNow) -> None:
        self._line.condition(now, time.monotonic())
        for name, camera in self._cameras.items():
            camera.condition(self._line.fault, now.cameras[name])

    def _latency_ms(self, header: ResultHeader) -> float:
        """Since the capture; from another host it is right only as far as the two clocks agree."""
        if self._one_clock:
            return (time.monotonic_ns() - header.captured_mono_ns) / 1e6
        return (time.time_ns() - header.captured_utc_ns) / 1e6

    def _ask_job(self, name: str, job: Job) -> None:
        self._begin(("job", name), self._do_job(name, job))

    def _ask_recipe(self, name: str | None, recipe: str) -> None:
        order = self._line.recipe if name is None else self._cameras[name].recipe
        self._begin(("recipe", name), self._do_recipe(order, name, recipe))

    def _begin(self, what: tuple[str, str | None], asking: Coroutine[object, object, None]) -> None:
        """Ask in the background; what was asked before in the same place is over by now."""
        before = self._tasks.get(what)
        if before is not None:
            before.cancel()
        self._tasks[what] = asyncio.get_running_loop().create_task(asking)

    async def _do_job(self, name: str, job: Job) -> None:
        camera = self._cameras[name]
        why_not = await self._orders.trigger(name, job.id)
        if why_not:
            logger.warning("camera %s: job %d was refused: %s", name, job.number, why_not)
            camera.refuse(job, Fault.JOB_REFUSED, why_not)
            return
        camera.job.accepted(job)
        await asyncio.sleep(self._job_timeout_s)
        camera.expire(job)

    async def _do_recipe(self, order: RecipeOrder, name: str | None, recipe: str) -> None:
        why_not = await self._orders.recipe(name, recipe)
        whose = "every camera" if name is None else f"camera {name}"
        logger.info("%s: recipe %s: %s", whose, recipe, why_not or "changed")
        order.answered(why_not)
