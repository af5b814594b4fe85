"""The runs that a configuration asks for: one, or one for each model of a benchmark, in folders below `run`.

Knows which run belongs to which task, and which are done. Does not train.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dualkd.train.benchmarks import open_tasks
from dualkd.train.checkpoint import RUN_NAME, RunError, read_run
from dualkd.train.config import TrainConfig
from dualkd.train.datasets import Task
from msgspec.structs import replace


@dataclass(frozen=True, slots=True, eq=False)
class PlannedRun:
    """One run, as it is configured, and what it is trained and measured on."""

    config: TrainConfig
    task: Task

    @property
    def begun(self) -> bool:
        """Whether there is a run already, complete or interrupted."""
        return (Path(self.config.run) / RUN_NAME).is_file()

    def is_complete(self) -> bool:
        """Whether the run is there and finished. Raises RunError if it is another's: other settings or images."""
        if not self.begun:
            return False
        run = read_run(Path(self.config.run))
        if not run.complete:
            return False
        for what, same in (
            ("with another configuration", replace(run.config, run=self.config.run) == self.config),
            ("on other images", run.data_sha256 == self.task.dataset.digest()),
        ):
            if not same:
                raise RunError(f"{self.config.run} was trained {what}; set another run, or give --overwrite")
        return True


def plan_runs(config: TrainConfig) -> list[PlannedRun]:
    """The run itself, or for a protocol of several models run/TASK for each, with data.task set.

    Raises DataError.
    """
    tasks, data = open_tasks(config.data), config.data
    if data.benchmark is None or data.protocol == "one-model" or data.task is not None:
        return [PlannedRun(config, task) for task in tasks]
    planned = []
    for task in tasks:
        alone = replace(data, task=task.name, classes=[])  # so that it does not depend on the other runs
        planned.append(PlannedRun(replace(config, run=str(Path(config.run) / task.name), data=alone), task))
    return planned


def left_to_train(planned: Sequence[PlannedRun], *, resume: bool, overwrite: bool) -> list[PlannedRun]:
    """All planned runs; with `resume` those that are not complete. Raises RunError where a run is in the way."""
    begun = [one.config.run for one in planned if one.begun]
    if not resume:
        if begun and not overwrite:
            raise RunError(
                f"{begun[0]} already holds a run; set another run, or give --resume or --overwrite"
            )
        return list(planned)
    left = [one for one in planned if not one.is_complete()]
    if not begun:
        raise RunError(f"{planned[0].config.run} holds nothing to resume; train without --resume")
    if not left:
        raise RunError(f"{', '.join(begun)} is complete already; train without --resume")
    return left
