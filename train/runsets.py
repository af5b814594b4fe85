"""Which runs lie in a folder, and on which task each is measured. Scores nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
from dualkd.train.benchmarks import open_tasks
from dualkd.train.checkpoint import RUN_NAME, Run, RunError, read_run
from dualkd.train.config import DataConfig, Protocol
from dualkd.train.datasets import DataError, Task, open_test_set
from dualkd.train.results import Grouping

BY_TASK: tuple[Protocol, ...] = ("one-vs-rest", "many-vs-many")


@dataclass(frozen=True, slots=True)
class RunSet:
    """Runs that are measured on the tasks of one data section: one run, or a benchmark's."""

    home: Path  # the folder that was named
    data: DataConfig
    runs: dict[Path, Run]

    @property
    def name(self) -> str:
        """What the report is called: the benchmark and protocol, or the folder of the images."""
        if self.data.benchmark is None:
            return Path(self.data.root).resolve().name
        return "-".join(filter(None, (self.data.benchmark, self.data.protocol, self.data.task)))

    @property
    def folder(self) -> Path:
        """Where the report lies, unless another place is wanted."""
        return self.home / "eval" / self.name

    @property
    def grouping(self) -> Grouping:
        """What a row of the table is; see figures.make_report."""
        return "task" if self.data.protocol in BY_TASK else "category"


def find_runs(home: Path, overrides: dict[str, str]) -> list[RunSet]:
    """The run in `home`, or all runs below it, by what they are measured on. Raises RunError, ValidationError.

    `overrides` are keys of the data section that win over the runs' own; a benchmark replaces their layout.
    """
    if "benchmark" in overrides:
        overrides = overrides | {"layout": "folder"}
    alone = (home / RUN_NAME).is_file()
    folders = [home] if alone else sorted(path.parent for path in home.rglob(RUN_NAME)) or [home]
    if len(folders) > 1 and "task" in overrides:
        raise RunError(f"{home}: holds {len(folders)} runs; --task is for one, so name its folder")
    sets: list[RunSet] = []
    for folder in folders:
        run = read_run(folder)
        data = msgspec.convert(msgspec.to_builtins(run.config.data) | overrides, DataConfig)
        if not alone and data.benchmark is not None:
            data = msgspec.structs.replace(data, task=None)
        found = next((one for one in sets if one.data == data), None)
        if found is None:
            found = RunSet(home, data, {})
            sets.append(found)
        found.runs[folder] = run
    return sets


def pair_with_tasks(runs: RunSet) -> dict[Path, Task]:
    """The task of each run, in the order of the benchmark's tasks. Raises DataError, RunError."""
    if runs.data.benchmark is None:
        tasks = [Task("", open_test_set(Path(runs.data.root)))]
        wanted = dict.fromkeys(runs.runs, "")
    else:
        named = {folder: run.config.data.task or "" for folder, run in runs.runs.items()}
        of_classes = runs.data.protocol in ("per-class", "one-vs-rest") and runs.data.task is None
        # a class that nobody trained on need not be there
        classes = sorted(filter(None, named.values())) if of_classes else runs.data.classes
        tasks = open_tasks(msgspec.structs.replace(runs.data, classes=classes))
        wanted = dict.fromkeys(runs.runs, tasks[0].name) if len(tasks) == 1 else named
    by_name = {task.name: task for task in tasks}
    pairs: dict[str, Path] = {}
    for folder, name in wanted.items():
        if name not in by_name:
            raise DataError(f"{folder}: is of no task of {runs.name}; give --task: {', '.join(by_name)}")
        if name in pairs:
            raise RunError(
                f"{pairs[name]} and {folder} are both measured on {name or runs.name}: name one of them, or see "
                "--compare"
            )
        pairs[name] = folder
    return {pairs[name]: task for name, task in by_name.items() if name in pairs}
