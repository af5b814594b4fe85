"""A line on OPC UA: verdicts as values and events, its state, and methods that ask something of the daemon.

Knows the line and what is said of it. Nodes are space.py's, sockets server.py's. A value is Good only while it
says something of now: with a fault of the daemon or of a camera its verdict reads INVALID, everything else of
its result is Bad, and its results that are kept become Uncertain.
"""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from types import TracebackType

from asyncua import ua
from dualkd.daemon.bridges.config import BridgeConfig
from dualkd.daemon.bridges.feed import CameraNow, LineNow, Orders
from dualkd.daemon.bridges.opcua.fields import CAMERA, LINE, Said
from dualkd.daemon.bridges.opcua.methods import Methods
from dualkd.daemon.bridges.opcua.results import Results
from dualkd.daemon.bridges.opcua.server import listen, open_server
from dualkd.daemon.bridges.opcua.space import CAMERAS, RECIPES, SYSTEM, Space
from dualkd.daemon.bridges.opcua.states import State, state_of
from dualkd.daemon.bridges.opcua.values import bad_value, data_value, utc, utc_now
from dualkd.daemon.client import Result
from dualkd.daemon.messages import RecipeRef, StatusHeader

logger = logging.getLogger(__name__)

SEVERITY = {"PASS": 100, "FAIL": 500, "INVALID": 800}
_UNHEARD = "the daemon has said nothing yet"


class OpcUaBridge:
    """A Bridge of feed.py. An async context manager; it serves from entering to leaving."""

    def __init__(self, config: BridgeConfig, orders: Orders) -> None:
        self._config = config
        self._orders = orders
        self._cameras = [camera.name for camera in config.cameras]
        self._now = LineNow(_UNHEARD, None, {name: CameraNow(_UNHEARD, None) for name in self._cameras})
        self._heartbeat = 0
        self._state: State | None = None
        self._judged_a_job = False
        self._parts = AsyncExitStack()

    async def __aenter__(self) -> OpcUaBridge:
        """Open the server. Raises BridgeError."""
        config = self._config.opcua
        async with AsyncExitStack() as parts:
            server = await parts.enter_async_context(open_server(config, self._config.line))
            self._space = await Space.build(server, self._cameras)
            self._results = Results(self._space, self._cameras)
            self._methods = Methods(
                self._space, self._config, self._orders, lambda: self._now.fault, self._write_state
            )
            parts.callback(self._methods.close)
            await self._methods.add()
            await self._write_start()
            await parts.enter_async_context(listen(server, config.address))
            self._parts = parts.pop_all()
        logger.info("opcua: opc.tcp://%s", config.address)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._parts.aclose()

    async def verdict(self, result: Result) -> None:
        """Show and tell a new verdict. While its camera has a fault, `condition` says when it counts."""
        header = result.header
        values = await self._results.take(header)
        self._judged_a_job = header.job_id is not None
        self._methods.judged(header.job_id)
        await self._write_state()
        message = f"{header.camera}: {header.verdict}" + (f": {header.reason}" if header.reason else "")
        await self._space.tell_result(values, message, SEVERITY[header.verdict])

    async def condition(self, now: LineNow) -> None:
        """Show how the line is."""
        if now.status is not None and now.status is not self._now.status and not now.fault:
            self._heartbeat = (self._heartbeat + 1) % (1 << 32)
        self._now = now
        if now.fault:
            self._methods.forget_jobs()
        await self._write_line(ua.StatusCodes.BadNoCommunication)
        await self._write_state()

    async def _write_start(self) -> None:
        """What is to be read before the daemon has said anything."""
        at = utc_now()
        recipes = data_value(self._config.recipes, ua.VariantType.String, at, array=True)
        await self._space.write(f"{RECIPES}.Recipes", recipes)
        await self._space.write_text(f"{RECIPES}.LastActivation", "")
        await self._space.write_text(f"{SYSTEM}.Line", self._config.line)
        await self._results.clear(at)
        await self._write_line(ua.StatusCodes.BadWaitingForInitialData)
        await self._write_state()

    async def _write_line(self, gone: int) -> None:
        """`gone`: the status code of what the daemon cannot be asked about."""
        at, now = utc_now(), self._now
        status = None if now.fault else now.status
        await self._space.write_text(f"{SYSTEM}.Fault", now.fault)
        said = None if status is None else Said(status, self._heartbeat, self._recipes(status))
        for field in LINE:
            value = bad_value(gone, at) if said is None else field.data_value(said, utc(said.status.utc_ns))
            await self._space.write(f"{SYSTEM}.{field.name}", value)
        for name, camera in now.cameras.items():
            await self._write_camera(
                name, camera, status, gone if now.fault else ua.StatusCodes.BadOutOfService
            )

    async def _write_camera(self, name: str, now: CameraNow, status: StatusHeader | None, code: int) -> None:
        """`status` None: the daemon is gone. `code`: the status code of what is not known of the camera."""
        at, path = utc_now(), f"{CAMERAS}.{name}"
        fault = self._now.fault or now.fault
        await self._space.write_text(f"{path}.Fault", fault)
        for field in CAMERA:
            if status is None or now.status is None:
                value = bad_value(code, at)
            else:
                value = field.data_value(now.status, utc(status.utc_ns))
            await self._space.write(f"{path}.{field.name}", value)
        if fault:
            await self._results.doubt(name, code, at)
        else:
            await self._results.believe(name)

    async def _write_state(self) -> None:
        state = state_of(self._now, self._methods.jobs_wait, self._judged_a_job)
        if state != self._state:
            await self._space.write_state(state)
            self._state = state

    def _recipes(self, status: StatusHeader) -> list[RecipeRef]:
        cameras = [status.cameras[name] for name in self._cameras if name in status.cameras]
        return [camera.recipe for camera in cameras if camera.recipe is not None]
