"""index.sqlite: what is known of every frame that is kept, and how many bytes there are of each verdict.

The raw map lies in the row, not beside the picture: it is small, and one transaction then writes all that
there is besides the picture. Knows SQL; does not touch pictures (see store.py, mend.py, pruning.py).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dualkd.daemon.records import Outcome

VERSION = 1
BUSY_S = 5.0  # longest wait for another process that writes
BLOCK_BYTES = 4096  # what disks and SQLite round up to
INVALID_SHARE = 4  # INVALID frames of more than a 4th of the budget go before all others

_APPLICATION_ID = 0x646B6461  # "dkda"
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE frames (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- in the order of writing, whatever the clock does
    captured_utc_ns INTEGER NOT NULL,
    camera TEXT NOT NULL,
    frame_id INTEGER,
    job_id TEXT,
    verdict TEXT NOT NULL,
    doubtful INTEGER NOT NULL,
    score REAL,
    reason TEXT NOT NULL,
    picture TEXT UNIQUE,  -- path below the folder; NULL: there was none
    bytes INTEGER NOT NULL  -- of picture, header and map, in whole blocks
);
CREATE INDEX frames_time ON frames (captured_utc_ns);
CREATE INDEX frames_camera ON frames (camera, captured_utc_ns);
CREATE INDEX frames_verdict ON frames (verdict);
CREATE TABLE details (
    id INTEGER PRIMARY KEY,
    header BLOB,  -- JSON as published; NULL: the index was made anew from the pictures
    map BLOB  -- as the header's `map` says; NULL: there was none
);
CREATE TABLE totals (verdict TEXT PRIMARY KEY, bytes INTEGER NOT NULL);
INSERT INTO totals VALUES ('PASS', 0), ('FAIL', 0), ('INVALID', 0);
CREATE TRIGGER frame_added AFTER INSERT ON frames BEGIN
    UPDATE totals SET bytes = bytes + NEW.bytes WHERE verdict = NEW.verdict;
END;
CREATE TRIGGER frame_removed AFTER DELETE ON frames BEGIN
    UPDATE totals SET bytes = bytes - OLD.bytes WHERE verdict = OLD.verdict;
    DELETE FROM details WHERE id = OLD.id;
END;
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {VERSION};
COMMIT;
"""


class ArchiveError(Exception):
    """An archive that cannot be used: which, why, and what to do."""


@dataclass(frozen=True, slots=True)
class NewFrame:
    """A frame to be kept, all but its picture."""

    captured_utc_ns: int
    camera: str
    frame_id: int | None
    job_id: str | None
    verdict: Outcome
    doubtful: bool
    score: float | None
    reason: str
    picture: str | None
    picture_bytes: int
    header: bytes | None
    anomaly_map: bytes | None

    @property
    def bytes(self) -> int:
        """What it takes of the disk."""
        return in_blocks(self.picture_bytes) + in_blocks(
            len(self.header or b"") + len(self.anomaly_map or b"")
        )


@dataclass(frozen=True, slots=True)
class Victim:
    """A frame that is to go."""

    id: int
    picture: str | None
    bytes: int


class Index:
    """The index of one archive, open for writing. Use it from one thread. Raises sqlite3.Error."""

    def __init__(self, path: Path) -> None:
        """Open the index, or begin one where there is none. Raises ArchiveError for one of another kind."""
        self._connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
        try:
            self._set_up(path)
        except BaseException:
            self._connection.close()
            raise

    def _set_up(self, path: Path) -> None:
        execute = self._connection.execute
        execute("PRAGMA auto_vacuum = FULL")  # a new index: what is removed is given back to the disk
        execute("PRAGMA journal_mode = WAL")  # readers and the writer do not wait for each other
        execute("PRAGMA synchronous = FULL")
        execute("PRAGMA wal_autocheckpoint = 256")
        execute("PRAGMA journal_size_limit = 1048576")
        execute("PRAGMA cache_size = -256")  # KiB: one row after the other is written, and hardly one is read
        if not execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            self._connection.executescript(_SCHEMA)
        check_kind(self._connection, path)
        verdict = execute("PRAGMA quick_check(frames)").fetchone()[0]
        if verdict != "ok":
            raise sqlite3.DatabaseError(str(verdict).splitlines()[0])

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the block, or nothing of it."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise

    def add(self, frame: NewFrame) -> int:
        """Add a frame inside a transaction; return its id."""
        cursor = self._connection.execute(
            "INSERT INTO frames (captured_utc_ns, camera, frame_id, job_id, verdict, doubtful, score, reason,"
            " picture, bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                frame.captured_utc_ns,
                frame.camera,
                frame.frame_id,
                frame.job_id,
                frame.verdict,
                frame.doubtful,
                frame.score,
                frame.reason,
                frame.picture,
                frame.bytes,
            ),
        )
        self._connection.execute(
            "INSERT INTO details VALUES (?, ?, ?)", (cursor.lastrowid, frame.header, frame.anomaly_map)
        )
        return int(cursor.lastrowid or 0)

    def remove(self, ids: Iterable[int]) -> None:
        """Forget frames, inside a transaction."""
        self._connection.executemany("DELETE FROM frames WHERE id = ?", [(number,) for number in ids])

    def has(self, picture: str) -> bool:
        found = self._connection.execute("SELECT 1 FROM frames WHERE picture = ?", (picture,))
        return found.fetchone() is not None

    def bytes(self) -> int:
        """Of everything that is kept."""
        return int(self._connection.execute("SELECT sum(bytes) FROM totals").fetchone()[0])

    def days(self) -> list[str]:
        """The days that there are pictures of."""
        rows = self._connection.execute(
            "SELECT DISTINCT substr(picture, 1, 10) FROM frames WHERE picture > ''"
        )
        return [day for (day,) in rows]

    def pictures(self, day: str) -> dict[str, int]:
        """The pictures of a day, and their frames' ids."""
        rows = self._connection.execute(
            "SELECT picture, id FROM frames WHERE picture >= ? AND picture < ?", (f"{day}/", f"{day}0")
        )
        return dict(rows.fetchall())

    def before(self, captured_utc_ns: int) -> list[Victim]:
        """The frames that were captured before this."""
        rows = self._connection.execute(
            "SELECT id, picture, bytes FROM frames WHERE captured_utc_ns < ? ORDER BY captured_utc_ns",
            (captured_utc_ns,),
        )
        return [Victim(*row) for row in rows]

    def oldest(self, excess: int, budget: int) -> list[Victim]:
        """The frames to remove for `excess` bytes: the oldest, but first what INVALID takes beyond its share.

        A camera that is black for a night gives INVALID frames without end; they must not push out the
        frames that failed.
        """
        execute = self._connection.execute
        (invalid,) = execute("SELECT bytes FROM totals WHERE verdict = 'INVALID'").fetchone()
        most = min(excess, invalid - budget // INVALID_SHARE)
        victims = _until(
            most, execute("SELECT id, picture, bytes FROM frames WHERE verdict = 'INVALID' ORDER BY id")
        )
        chosen = {victim.id for victim in victims}
        rest = (
            row
            for row in execute("SELECT id, picture, bytes FROM frames ORDER BY id")
            if row[0] not in chosen
        )
        return victims + _until(excess - sum(victim.bytes for victim in victims), rest)

    def plan(self, before_utc_ns: int | None, budget: int | None) -> list[Victim]:
        """The frames to remove for this age and this many bytes together."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            victims = [] if before_utc_ns is None else self.before(before_utc_ns)
            self.remove(victim.id for victim in victims)
            if budget is not None:
                victims += self.oldest(self.bytes() - budget, budget)
        finally:
            self._connection.execute("ROLLBACK")
        return victims


def _until(wanted: int, rows: Iterable[tuple[int, str | None, int]]) -> list[Victim]:
    victims: list[Victim] = []
    for row in rows if wanted > 0 else ():
        victims.append(Victim(*row))
        wanted -= victims[-1].bytes
        if wanted <= 0:
            break
    return victims


def check_kind(connection: sqlite3.Connection, path: Path) -> None:
    """Raise ArchiveError for a database that is no archive's index, or one of a later version."""
    (kind,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if kind != _APPLICATION_ID:
        raise ArchiveError(
            f"{path}: is another program's database, no archive's index; choose another folder"
        )
    if version != VERSION:
        raise ArchiveError(
            f"{path}: is an index of version {version}, and this dualkd knows version {VERSION}; "
            "use the dualkd that wrote it, or choose another folder"
        )


def in_blocks(size: int) -> int:
    """`size` bytes as a disk counts them."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def is_damage(error: sqlite3.Error) -> bool:
    """Whether SQLite says that the file itself is broken, not that it cannot be reached just now.

    sqlite3 raises the plain DatabaseError for SQLITE_CORRUPT and SQLITE_NOTADB, and subclasses for the rest.
    """
    return type(error) is sqlite3.DatabaseError
