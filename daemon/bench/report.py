"""What dualkd-bench found: plain data for bench.json, and a table for people.

Knows the roofline: no batch of n frames can take less than

    max(n * flop / flop_s, (weight_bytes + n * frame_bytes) / bytes_s),

because every multiply-add has to be done, every weight read once, and every frame brought and answered. Activations
are left out, since a runtime may keep them close. Both rates are the medians of those measured between the turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
from dualkd.daemon.bench.ceilings import Ceilings
from dualkd.daemon.bench.turns import PICTURE, Turn
from dualkd.daemon.bundle import InputSpec, Precision, Students, TeacherSpec
from dualkd.daemon.work import Work

ENGINE_HEAD = [
    *("batch", "turns", "engine p50 ms", "p95", "p99", "device p50 ms", "device p95", "device p99"),
    *("frames/s", "floor ms", "bound by", "share reached"),
]
PATH_HEAD = [
    *("batch", "resize ms a frame", "decide", "message", "whole path p50 ms", "p95", "p99", "path / engine"),
]


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Quantiles in milliseconds. A tail of fewer than one value is not told."""

    p50: float
    p95: float | None  # from 20 values on
    p99: float | None  # from 100 values on

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        p50, p95, p99 = (float(value) for value in np.percentile(values, (50, 95, 99)))
        return cls(p50=p50, p95=p95 if len(values) >= 20 else None, p99=p99 if len(values) >= 100 else None)


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """A ceiling, a second: over the whole run."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Rate:
        return cls(median=float(np.median(values)), least=min(values), most=max(values))


class Roof(msgspec.Struct, frozen=True, kw_only=True):
    """What bounds the graph on this machine."""

    of: str  # what was measured, and with what
    flop_s: Rate
    bytes_s: Rate


class Floor(msgspec.Struct, frozen=True, kw_only=True):
    """The least a batch can take."""

    ms: float
    bound: Literal["matrix", "memory"]


class BatchFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Of one batch size."""

    batch: int
    turns: int
    engine_ms: Spread  # a batch, by the host's clock
    device_ms: Spread | None  # of it, by the device's own clock
    path_ms: Spread  # a batch, pictures in memory to encoded messages
    frames_s: float  # through the engine
    resize_ms: float  # a frame, median; so are the next two
    decide_ms: float
    message_ms: float
    floor: Floor | None

    @property
    def share(self) -> float | None:
        """What share of the floor's speed the engine reaches, by its device's clock if there is one."""
        return None if self.floor is None else self.floor.ms / (self.device_ms or self.engine_ms).p50


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """The machine and what else it did."""

    cpu: str
    cores: int  # that this process may use
    system: str
    python: str
    load: float  # of the last minute when the run began


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """bench.json."""

    schema: Literal[1] = 1
    created_utc: str
    command: str
    bundle: str
    bundle_sha256: str
    teacher: TeacherSpec
    students: Students
    input: InputSpec
    precision: Precision
    engine: str
    threads: int | None  # of an engine on the cores
    host: Host
    work: Work | None
    roof: Roof | None
    batches: list[BatchFigures]


def floor_of(work: Work, batch: int, roof: Roof) -> Floor:
    """The least that a batch can take; see above."""
    matrix_s = batch * work.flop / roof.flop_s.median
    memory_s = (work.weight_bytes + batch * work.frame_bytes) / roof.bytes_s.median
    return Floor(ms=max(matrix_s, memory_s) * 1e3, bound="matrix" if matrix_s >= memory_s else "memory")


def roof_of(of: str, samples: Sequence[Ceilings]) -> Roof:
    return Roof(
        of=of,
        flop_s=Rate.of([sample.flop_s for sample in samples]),
        bytes_s=Rate.of([sample.bytes_s for sample in samples]),
    )


def figures_of(batch: int, turns: Sequence[Turn], floor: Floor | None) -> BatchFigures:
    device = [turn.device for turn in turns if turn.device is not None]
    return BatchFigures(
        batch=batch,
        turns=len(turns),
        engine_ms=Spread.of([turn.engine for turn in turns]),
        device_ms=Spread.of(device) if device else None,
        path_ms=Spread.of([turn.path for turn in turns]),
        frames_s=batch * len(turns) / sum(turn.engine for turn in turns) * 1e3,
        resize_ms=float(np.median([turn.resize for turn in turns])),
        decide_ms=float(np.median([turn.decide for turn in turns])),
        message_ms=float(np.median([turn.message for turn in turns])),
        floor=floor,
    )


def markdown(report: Report) -> str:
    """The report as a table, with three digits: no more are repeatable on an ordinary machine."""
    host, teacher = report.host, report.teacher
    threads = "" if report.threads is None else f", {report.threads} threads"
    facts = [
        f"{report.bundle} ({report.bundle_sha256[:12]}): {teacher.name}, weights {teacher.weights} "
        f"({teacher.sha256[:12]}), students {report.students}, {report.input.width} x {report.input.height}",
        f"{report.engine}{threads}; {host.cpu}, {host.cores} cores, {host.system}, Python {host.python}, "
        f"load {host.load:.1f} at the start",
        *_bounds(report.work, report.roof),
    ]
    lines = [
        *(f"- {fact}" for fact in facts),
        "",
        *_table(ENGINE_HEAD, [_engine_row(figures) for figures in report.batches]),
        "",
        f"The daemon's own part: a picture of {PICTURE[0]} x {PICTURE[1]} in memory to an encoded message.",
        "",
        *_table(PATH_HEAD, [_path_row(figures) for figures in report.batches]),
    ]
    return "\n".join(lines) + "\n"


def _bounds(work: Work | None, roof: Roof | None) -> list[str]:
    lines = []
    if work is None:
        lines.append("no floor: the bundle does not say what work its graph is; export it again")
    else:
        lines.append(
            f"a frame: {_figure(work.flop / 1e9)} GFLOP, {_figure(work.frame_bytes / 1e6)} MB in and out, "
            f"{_figure(work.activation_bytes / 1e6)} MB of activations if nothing is fused; "
            f"weights: {_figure(work.weight_bytes / 1e6)} MB a batch"
        )
        if work.uncounted:
            lines.append(f"not in these FLOP: {', '.join(work.uncounted)}")
    if roof is None:
        lines.append("no floor: the GPU is measured through pycuda, which is not installed")
    else:
        lines.append(
            f"at most, median (least to most): {_range(roof.flop_s)} GFLOP/s, {_range(roof.bytes_s)} GB/s; {roof.of}"
        )
    return lines


def _engine_row(figures: BatchFigures) -> list[str]:
    floor, share = figures.floor, figures.share
    return [
        str(figures.batch),
        str(figures.turns),
        *_quantiles(figures.engine_ms),
        *_quantiles(figures.device_ms),
        _figure(figures.frames_s),
        "" if floor is None else _figure(floor.ms),
        "" if floor is None else floor.bound,
        "" if share is None else f"{share:.0%}",
    ]


def _path_row(figures: BatchFigures) -> list[str]:
    parts = (figures.resize_ms, figures.decide_ms, figures.message_ms)
    ratio = figures.path_ms.p50 / figures.engine_ms.p50
    return [str(figures.batch), *map(_figure, parts), *_quantiles(figures.path_ms), f"{ratio:.2f}"]


def _quantiles(spread: Spread | None) -> list[str]:
    values = (None, None, None) if spread is None else (spread.p50, spread.p95, spread.p99)
    return ["" if value is None else _figure(value) for value in values]


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Columns that no row fills are left out."""
    kept = [column for column in range(len(head)) if any(row[column] for row in rows)]
    table = [head, ["---:"] * len(head), *rows]
    return ["| " + " | ".join(row[column] for column in kept) + " |" for row in table]


def _range(rate: Rate) -> str:
    median, least, most = (_figure(value / 1e9) for value in (rate.median, rate.least, rate.most))
    return f"{median} ({least} to {most})"


def _figure(value: float) -> str:
    """Three digits, never with an exponent."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:.0f}" if rounded >= 100 else f"{rounded:.3g}"
