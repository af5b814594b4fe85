"""One camera as a PLC sees it: its newest result, its account, its job and its recipe.

Two rules hold at every moment. The verdict is PASS or FAIL exactly when the fault is 0. From a trigger to its
acknowledgement the result is that job's, whatever else is judged, unless the job is refused; a fault takes its
place all the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

from dualkd.daemon.bridges.feed import CameraNow
from dualkd.daemon.bridges.modbus.map import (
    AccountRegisters,
    Answer,
    CameraBits,
    CameraCoils,
    CameraOrders,
    CameraState,
    Fault,
    JobState,
    OrderRegisters,
    ResultRegisters,
    Verdict,
)
from dualkd.daemon.bridges.modbus.orders import Job, JobOrder, RecipeOrder
from dualkd.daemon.bridges.modbus.registers import U16_MAX, encode, encode_bits, join, saturated
from dualkd.daemon.bridges.modbus.results import account, camera_state, number_of, result_values
from dualkd.daemon.messages import ResultHeader

_DAEMON = (Fault.DAEMON_GONE, Fault.DAEMON_ENDED)


class Camera:
    """Called in the event loop: a request that reads never sees half of a change."""

    coils_written = frozenset((0, 1))
    registers_written = frozenset((0, 1, 2))

    def __init__(
        self, recipes: Sequence[str], ask_job: Callable[[Job], None], ask_recipe: Callable[[str], None]
    ) -> None:
        """`ask_job` and `ask_recipe` pass on what the PLC asks for."""
        self.result = ResultRegisters()
        self.account = AccountRegisters()
        self.job = JobOrder()
        self.recipe = RecipeOrder(recipes, ask_recipe)
        self.fault = Fault.DAEMON_GONE  # that stands now
        self._fault_text = ""
        self._recipes = recipes
        self._ask_job = ask_job
        self._told_s: float | None = None  # when the newest verdict came, on the monotonic clock
        self._heard: Literal["nothing", "loss", "verdict"] = "nothing"  # since the last fault

    @property
    def ok(self) -> bool:
        """Whether frames can be judged, though perhaps none was yet."""
        return self.fault in (Fault.NONE, Fault.NO_VERDICT)

    def verdict(self, header: ResultHeader, latency_ms: float, now_s: float) -> None:
        """A new verdict came."""
        loss = header.frame_id is None and header.job_id is None
        self._heard = "loss" if loss else "verdict"
        self.account = dataclasses.replace(self.account, recipe=number_of(header.recipe, self._recipes))
        if self.job.waits and self.job.job is not None and header.job_id == self.job.job.id:
            self.job.finish()
        elif self.job.waits or self.job.state == JobState.READY:
            return
        self._told_s = now_s
        self._renew(**result_values(header), latency_ms=saturated(latency_ms))

    def condition(self, line_fault: Fault, now: CameraNow) -> None:
        """Take in how the camera is now."""
        if now.status is not None:
            self.account = account(now.status, self._recipes)
        self.fault, self._fault_text = self._fault(line_fault, now), now.fault
        if self.fault not in (Fault.NONE, Fault.LATE, Fault.NO_VERDICT):
            self._heard = "nothing"
        self._show_fault()

    def refuse(self, job: Job, fault: Fault, why: str) -> None:
        """The job will not be done."""
        if self.job.refused(job, fault, why):
            self._renew(fault=fault, reason=why, job_number=job.number)

    def expire(self, job: Job) -> None:
        """The job has waited long enough."""
        if job is self.job.job and self.job.waits:
            self.job.finish()
            self._renew(fault=Fault.JOB_TIMEOUT, reason="the verdict did not come", job_number=job.number)

    def write_coils(self, coils: dict[int, bool]) -> None:
        """Coils by their offset, all at once. Raises WriteRefused."""
        if coils.get(1):
            self.job.acknowledge()
        if coils.get(0):
            self._trigger()
        elif 0 in coils:
            self.job.release()

    def write_registers(self, registers: dict[int, int]) -> None:
        """Holding registers by their offset, all at once. Raises WriteRefused."""
        self.recipe.write(registers.get(2, self.recipe.number))
        high, low = registers.get(0, self.job.number >> 16), registers.get(1, self.job.number & U16_MAX)
        self.job.number = join(high, low)

    def coils(self) -> list[bool]:
        return encode_bits(CameraCoils(trigger=self.job.coil))

    def holding_registers(self) -> list[int]:
        return encode(CameraOrders(job_number=self.job.number, recipe=self.recipe.number))

    def input_registers(self, now_s: float) -> list[int]:
        age_ms = U16_MAX if self._told_s is None else saturated(1e3 * (now_s - self._told_s))
        orders = OrderRegisters(
            job_state=self.job.state,
            job_error=self.job.error,
            recipe_asked=self.recipe.number,
            recipe_answer=self.recipe.answer,
            answer=self.job.why or self.recipe.why,
        )
        return encode(dataclasses.replace(self.result, age_ms=age_ms), self.account, orders)

    def discrete_inputs(self) -> list[bool]:
        return encode_bits(
            CameraBits(
                camera_ok=self.ok,
                passed=self.result.verdict == Verdict.PASS,
                failed=self.result.verdict == Verdict.FAIL,
                invalid=self.result.verdict == Verdict.INVALID,
                doubtful=bool(self.result.doubtful),
                trigger_acknowledged=self.job.state in (JobState.ACCEPTED, JobState.READY),
                result_ready=self.job.state == JobState.READY,
                trigger_error=self.job.state == JobState.ERROR,
                recipe_waits=self.recipe.answer == Answer.WAITS,
                recipe_done=self.recipe.answer == Answer.DONE,
                recipe_refused=self.recipe.answer == Answer.REFUSED,
            )
        )

    def _trigger(self) -> None:
        job = self.job.trigger()
        if job is None:
            return
        if self.fault in _DAEMON:
            self.refuse(job, self.fault, self._fault_text)
            return
        self._show_waiting()
        self._show_fault()
        self._ask_job(job)

    def _show_fault(self) -> None:
        """Let the fault that stands take the result's place."""
        if self.fault == Fault.NO_VERDICT:
            if self.job.waits:
                self._show_waiting()
            elif self.job.state == JobState.IDLE:
                self._show(verdict=Verdict.NONE, fault=Fault.NO_VERDICT)
        elif self.fault != Fault.NONE:
            number = 0 if self.job.job is None else self.job.job.number
            show = self._show
            if self.job.waits and self.fault in _DAEMON:
                self.job.finish()
                show = self._renew
            show(fault=self.fault, reason=self._fault_text, job_number=number)

    def _show_waiting(self) -> None:
        if self.job.job is not None:
            self._show(verdict=Verdict.NONE, fault=Fault.JOB_WAITS, job_number=self.job.job.number)

    def _show(self, **values: Any) -> None:
        """Put other values into the result; what is not given is as if nothing had come."""
        self.result = ResultRegisters(sequence=self.result.sequence, **values)

    def _renew(self, **values: Any) -> None:
        """The same for a new result."""
        self.result = ResultRegisters(sequence=self.result.sequence % U16_MAX + 1, **values)

    def _fault(self, line_fault: Fault, now: CameraNow) -> Fault:
        if not now.fault:
            return Fault.NONE
        if line_fault != Fault.NONE:
            return line_fault
        if now.status is None:
            return Fault.CAMERA_UNKNOWN
        match camera_state(now.status):
            case CameraState.LOST:
                return Fault.CAMERA_LOST
            case CameraState.OPENING:
                return Fault.CAMERA_OPENING
            case CameraState.ENDED:
                return Fault.CAMERA_ENDED
            case CameraState.PAUSED:
                return Fault.CAMERA_PAUSED
        return {"nothing": Fault.NO_VERDICT, "loss": Fault.CAMERA_LOST, "verdict": Fault.LATE}[self._heard]
