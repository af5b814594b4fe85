"""How frames go: first the picture, then the row.

In this order a full disk has room for SQLite's journal, and a kill in between leaves a row without a
picture, which is mended by forgetting it. Decides nothing: see Index.before and Index.oldest.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dualkd.daemon.archive.index import Index, Victim
from dualkd.daemon.archive.names import PictureName

_AT_ONCE = 256


def drop(folder: Path, index: Index, victims: Sequence[Victim]) -> None:
    """Remove frames from disk and index. Raises OSError, sqlite3.Error; what is gone by then stays gone."""
    for start in range(0, len(victims), _AT_ONCE):
        some = victims[start : start + _AT_ONCE]
        days = set()
        for victim in some:
            if victim.picture is not None and PictureName.parse(victim.picture) is not None:
                path = folder / victim.picture
                path.unlink(missing_ok=True)
                days.add(path.parent)
        with index.transaction():
            index.remove(victim.id for victim in some)
        for day in days:
            with suppress(OSError):  # it holds other pictures
                day.rmdir()
