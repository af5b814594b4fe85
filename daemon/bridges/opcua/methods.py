"""The methods: a client asks, the daemon answers. No call holds its connection for much longer than CALL_S.

asyncua serves a connection's requests one after the other, so a call that waits lets the client's
subscriptions wait too.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

from asyncua import ua
from dualkd.daemon.bridges.config import BridgeConfig
from dualkd.daemon.bridges.feed import Orders
from dualkd.daemon.bridges.opcua.space import RECIPES, SYSTEM, Space
from dualkd.daemon.bridges.opcua.values import status_code

logger = logging.getLogger(__name__)

CALL_S = 1.0  # what takes longer goes on without its caller
MAX_JOBS = 256
REFUSED = -1  # a method's Error; 0: done
_OUTPUTS = {"Error": ua.ObjectIds.Int32, "Text": ua.ObjectIds.String}


class Methods:
    """Trigger and ActivateRecipe."""

    def __init__(
        self,
        space: Space,
        config: BridgeConfig,
        orders: Orders,
        fault: Callable[[], str],
        jobs_changed: Callable[[], Awaitable[None]],
    ) -> None:
        """`fault` says why nothing can be asked now; `jobs_changed` is called when `jobs_wait` may be another."""
        self._space = space
        self._orders = orders
        self._cameras = [camera.name for camera in config.cameras]
        self._recipes = config.recipes
        self._fault = fault
        self._jobs_changed = jobs_changed
        self._jobs: deque[str] = deque(maxlen=MAX_JOBS)  # triggered here and not judged yet
        self._activating: asyncio.Task[str] | None = None

    @property
    def jobs_wait(self) -> bool:
        return bool(self._jobs)

    async def add(self) -> None:
        """Add them to the address space."""
        await self._space.add_method(
            f"{SYSTEM}.Trigger",
            self._trigger,
            {"Camera": "one of Cameras", "JobId": "the verdict will carry it"},
            _OUTPUTS,
        )
        await self._space.add_method(
            f"{RECIPES}.ActivateRecipe",
            self._activate_recipe,
            {"Camera": "one of Cameras; empty: all", "Recipe": "one of Recipes"},
            _OUTPUTS,
        )

    def judged(self, job_id: str | None) -> None:
        """A verdict came; it may be one of a job."""
        if job_id is not None and job_id in self._jobs:
            self._jobs.remove(job_id)

    def forget_jobs(self) -> None:
        """The daemon is gone, and with it what it was asked for."""
        self._jobs.clear()

    def close(self) -> None:
        """Wait for no answer any more."""
        if self._activating is not None:
            self._activating.cancel()

    async def _trigger(self, _: ua.NodeId, *arguments: ua.Variant) -> ua.CallMethodResult:
        if isinstance(texts := _texts(arguments), ua.StatusCode):
            return ua.CallMethodResult(StatusCode=texts)
        camera, job_id = texts
        if refusal := self._why_not(camera):
            return _answer(refusal)
        self._jobs.append(job_id)  # before it is asked for: the verdict may be here before the answer is
        await self._jobs_changed()
        refusal = await self._orders.trigger(camera, job_id)
        if refusal:
            self.judged(job_id)
            await self._jobs_changed()
        return _answer(refusal)

    async def _activate_recipe(self, _: ua.NodeId, *arguments: ua.Variant) -> ua.CallMethodResult:
        if isinstance(texts := _texts(arguments), ua.StatusCode):
            return ua.CallMethodResult(StatusCode=texts)
        camera, recipe = texts
        if recipe not in self._recipes:
            return _answer(f"{recipe!r} is none of the recipes here: {', '.join(self._recipes) or 'none'}")
        if refusal := self._why_not(camera or self._cameras[0]):
            return _answer(refusal)
        if self._activating is not None and not self._activating.done():
            return _answer("another recipe is being activated; wait for LastActivation")
        self._activating = asyncio.create_task(self._activate(camera or None, recipe))
        done, _pending = await asyncio.wait({self._activating}, timeout=CALL_S)
        if done:
            return _answer(self._activating.result())
        answer = _answer("")
        answer.StatusCode = status_code(ua.StatusCodes.GoodCompletesAsynchronously)
        return answer

    async def _activate(self, camera: str | None, recipe: str) -> str:
        """Have a recipe activated, show what became of it, and return why not."""
        order = f"{recipe} for {camera or 'all cameras'}"
        await self._space.write_text(f"{RECIPES}.LastActivation", f"{order}: being activated")
        refusal = await self._orders.recipe(camera, recipe)
        logger.info("opcua: recipe %s: %s", order, refusal or "done")
        await self._space.write_text(f"{RECIPES}.LastActivation", f"{order}: {refusal or 'done'}")
        return refusal

    def _why_not(self, camera: str) -> str:
        """Why nothing can be asked of a camera now: an order must not wait for a daemon to come back."""
        if camera not in self._cameras:
            return f"there is no camera {camera!r} here; there are: {', '.join(self._cameras)}"
        return self._fault()


def _texts(arguments: tuple[ua.Variant, ...]) -> tuple[str, str] | ua.StatusCode:
    """A method's two arguments, or what is wrong with them."""
    if len(arguments) < 2:
        return status_code(ua.StatusCodes.BadArgumentsMissing)
    if len(arguments) > 2:
        return status_code(ua.StatusCodes.BadTooManyArguments)
    first, second = ("" if argument.Value is None else argument.Value for argument in arguments)
    if isinstance(first, str) and isinstance(second, str):
        return first, second
    return status_code(ua.StatusCodes.BadInvalidArgument)


def _answer(refusal: str) -> ua.CallMethodResult:
    """A method's outputs: Error and Text."""
    error = ua.Variant(REFUSED if refusal else 0, ua.VariantType.Int32)
    return ua.CallMethodResult(OutputArguments=[error, ua.Variant(refusal, ua.VariantType.String)])
