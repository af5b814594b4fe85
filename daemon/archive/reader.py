"""An archive for those who read it: the command, a view. Works while a daemon writes, and on a read-only disk.

Each call opens the index, reads, and closes it again: nothing is held between calls, so that the daemon can
prune, or make a damaged index anew, and calls may come from any thread.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt
from dualkd.daemon.archive.index import BUSY_S, ArchiveError, check_kind
from dualkd.daemon.archive.names import INDEX_NAME, PictureName, part_of
from dualkd.daemon.messages import MapSpec
from dualkd.daemon.records import Outcome

VerdictFilter = Literal["PASS", "FAIL", "INVALID", "DOUBTFUL"]

_COLUMNS = (
    "frames.id, captured_utc_ns, camera, frame_id, job_id, verdict, doubtful, score, reason, picture, bytes"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which frames; None for no matter."""

    camera: str | None = None
    verdict: VerdictFilter | None = None  # DOUBTFUL: PASS, but above the warn threshold
    since_utc_ns: int | None = None
    until_utc_ns: int | None = None  # not included
    limit: int | None = None  # the newest so many


@dataclass(frozen=True, slots=True)
class Entry:
    """A frame that is kept."""

    id: int
    captured_utc_ns: int
    camera: str
    frame_id: int | None
    job_id: str | None
    verdict: Outcome
    doubtful: bool
    score: float | None
    reason: str
    picture: str | None  # path below the folder; None: there was no picture
    bytes: int


@dataclass(frozen=True, slots=True)
class Record:
    """All that is known of a frame, but for its picture."""

    entry: Entry
    header: bytes | None  # JSON as published; None: the index was made anew from the pictures
    map_bytes: bytes | None

    def anomaly_map(self) -> tuple[npt.NDArray[np.float32], MapSpec, float | None] | None:
        """The raw map (h, w), how it lies on the picture, and the region threshold. Raises ArchiveError."""
        if self.header is None or self.map_bytes is None:
            return None
        try:
            facts = msgspec.json.decode(self.header, type=_MapFacts)
            values = np.frombuffer(self.map_bytes, "<f2").reshape(facts.map.shape)
        except (msgspec.MsgspecError, ValueError) as error:
            raise ArchiveError(f"frame {self.entry.id}: its map cannot be read: {error}") from error
        return values.astype(np.float32), facts.map, facts.region_threshold


class _MapFacts(msgspec.Struct, frozen=True):
    """What of a header, of this version or a later one, the map needs."""

    map: MapSpec
    region_threshold: float | None = None


class ArchiveReader:
    """Reads the archive in `folder`. Every method raises ArchiveError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def list(self, query: Query) -> list[Entry]:
        """The frames that match, newest first."""
        conditions, values = _conditions(query)
        with _reading(self._folder) as connection:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM frames{conditions} ORDER BY captured_utc_ns DESC, id DESC LIMIT ?",
                (*values, -1 if query.limit is None else query.limit),
            ).fetchall()
        return [_entry(row) for row in rows]

    def get(self, number: int) -> Record:
        """All of one frame."""
        with _reading(self._folder) as connection:
            row = connection.execute(
                f"SELECT {_COLUMNS}, header, map FROM frames LEFT JOIN details USING (id) WHERE frames.id = ?",
                (number,),
            ).fetchone()
        if row is None:
            raise ArchiveError(f"{self._folder}: there is no frame {number} (never was, or was pruned)")
        return Record(_entry(row[:-2]), row[-2], row[-1])

    def picture_path(self, entry: Entry) -> Path | None:
        """Where the picture is, or was before it was pruned; None for a frame without one."""
        if entry.picture is None:
            return None
        if PictureName.parse(entry.picture) is None:
            raise ArchiveError(
                f"frame {entry.id}: {entry.picture!r} is no name of a picture; it is not opened"
            )
        path = self._folder / entry.picture
        part = part_of(
            path
        )  # whole too, now that there is a row: the writer was stopped before it renamed it
        return part if not path.exists() and part.exists() else path

    def read_picture(self, entry: Entry) -> bytes | None:
        """The picture as a file's bytes (PNG or JPEG); None for a frame without one."""
        for _ in range(2):  # it may get its name between two looks
            path = self.picture_path(entry)
            if path is None:
                return None
            with suppress(FileNotFoundError):
                return path.read_bytes()
        raise ArchiveError(f"frame {entry.id}: its picture {path} is gone; was it pruned just now?")


def _entry(row: tuple[object, ...]) -> Entry:
    try:
        return msgspec.convert(dict(zip(Entry.__slots__, row, strict=True)), Entry, strict=False)
    except msgspec.ValidationError as error:
        raise ArchiveError(f"a row of index.sqlite does not fit: {error}") from error


def _conditions(query: Query) -> tuple[str, list[str | int]]:
    wanted: list[tuple[str, str | int | None]] = [
        ("camera = ?", query.camera),
        ("captured_utc_ns >= ?", query.since_utc_ns),
        ("captured_utc_ns < ?", query.until_utc_ns),
        ("doubtful = ?", 1 if query.verdict == "DOUBTFUL" else None),
        ("verdict = ?", None if query.verdict == "DOUBTFUL" else query.verdict),
    ]
    used = [(condition, value) for condition, value in wanted if value is not None]
    text = " AND ".join(condition for condition, _ in used)
    return f" WHERE {text}" if text else "", [value for _, value in used]


@contextmanager
def _reading(folder: Path) -> Iterator[sqlite3.Connection]:
    path = folder / INDEX_NAME
    if not path.is_file():
        what = "holds no index.sqlite" if folder.is_dir() else "does not exist"
        raise ArchiveError(f"{folder}: is no archive: it {what}")
    try:
        with (
            tempfile.TemporaryDirectory(prefix="dualkd-archive-") as spare,
            closing(_open(path, Path(spare))) as connection,
        ):
            check_kind(connection, path)
            yield connection
    except (sqlite3.Error, OSError) as error:
        raise ArchiveError(f"{path}: cannot be read: {error}") from error


def _open(path: Path, spare: Path) -> sqlite3.Connection:
    """Open the index to read.

    SQLite can read beside a writer only with index.sqlite-shm, which cannot be made on a read-only disk. Then
    nobody writes, so the file alone is enough, or with what the journal still holds, a copy of both.
    """
    try:
        return _connect(f"{path.absolute().as_uri()}?mode=ro")
    except sqlite3.OperationalError as error:
        if "unable to open" not in str(error):
            raise
    journal = path.with_name(f"{path.name}-wal")
    if not journal.exists() or journal.stat().st_size == 0:
        return _connect(f"{path.absolute().as_uri()}?immutable=1")
    for file in (path, journal):
        shutil.copyfile(file, spare / file.name)
    return _connect((spare / path.name).as_uri())


def _connect(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_S)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # only now it is really opened
    except sqlite3.Error:
        connection.close()
        raise
    return connection
