"""What waits for a broker: the newest of each retained topic, and what is told once, for a few seconds at most.

Knows messages and seconds. Does not know connections (link.py) nor what the messages say (bridge.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

MAX_WAITING_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class Message:
    """What is to be published."""

    topic: str
    payload: bytes
    qos: Literal[0, 1, 2] = 1
    retain: bool = False
    expires_s: int | None = None  # after so long the broker forgets it, if it speaks MQTT 5
    correlation: bytes | None = None  # of the request that it answers, in MQTT 5


@dataclass(slots=True)
class _Passing:
    """A message that is told once, and until when (seconds of a monotonic clock)."""

    message: Message
    until_s: float


class Outbox:
    """Retained messages go first, for they say what may be believed; the others follow in their order.

    A message that was taken stays here until it is acknowledged, and waits again if the connection ends before.
    """

    def __init__(self, hold_s: float) -> None:
        """`hold_s`: how long a message that is told once may wait."""
        self.lost = 0  # messages told once that no broker took in time
        self._hold_s = hold_s
        self._retained: dict[str, Message] = {}
        self._due: dict[str, None] = {}  # topics whose retained message is to be sent, in order
        self._waiting: deque[_Passing] = deque()
        self._waiting_bytes = 0
        self._taken: dict[int, _Passing] = {}  # by message id

    @property
    def under_way(self) -> int:
        """How many messages were taken and are not acknowledged."""
        return len(self._taken)

    @property
    def idle(self) -> bool:
        """Whether all that was put in is acknowledged or lost."""
        return not (self._due or self._waiting or self._taken)

    def retain(self, message: Message) -> None:
        """Let it replace what its topic said before."""
        self._retained[message.topic] = message
        self._due[message.topic] = None

    def renew(self) -> None:
        """Send every retained message again: whoever is there now may not have them."""
        self._due = dict.fromkeys(self._retained)

    def add(self, message: Message, now_s: float) -> None:
        """Have it told once; the oldest make room where that takes too much."""
        self._waiting.append(_Passing(message, now_s + self._hold_s))
        self._waiting_bytes += len(message.payload)
        while self._waiting_bytes > MAX_WAITING_BYTES:
            self._lose_first()
        self.expire(now_s)

    def expire(self, now_s: float) -> None:
        """Lose what has waited too long."""
        while self._waiting and self._waiting[0].until_s < now_s:
            self._lose_first()

    def discard(self, topic: str) -> None:
        """Lose what waits for a topic, and what was taken and will not be acknowledged."""
        kept = [passing for passing in self._waiting if passing.message.topic != topic]
        self.lost += len(self._waiting) - len(kept)
        self._waiting = deque(kept)
        self._waiting_bytes = sum(len(passing.message.payload) for passing in kept)
        for passing in self._taken.values():
            if passing.message.topic == topic:
                passing.until_s = 0.0

    def hand_over(self, publish: Callable[[Message], int], now_s: float) -> bool:
        """Give the next message, if there is one, to `publish`; return whether there was one.

        `publish` returns the id that it will be acknowledged by.
        """
        self.expire(now_s)
        if self._due:
            topic = next(iter(self._due))
            del self._due[topic]
            passing = _Passing(self._retained[topic], 0.0)
        elif self._waiting:
            passing = self._waiting.popleft()
            self._waiting_bytes -= len(passing.message.payload)
        else:
            return False
        self._taken[publish(passing.message)] = passing
        return True

    def acknowledge(self, message_id: int, taken: bool) -> str:
        """The broker has taken a message or refused it; return its topic, empty for one that is not known."""
        passing = self._taken.pop(message_id, None)
        if passing is None:
            return ""
        self.lost += not (taken or passing.message.retain)
        return passing.message.topic

    def take_back(self) -> None:
        """Nothing more will be acknowledged: what was told once waits again, in its place."""
        again = [passing for passing in self._taken.values() if not passing.message.retain]
        self._taken.clear()
        self._waiting.extendleft(reversed(again))
        self._waiting_bytes += sum(len(passing.message.payload) for passing in again)

    def _lose_first(self) -> None:
        self._waiting_bytes -= len(self._waiting.popleft().message.payload)
        self.lost += 1
