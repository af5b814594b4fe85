"""Samples out of folders of pictures. Knows no benchmark."""

from __future__ import annotations

from pathlib import Path

from dualkd.daemon.frames import list_images
from dualkd.train.datasets import DataError, Sample


def list_samples(root: Path, folder: str, kind: str, category: str = "") -> list[Sample]:
    """The pictures directly in root/`folder`, each named by its path below `root`. Raises DataError if none is."""
    if not (root / folder).is_dir():
        raise DataError(f"{root / folder}: no such folder")
    paths = list_images(root / folder)
    if not paths:
        raise DataError(f"{root / folder}: holds no picture")
    return [
        Sample(name=path.relative_to(root).as_posix(), path=path, kind=kind, category=category)
        for path in paths
    ]
