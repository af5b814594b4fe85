"""Whether every picture and mask of some tasks can be read, found out before any of them is trained.

Knows samples. Does not know layouts: what files there should be is said where a benchmark is opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dualkd.daemon.frames import FrameError, read_image
from dualkd.train.archives import ArchiveError, ArchiveFormat, read_pictures
from dualkd.train.datasets import DataError, Sample, Task, read_full_mask
from tqdm import tqdm

READERS = min(8, os.cpu_count() or 1)  # threads; OpenCV decodes outside the interpreter's lock


def check_tasks(tasks: Iterable[Task]) -> None:
    """Decode every distinct picture and mask of the tasks once, with progress. Raises DataError with all problems.

    Frames of films are left out: they can be read only in turn, and training reads all before its first step.
    """
    masks: dict[Path, set[Path]] = {}  # of each picture
    rows: dict[tuple[Path, ArchiveFormat], int] = {}  # the last one that is used
    for sample in _distinct(tasks):
        if sample.container is None:
            masks.setdefault(sample.path, set()).update([sample.mask] if sample.mask else [])
        elif sample.container != "video":
            key = (sample.path, sample.container)
            rows[key] = max(rows.get(key, 0), sample.index or 0)
    problems = [problem for (path, kind), row in rows.items() for problem in _check_archive(path, kind, row)]
    pool = ThreadPoolExecutor(READERS, "check")
    try:
        found = pool.map(_check_picture, masks.keys(), masks.values())
        for some in tqdm(found, total=len(masks), desc="checking", unit="image", disable=None):
            problems += some
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for all that is queued
    if problems:
        raise DataError.of(problems)


def _distinct(tasks: Iterable[Task]) -> Iterable[Sample]:
    seen: set[int] = set()  # tasks share their samples
    for task in tasks:
        for sample in (*task.dataset.train, *task.dataset.held_out, *task.dataset.test):
            if id(sample) not in seen:
                seen.add(id(sample))
                yield sample


def _check_archive(path: Path, kind: ArchiveFormat, last_row: int) -> list[str]:
    try:
        count = len(read_pictures(path, kind))
    except ArchiveError as error:
        return [str(error)]
    if last_row >= count:
        return [f"{path}: holds {count} pictures, but there are labels for {last_row + 1}"]
    return []


def _check_picture(path: Path, masks: Iterable[Path]) -> list[str]:
    problems = []
    shape = None
    try:
        shape = read_image(path).shape[:2]
    except FrameError as error:
        problems.append(str(error))
    for mask in sorted(masks):
        try:
            mask_shape = read_full_mask(mask).shape
        except DataError as error:
            problems.append(str(error))
            continue
        if shape is not None and mask_shape != shape:
            (height, width), (mask_height, mask_width) = shape, mask_shape
            problems.append(
                f"{mask}: is {mask_width}x{mask_height}, but its picture {path.name} is {width}x{height}"
            )
    return problems
