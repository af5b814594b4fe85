"""The line as a PLC sees it: whether the daemon lives, and a recipe for every camera."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dualkd.daemon.bridges.feed import LineNow
from dualkd.daemon.bridges.modbus.camera import Camera
from dualkd.daemon.bridges.modbus.map import (
    Answer,
    DaemonState,
    Fault,
    LineBits,
    LineOrders,
    LineRegisters,
)
from dualkd.daemon.bridges.modbus.orders import RecipeOrder
from dualkd.daemon.bridges.modbus.registers import BITS, U16_MAX, encode, encode_bits, saturated, wrapped

HEARTBEAT_S = 0.2


class Heartbeat:
    """A number that counts while it beats. Times are seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._counted = 0.0  # until it last stopped
        self._since_s: float | None = None

    def beat(self, on: bool, now_s: float) -> None:
        """Begin to count, stop, or go on as it is."""
        self._counted = self._count(now_s)
        self._since_s = now_s if on else None

    def number(self, now_s: float) -> int:
        return int(self._count(now_s)) & U16_MAX

    def _count(self, now_s: float) -> float:
        beaten_s = 0.0 if self._since_s is None else now_s - self._since_s
        return self._counted + beaten_s / HEARTBEAT_S


class Line:
    """Called in the event loop, as Camera."""

    coils_written: frozenset[int] = frozenset()
    registers_written = frozenset((2,))

    def __init__(
        self, cameras: Sequence[Camera], recipes: Sequence[str], ask_recipe: Callable[[str], None]
    ) -> None:
        self.recipe = RecipeOrder(recipes, ask_recipe)
        self.fault = Fault.DAEMON_GONE
        self._cameras = cameras
        self._recipes = recipes
        self._heartbeat = Heartbeat()
        self._now = LineNow("the daemon was not heard yet", None, {})

    def condition(self, now: LineNow, now_s: float) -> None:
        """Take in how the line is now."""
        ended = now.status is not None and now.status.state == "ended"
        self.fault = Fault.NONE if not now.fault else Fault.DAEMON_ENDED if ended else Fault.DAEMON_GONE
        self._heartbeat.beat(self.fault == Fault.NONE, now_s)
        self._now = now

    def write_coils(self, coils: dict[int, bool]) -> None:
        """There are none to write."""

    def write_registers(self, registers: dict[int, int]) -> None:
        """Holding registers by their offset. Raises WriteRefused."""
        self.recipe.write(registers[2])

    def coils(self) -> list[bool]:
        return [False] * BITS

    def holding_registers(self) -> list[int]:
        return encode(LineOrders(recipe=self.recipe.number))

    def input_registers(self, now_s: float) -> list[int]:
        status = self._now.status
        return encode(
            LineRegisters(
                heartbeat=self._heartbeat.number(now_s),
                daemon_state=self._daemon_state(),
                fault=self.fault,
                cameras=len(self._cameras),
                recipes=len(self._recipes),
                warnings=0 if status is None else saturated(len(status.warnings)),
                uptime_s=0 if status is None else wrapped(int(status.uptime_s)),
                recipe_asked=self.recipe.number,
                recipe_answer=self.recipe.answer,
                reason=self._now.fault,
                answer=self.recipe.why,
            )
        )

    def discrete_inputs(self) -> list[bool]:
        return encode_bits(
            LineBits(
                alive=self.fault == Fault.NONE,
                cameras_ok=all(camera.ok for camera in self._cameras),
                warning=bool(self._now.status and self._now.status.warnings),
                recipe_waits=self.recipe.answer == Answer.WAITS,
                recipe_done=self.recipe.answer == Answer.DONE,
                recipe_refused=self.recipe.answer == Answer.REFUSED,
            )
        )

    def _daemon_state(self) -> DaemonState:
        if self._now.status is None or self.fault == Fault.DAEMON_GONE:
            return DaemonState.UNKNOWN
        return {
            "starting": DaemonState.STARTING,
            "running": DaemonState.RUNNING,
            "draining": DaemonState.DRAINING,
            "ended": DaemonState.ENDED,
        }[self._now.status.state]
