"""A broker that comes and goes: connect, say why not, connect again.

Each connection is a new one (connection.py), so that nothing of an old one is sent again behind the outbox's back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from dualkd.daemon.bridges.mqtt.access import Access
from dualkd.daemon.bridges.mqtt.connection import Connection, Incoming
from dualkd.daemon.bridges.mqtt.outbox import Message, Outbox

logger = logging.getLogger(__name__)

FIRST_RETRY_S, LAST_RETRY_S = 0.5, 10.0
FAREWELL_S = 1.0


class Link:
    """The way to a broker, kept up until `close`."""

    def __init__(
        self,
        access: Access,
        outbox: Outbox,
        will: Message,
        subscriptions: Sequence[str],
        receive: Callable[[Incoming], None],
    ) -> None:
        """`will` is what the broker says when this process is gone; `receive` gets what comes to `subscriptions`."""
        self._access = access
        self._outbox = outbox
        self._will = will
        self._subscriptions = subscriptions
        self._receive = receive
        self._connection: Connection | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._said = ""

    def open(self) -> None:
        """Begin to connect. The event loop must run."""
        self._keeping = asyncio.create_task(self._keep())

    def push(self) -> None:
        """Hand over what can be handed over now. The rest follows by itself."""
        if self._keeping is not None and self._keeping.done():
            self._keeping.result()  # it never ends by itself: this raises what went wrong
        if self._connection is not None:
            self._connection.push()

    async def close(self) -> None:
        """Hand over what waits, for a moment; then leave, so that the broker does not say the will."""
        deadline_s = time.monotonic() + FAREWELL_S
        while self._connection is not None and not self._outbox.idle and time.monotonic() < deadline_s:
            await asyncio.sleep(0.01)
        if self._connection is not None:
            await self._connection.leave()
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)

    async def _keep(self) -> None:
        retry_s = FIRST_RETRY_S
        while True:
            began_s = time.monotonic()
            self._connection = Connection(
                self._access, self._outbox, self._will, self._subscriptions, self._receive, self._say
            )
            try:
                self._say(logging.WARNING, await self._connection.last())
            finally:
                self._connection = None
            lasted = time.monotonic() - began_s > LAST_RETRY_S
            retry_s = FIRST_RETRY_S if lasted else min(2 * retry_s, LAST_RETRY_S)
            await asyncio.sleep(retry_s)

    def _say(self, level: int, what: str) -> None:
        """Log `what` unless it was what was said before."""
        if what != self._said:
            logger.log(level, "broker %s:%d: %s", self._access.host, self._access.port, what)
            self._said = what
