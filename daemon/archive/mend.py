"""After a kill, a lost index or a hand in the folder: make pictures and rows agree again.

    a part without a row      was never whole: removed
    a part with its row       is whole (the row comes after the last byte): finishes its renaming
    a row without a picture   was being pruned, or somebody removed it: forgotten
    a picture without a row   has lost its index: taken in again, with what its name says

Files with other names are nobody's business here and stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dualkd.daemon.archive.index import Index, NewFrame
from dualkd.daemon.archive.names import PictureName, is_day, part_of, whole_of


@dataclass(slots=True)
class Mended:
    """How many of each."""

    removed: int = 0
    finished: int = 0
    forgotten: int = 0
    adopted: int = 0

    def __str__(self) -> str:
        return (
            f"{self.removed} half pictures removed, {self.finished} whole ones renamed, {self.forgotten} rows "
            f"without a picture forgotten, {self.adopted} pictures without a row taken in by their names"
        )


def mend(folder: Path, index: Index) -> Mended:
    """Go through the whole archive, a day at a time. Raises OSError, sqlite3.Error."""
    mended = Mended()
    on_disk = {path.name for path in folder.iterdir() if is_day(path.name)}
    for day in sorted(on_disk.union(index.days())):
        _mend_day(folder, day, index, mended)
    return mended


def _mend_day(folder: Path, day: str, index: Index, mended: Mended) -> None:
    rows = index.pictures(day)
    try:
        names = [path.name for path in (folder / day).iterdir()]
    except FileNotFoundError:
        names = []
    present: dict[str, PictureName] = {}
    for name in names:
        whole = whole_of(name)
        picture = f"{day}/{whole or name}"
        said = PictureName.parse(picture)
        if said is None:
            continue
        if whole is not None and picture not in rows:
            (folder / day / name).unlink(missing_ok=True)
            mended.removed += 1
            continue
        if whole is not None:
            part_of(folder / picture).replace(folder / picture)
            mended.finished += 1
        present[picture] = said
    gone = rows.keys() - present.keys()
    new = [(picture, said) for picture, said in present.items() if picture not in rows]
    new.sort(key=lambda pair: (pair[1].captured_utc_ns, pair[1].frame_id))  # ids are in order of age
    with index.transaction():
        index.remove(rows[picture] for picture in gone)
        for picture, said in new:
            index.add(_from_name(picture, said, (folder / picture).stat().st_size))
    mended.forgotten += len(gone)
    mended.adopted += len(new)


def _from_name(picture: str, name: PictureName, size: int) -> NewFrame:
    return NewFrame(
        captured_utc_ns=name.captured_utc_ns,
        camera=name.camera,
        frame_id=name.frame_id,
        job_id=None,
        verdict=name.verdict,
        doubtful=False,
        score=None,
        reason="",
        picture=picture,
        picture_bytes=size,
        header=None,
        anomaly_map=None,
    )
