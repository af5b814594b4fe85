"""What a PLC asks for: jobs through coils, recipes through a register. States only; who carries them out is told.

Does not know the daemon. A write that would be an order is checked before anything changes.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dualkd.daemon.bridges.modbus.map import Answer, Fault, JobState
from pymodbus.constants import ExcCodes


class WriteRefused(Exception):
    """A write that changes nothing: the Modbus exception that says why."""

    def __init__(self, code: ExcCodes) -> None:
        super().__init__(code.name)
        self.code = code


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One trigger. A number may come again and again; `id`, the daemon's name of the job, does not."""

    number: int
    id: str


class JobOrder:
    """A camera's trigger coil, and the one job that a PLC may have under way or unread."""

    def __init__(self) -> None:
        self.number = 0  # of the next job, as the PLC wrote it
        self.coil = False
        self.job: Job | None = None
        self.state = JobState.IDLE
        self.error = Fault.NONE
        self.why = ""

    @property
    def waits(self) -> bool:
        """Whether a verdict is to come."""
        return self.state in (JobState.ASKED, JobState.ACCEPTED)

    def trigger(self) -> Job | None:
        """The coil is written on: return the new job, None for a repeat. Raises WriteRefused.

        A trigger is the coil's change from off to on, or another job number. A result not acknowledged is given up.
        """
        if self.coil and self.job is not None and self.job.number == self.number:
            return None
        if self.waits:
            raise WriteRefused(ExcCodes.DEVICE_BUSY)
        self.job = Job(self.number, f"{self.number}-{secrets.token_hex(3)}")
        self.coil, self.state, self.error, self.why = True, JobState.ASKED, Fault.NONE, ""
        return self.job

    def release(self) -> None:
        """The coil is written off, which asks for nothing."""
        self.coil = False

    def accepted(self, job: Job) -> None:
        """The daemon has taken it."""
        if job is self.job and self.state == JobState.ASKED:
            self.state = JobState.ACCEPTED

    def refused(self, job: Job, error: Fault, why: str) -> bool:
        """The daemon will not do it. Returns False if the job is over already."""
        if job is not self.job or self.state != JobState.ASKED:
            return False
        self.state, self.error, self.why = JobState.ERROR, error, why
        return True

    def finish(self) -> None:
        """Its result is there."""
        self.state = JobState.READY

    def acknowledge(self) -> None:
        """The result, or the error, was read; before that there is nothing to acknowledge."""
        if self.state in (JobState.READY, JobState.ERROR):
            self.coil, self.job = False, None
            self.state, self.error, self.why = JobState.IDLE, Fault.NONE, ""


class RecipeOrder:
    """A register to which a recipe's number is written, and what became of it."""

    def __init__(self, recipes: Sequence[str], ask: Callable[[str], None]) -> None:
        """`recipes`: the first is number 1. `ask` is told the name of one that is asked for."""
        self.number = 0  # as the PLC wrote it
        self.answer = Answer.NONE
        self.why = ""
        self._recipes = recipes
        self._ask = ask

    def write(self, number: int) -> None:
        """Another number asks for that recipe, 0 for none. Raises WriteRefused."""
        if number == self.number:
            return
        if number > len(self._recipes):
            raise WriteRefused(ExcCodes.ILLEGAL_VALUE)
        if self.answer == Answer.WAITS:
            raise WriteRefused(ExcCodes.DEVICE_BUSY)
        self.number, self.why = number, ""
        self.answer = Answer.WAITS if number else Answer.NONE
        if number:
            self._ask(self._recipes[number - 1])

    def answered(self, why_not: str) -> None:
        """It is done, or refused where there is a reason."""
        self.answer, self.why = (Answer.REFUSED if why_not else Answer.DONE), why_not
