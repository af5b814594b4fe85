"""What may be asked of the line over MQTT: a trigger, another recipe. Each command is answered.

Knows payloads and topics. Who may publish them is the broker's business; see BRIDGES.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec
from dualkd.daemon.bridges.config import BridgeConfig
from dualkd.daemon.bridges.feed import Orders
from dualkd.daemon.bridges.mqtt.connection import Incoming
from dualkd.daemon.bridges.mqtt.outbox import Message
from dualkd.daemon.control_messages import MAX_REQUEST_BYTES, Recipe, Reply, Trigger

logger = logging.getLogger(__name__)

MAX_COMMANDS = 8  # under way at a time


class Commands:
    """Carries out what comes in, and gives each reply to `answer`."""

    def __init__(self, config: BridgeConfig, orders: Orders, answer: Callable[[Message], None]) -> None:
        self._cameras = [camera.name for camera in config.cameras]
        self._recipes = config.recipes
        self._prefix = config.mqtt.prefix
        self._base = f"{config.mqtt.prefix}/{config.line}"
        self._orders = orders
        self._answer = answer
        self._under_way: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def topics(self) -> list[str]:
        """Where commands come from."""
        return [f"{self._base}/command/{name}" for name in _DECODERS]

    def close(self) -> None:
        """Begin and answer no more. What the daemon was asked may still be carried out."""
        self._closed = True
        for task in self._under_way:
            task.cancel()

    def receive(self, incoming: Incoming) -> None:
        """Begin to carry it out."""
        if self._closed:
            logger.warning("%s: ignored: the bridge is ending", incoming.topic)
        elif incoming.retained:
            logger.warning("%s: ignored: it was retained, so nobody means it now", incoming.topic)
        elif len(self._under_way) >= MAX_COMMANDS:
            logger.warning("%s: ignored: %d commands are under way already", incoming.topic, MAX_COMMANDS)
        else:
            task = asyncio.create_task(self._obey(incoming))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _obey(self, incoming: Incoming) -> None:
        topic, problem = self._reply_topic(incoming.response_topic)
        request_id = ""
        if not problem:
            try:
                request = _decode(incoming)
            except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
                problem = f"not a command: {error}"
            else:
                request_id, problem = request.id, await self._carry_out(request)
        reply = Reply(id=request_id, ok=not problem, message=problem or "done")
        self._answer(Message(topic, msgspec.json.encode(reply), correlation=incoming.correlation))

    async def _carry_out(self, request: Trigger | Recipe) -> str:
        """Return why not, empty when it is done."""
        if request.camera is not None and request.camera not in self._cameras:
            return f"this bridge has no camera {request.camera!r}; it has: {', '.join(self._cameras)}"
        if isinstance(request, Trigger):
            return await self._orders.trigger(request.camera, request.job_id)
        if request.recipe not in self._recipes:
            return f"recipe {request.recipe!r} may not be chosen here; these may: {', '.join(self._recipes) or 'none'}"
        return await self._orders.recipe(request.camera, request.recipe)

    def _reply_topic(self, wanted: str | None) -> tuple[str, str]:
        """Where to reply, and why nothing is done: nobody may have the bridge say things in its own name."""
        usual = f"{self._base}/reply"
        if wanted is None or wanted == usual:
            return usual, ""
        if not wanted or wanted.startswith(("$", f"{self._prefix}/")) or set(wanted) & set("+#"):
            return usual, f"{wanted!r} is no topic to reply to: leave it out, or name one of your own"
        return wanted, ""


_DECODERS: dict[str, msgspec.json.Decoder[Trigger] | msgspec.json.Decoder[Recipe]] = {
    "trigger": msgspec.json.Decoder(Trigger),
    "recipe": msgspec.json.Decoder(Recipe),
}


def _decode(incoming: Incoming) -> Trigger | Recipe:
    """Raises what msgspec raises, and ValidationError for what is too long."""
    if len(incoming.payload) > MAX_REQUEST_BYTES:
        raise msgspec.ValidationError(f"it has {len(incoming.payload)} bytes, more than {MAX_REQUEST_BYTES}")
    return _DECODERS[incoming.topic.rpartition("/")[2]].decode(incoming.payload)
