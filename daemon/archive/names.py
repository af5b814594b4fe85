"""What a picture's name says: YYYY-MM-DD/CAMERA_HHMMSS.mmm_FRAMEID_VERDICT.png, in UTC.

The name alone tells camera, time, frame and verdict, so that an index can be made anew from the pictures.
Knows names only, no disk.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from dualkd.daemon.records import Outcome

INDEX_NAME = "index.sqlite"
LOCK_NAME = "lock"
Suffix = Literal["png", "jpg"]

_DAY = re.compile(r"\d{4}-\d\d-\d\d\Z", re.ASCII)
_PICTURE = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)/(?P<camera>[A-Za-z0-9][A-Za-z0-9_-]{0,63})_(?P<clock>\d{6})\.(?P<ms>\d{3})"
    r"_(?P<frame>\d{1,18})(?:-(?P<copy>[1-9]\d{0,8}))?_(?P<verdict>PASS|FAIL|INVALID)\.(?P<suffix>png|jpg)\Z",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class PictureName:
    """A picture's name and what it says. `copy` tells pictures apart that would else have one name."""

    camera: str
    captured_utc_ns: int  # whole milliseconds
    frame_id: int
    verdict: Outcome
    suffix: Suffix
    copy: int = 0

    def __str__(self) -> str:
        """The path below the archive's folder."""
        seconds, ms = divmod(self.captured_utc_ns // 1_000_000, 1000)
        when = datetime.fromtimestamp(seconds, timezone.utc)
        copy = f"-{self.copy}" if self.copy else ""
        return (
            f"{when:%Y-%m-%d}/{self.camera}_{when:%H%M%S}.{ms:03}"
            f"_{self.frame_id}{copy}_{self.verdict}.{self.suffix}"
        )

    @classmethod
    def parse(cls, path: str) -> PictureName | None:
        """Read a path below the archive's folder; None for anything that is no picture's."""
        found = _PICTURE.match(path)
        if found is None:
            return None
        try:
            when = datetime.strptime(f"{found['day']} {found['clock']} +0000", "%Y-%m-%d %H%M%S %z")
        except ValueError:
            return None
        return cls(
            camera=found["camera"],
            captured_utc_ns=(int(when.timestamp()) * 1000 + int(found["ms"])) * 1_000_000,
            frame_id=int(found["frame"]),
            verdict=found["verdict"],  # type: ignore[arg-type]  # the pattern allows nothing else
            suffix=found["suffix"],  # type: ignore[arg-type]
            copy=int(found["copy"] or 0),
        )


def is_day(name: str) -> bool:
    """Whether a folder of this name holds a day's pictures."""
    return _DAY.match(name) is not None


def part_of(picture: Path) -> Path:
    """Where a picture is written until it is whole."""
    return picture.with_name(f".{picture.name}.part")


def whole_of(part: str) -> str | None:
    """The name of the picture that a file of this name was to become, or None."""
    return part[1 : -len(".part")] if part.startswith(".") and part.endswith(".part") else None


def utc_text(utc_ns: int, *, timespec: str = "milliseconds") -> str:
    """As 2026-11-23T09:12:34.567Z."""
    when = datetime.fromtimestamp(utc_ns / 1e9, timezone.utc)
    return when.replace(tzinfo=None).isoformat(timespec=timespec) + "Z"
