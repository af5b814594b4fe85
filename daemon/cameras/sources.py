"""What a camera's source string means, and which sources are live.

Knows which kinds of sources there are; films.py, folders.py, live.py and looped.py know what each of them is.
"""

from __future__ import annotations

from pathlib import Path

from dualkd.daemon.cameras.films import VideoFile
from dualkd.daemon.cameras.folders import ImageFolder, WatchedFolder
from dualkd.daemon.cameras.live import PIPELINE_SIGN, LiveCamera
from dualkd.daemon.cameras.looped import Looped
from dualkd.daemon.cameras.pictures import Opening, Picture, Source, SourceError
from dualkd.daemon.config import CameraConfig

__all__ = ["Opening", "Picture", "Source", "SourceError", "comes_back", "open_source"]


def comes_back(camera: CameraConfig) -> bool:
    """Whether the source is one that may be away and come back, which is no failure.

    Told by what is written alone, for what is unplugged cannot be looked at: an index, a device, a URL, a
    pipeline, a folder to follow.
    """
    return camera.follow or _is_live(str(camera.source))


def open_source(opening: Opening) -> Source:
    """Open a source: digits are a camera's index, X://... a URL, else a path. Raises SourceError."""
    if opening.follow:
        return WatchedFolder(Path(opening.source), opening.mark)
    if _is_live(opening.source):
        return LiveCamera(opening)
    path = Path(opening.source)

    def open_file() -> Source:
        return ImageFolder(path) if path.is_dir() else VideoFile(path)

    return Looped(open_file) if opening.loop else open_file()


def _is_live(source: str) -> bool:
    is_index = source.isascii() and source.isdigit()
    return is_index or "://" in source or PIPELINE_SIGN in source or source.startswith("/dev/")
