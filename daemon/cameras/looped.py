"""A film or a folder that begins again at its end, for demonstrations: the daemon never runs out of frames.

Runs inside a capture process. Does not know what kind of source it repeats.
"""

from __future__ import annotations

from collections.abc import Callable

from dualkd.daemon.cameras.pictures import NO_MARK, Picture, Source
from dualkd.daemon.frames import Image


class Looped:
    """Opens a source anew whenever it has ended as it should; an unnatural end is one here too."""

    live = False
    mark = NO_MARK

    def __init__(self, open_: Callable[[], Source]) -> None:
        """Raises SourceError, as the source does."""
        self._open = open_
        self._source = open_()
        self.one_size = self._source.one_size
        self.fps = self._source.fps
        self.description = f"{self._source.description}, over and over"

    def grab(self) -> bool | None:
        stepped = self._source.grab()
        if stepped is False:
            self._source.close()
            self._source = self._open()
            stepped = self._source.grab()
        return stepped

    def retrieve(self, into: Image | None) -> Picture:
        return self._source.retrieve(into)

    def close(self) -> None:
        self._source.close()
