"""Runs side by side: what was varied between them, their figures, and the differences to the first.

Works on reports that are already there; evaluates nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from dualkd.train.config import TrainConfig
from dualkd.train.datasets import DataError
from dualkd.train.results import Report, Row
from dualkd.train.tables import HEADINGS, RANKING, markdown, percent

OWN_KEYS = ("run", "name", "training.seed", "data.task")  # in these, runs of one configuration differ
CLASS_FIGURES = ("auroc", "aupro")  # shown for every class


@dataclass(frozen=True, slots=True)
class Measured:
    """A run, or a benchmark's runs, with their configurations and their report."""

    folder: Path
    configs: list[TrainConfig]
    report: Report

    @property
    def settings(self) -> dict[str, str]:
        """Every dotted key of the configurations but OWN_KEYS, and the teacher's weights, as text."""
        found: dict[str, dict[str, None]] = {}
        for config in self.configs:
            for key, value in _flat(msgspec.to_builtins(config)):
                if key not in OWN_KEYS:
                    found.setdefault(key, {})[str(value)] = None
        found["teacher sha256"] = {run.teacher.sha256[:12]: None for run in self.report.runs}
        return {key: ", ".join(values) for key, values in found.items()}

    @property
    def seeds(self) -> list[int]:
        return sorted({config.training.seed for config in self.configs})


@dataclass(frozen=True, slots=True)
class Column:
    """One configuration: a run, or runs that differ in their seed alone."""

    name: str
    members: list[Measured]

    def values(self, name: str | None, figure: str) -> list[float]:
        """A figure of every member that has it, of the class `name` or (None) of the total."""
        rows = [_row(member.report, name) for member in self.members]
        return [row.figures[figure] for row in rows if figure in row.figures]


def fold(measured: Sequence[Measured]) -> list[Column]:
    """Runs as columns, in order; seeds of one configuration in one. Raises DataError if the images differ."""
    first = measured[0]
    folded: list[list[Measured]] = []
    for one in measured:
        if _images(one) != _images(first):
            raise DataError(
                f"{first.folder} was measured on {_told(first)}, {one.folder} on {_told(one)}: compare runs on the "
                "same images (see --data)"
            )
        for members in folded:
            seeds = {seed for member in members for seed in member.seeds}
            if members[0].settings == one.settings and not seeds & set(one.seeds):
                members.append(one)
                break
        else:
            folded.append([one])
    short = [members[0].folder.resolve().name for members in folded]
    names = short if len(set(short)) == len(short) else [str(members[0].folder) for members in folded]
    return [
        Column(name if len(members) == 1 else f"{name} ({len(members)} seeds)", members)
        for name, members in zip(names, folded, strict=True)
    ]


def comparison_markdown(columns: Sequence[Column]) -> str:
    """What was varied, then the figures: a column a configuration, with the difference to the first in brackets."""
    names = [column.name for column in columns]
    lines = [markdown(["varied", *names], _varied(columns))]
    report = columns[0].members[0].report
    classes = [row.name for row in report.section("class")]
    rows = [[heading, *_cells(columns, None, key)] for key, heading in HEADINGS.items()]
    if len(classes) > 1:
        rows += [
            [f"{name}: {HEADINGS[key]}", *_cells(columns, name, key)]
            for key in CLASS_FIGURES
            for name in classes
        ]
    rows = [row for row in rows if any(row[1:])]
    lines.append(markdown([f"{report.data}, per cent", *names], rows))
    caption = "In brackets: the difference to the first column."
    if len(classes) > 1:
        caption += f" The upper rows are means over {len(classes)} classes."
    if any(len(column.members) > 1 for column in columns):
        caption += " Of several seeds: mean ± standard deviation."
    return "\n\n".join([*lines, caption]) + "\n"


def ranking_summary(columns: Sequence[Column]) -> dict[str, dict[str, list[float]]]:
    """Column -> heading -> the values of its members, for drawing; figures that none has are left out."""
    present = [key for key in RANKING if any(column.values(None, key) for column in columns)]
    return {column.name: {RANKING[key]: column.values(None, key) for key in present} for column in columns}


def _varied(columns: Sequence[Column]) -> list[list[str]]:
    """One row a setting that differs, and the runs and seeds behind each column."""
    settings = [column.members[0].settings for column in columns]
    keys = dict.fromkeys(key for each in settings for key in each)
    rows = [[key, *(each.get(key, "") for each in settings)] for key in keys]
    seeds = [sorted({seed for member in column.members for seed in member.seeds}) for column in columns]
    return [
        ["runs", *(", ".join(str(member.folder) for member in column.members) for column in columns)],
        ["training.seed", *(", ".join(map(str, each)) for each in seeds)],
        *(row for row in rows if len(set(row[1:])) > 1),
    ]


def _cells(columns: Sequence[Column], name: str | None, figure: str) -> list[str]:
    cells = []
    reference: float | None = None
    for index, column in enumerate(columns):
        values = column.values(name, figure)
        if not values:
            cells.append("")
            continue
        mean = float(np.mean(values))
        cell = percent(mean)
        if len(values) > 1:
            cell += f" ± {percent(float(np.std(values, ddof=1)))}"
        if index == 0:
            reference = mean
        elif reference is not None:
            cell += f" ({100 * (mean - reference):+.2f})"
        cells.append(cell)
    return cells


def _row(report: Report, name: str | None) -> Row:
    if name is None:
        return report.total
    return next(row for row in report.section("class") if row.name == name)


def _images(measured: Measured) -> tuple[str, list[tuple[str, int, int]]]:
    rows = measured.report.section("class")
    return measured.report.data, [(row.name, row.good, row.defects) for row in rows]


def _told(measured: Measured) -> str:
    total = measured.report.total
    return f"{measured.report.data} ({total.good} good, {total.defects} defects)"


def _flat(tree: dict[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{at}{key}.")
        else:
            yield at + key, value
