"""What is shown of a verdict, a camera and the line: names, data types, and how each is taken from the wire.

Names are OPC 40100-1's where it has one for the same thing; where it has a structure we have a string. Knows
no address space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from asyncua import ua
from dualkd.daemon.bridges.opcua.values import data_value, standard_id, utc
from dualkd.daemon.messages import CameraStatus, RecipeRef, ResultHeader, StatusHeader

T = TypeVar("T")

_COMPLETED, _FAILED = 1, 4  # ResultState
_NUMBERS = {"PASS": 1, "FAIL": 2, "INVALID": 3}  # as in Modbus


Values = dict[str, ua.DataValue]
"""A result's values by name."""


@dataclass(frozen=True, slots=True)
class Field(Generic[T]):
    """A variable: its path below its object, its type, and its value, None where there is none."""

    name: str
    kind: ua.VariantType
    value: Callable[[T], object]
    array: bool = False
    unit: int | None = None  # a subtype for its data type: ua.ObjectIds.Duration

    @property
    def data_type(self) -> ua.NodeId:
        return standard_id(self.kind.value if self.unit is None else self.unit)

    def data_value(self, source: T, at: datetime) -> ua.DataValue:
        """The value as it is written; a missing one is Bad with no value."""
        return data_value(self.value(source), self.kind, at, array=self.array)


@dataclass(frozen=True, slots=True)
class Said:
    """What the daemon last said of itself."""

    status: StatusHeader
    heartbeat: int
    recipes: Sequence[RecipeRef]  # of the cameras that have one, in their order


def _listed(names: Iterable[str]) -> str:
    """Each once, in their order: a single one where all cameras have the same."""
    return ", ".join(dict.fromkeys(names))


def _places(header: ResultHeader) -> list[int]:
    boxes = header.regions
    return [number for box in boxes for number in (box.x_px, box.y_px, box.width_px, box.height_px)]


_BOOLEAN, _INT32, _UINT64 = ua.VariantType.Boolean, ua.VariantType.Int32, ua.VariantType.UInt64
_DOUBLE, _STRING, _TIME = ua.VariantType.Double, ua.VariantType.String, ua.VariantType.DateTime
_UINT32 = ua.VariantType.UInt32

RESULT: Sequence[Field[ResultHeader]] = (
    Field("ResultId", _STRING, lambda header: f"{header.boot_id}.{header.camera}.{header.seq}"),
    Field("IsPartial", _BOOLEAN, lambda _: False),
    Field("IsSimulated", _BOOLEAN, lambda _: False),
    Field("ResultState", _INT32, lambda header: _FAILED if header.verdict == "INVALID" else _COMPLETED),
    Field("MeasId", _STRING, lambda header: "" if header.frame_id is None else str(header.frame_id)),
    Field("PartId", _STRING, lambda header: header.source_name),
    Field("JobId", _STRING, lambda header: header.job_id or ""),
    Field("InternalRecipeId", _STRING, lambda header: header.recipe),
    Field("ProductId", _STRING, lambda header: header.bundle.name),
    Field("InternalConfigurationId", _STRING, lambda header: header.bundle.sha256),
    Field("CreationTime", _TIME, lambda header: utc(header.captured_utc_ns), unit=ua.ObjectIds.UtcTime),
    Field("ProcessingDuration", _DOUBLE, lambda header: header.stage_ms.total, unit=ua.ObjectIds.Duration),
    Field("Camera", _STRING, lambda header: header.camera),
    Field("SequenceNumber", _UINT64, lambda header: header.seq),
    Field("Verdict", _STRING, lambda header: header.verdict),
    Field("VerdictNumber", _INT32, lambda header: _NUMBERS[header.verdict]),
    Field("Reason", _STRING, lambda header: header.reason),
    Field("Doubtful", _BOOLEAN, lambda header: header.doubtful),
    Field("Score", _DOUBLE, lambda header: header.score),
    Field("SmoothedScore", _DOUBLE, lambda header: header.smoothed_score),
    Field("Threshold", _DOUBLE, lambda header: header.threshold),
    Field("Regions", _INT32, _places, array=True),
    Field("RegionPeaks", _DOUBLE, lambda header: [box.peak for box in header.regions], array=True),
)
"""Of one verdict. `Regions` has four numbers a region: x, y, width and height in the camera's pixels."""

SUBSTITUTES = {"Verdict": ("INVALID", _STRING), "VerdictNumber": (_NUMBERS["INVALID"], _INT32)}
"""What stands in a camera's result while nothing is known of it; all other fields are Bad then."""

CAMERA: Sequence[Field[CameraStatus]] = (
    Field("State", _STRING, lambda camera: camera.state),
    Field("Paused", _BOOLEAN, lambda camera: camera.paused),
    Field("ActiveRecipe", _STRING, lambda camera: camera.recipe and camera.recipe.name),
    Field("ActiveProduct", _STRING, lambda camera: camera.recipe and camera.recipe.bundle.name),
    Field("FailThreshold", _DOUBLE, lambda camera: camera.recipe and camera.recipe.fail),
    Field("WarnThreshold", _DOUBLE, lambda camera: camera.recipe and camera.recipe.warn),
    Field("Captured", _UINT64, lambda camera: camera.captured),
    Field("Passed", _UINT64, lambda camera: camera.passed),
    Field("Failed", _UINT64, lambda camera: camera.failed),
    Field("Invalid", _UINT64, lambda camera: camera.invalid),
    Field("Absent", _UINT64, lambda camera: camera.absent),
    Field("Dropped", _UINT64, lambda camera: sum(camera.dropped.values())),
    Field("Restarts", _UINT64, lambda camera: camera.restarts),
)
"""Of a camera as the daemon's status has it; counts are since the daemon's start."""

LINE: Sequence[Field[Said]] = (
    Field("DaemonState", _STRING, lambda said: said.status.state),
    Field("Warnings", _STRING, lambda said: said.status.warnings, array=True),
    Field("Heartbeat", _UINT32, lambda said: said.heartbeat),
    Field("HeartbeatTime", _TIME, lambda said: utc(said.status.utc_ns), unit=ua.ObjectIds.UtcTime),
    Field(
        "ConfigurationManagement.ActiveConfiguration",
        _STRING,
        lambda said: _listed(recipe.bundle.sha256 for recipe in said.recipes),
    ),
    Field(
        "RecipeManagement.ActiveRecipe", _STRING, lambda said: _listed(recipe.name for recipe in said.recipes)
    ),
    Field(
        "RecipeManagement.ActiveProduct",
        _STRING,
        lambda said: _listed(recipe.bundle.name for recipe in said.recipes),
    ),
)
"""Of the daemon as its status has it."""
