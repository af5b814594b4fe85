"""Frames to archive, and disks to archive them on, for tests."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from dualkd.daemon.messages import Box, FrameSize, MapSpec, ResultHeader
from dualkd.daemon.records import Outcome
from headers import result_header

MAP = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)

Image = npt.NDArray[np.uint8]


def noise(width: int = 128, height: int = 96, seed: int = 0) -> Image:
    """A picture that no encoder makes much smaller: as PNG about its raw size, here 36 KiB."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def header(
    frame_id: int | None = 0,
    verdict: Outcome = "FAIL",
    *,
    camera: str = "top",
    doubtful: bool = False,
    captured_utc_ns: int | None = None,
    reason: str = "",
    size: tuple[int, int] = (128, 96),
    job_id: str | None = None,
) -> ResultHeader:
    """A frame's header as the service would publish it."""
    width, height = size
    box = Box(x_px=0, y_px=0, width_px=width, height_px=height)
    return result_header(
        line="test",
        camera=camera,
        frame_id=frame_id,
        job_id=job_id,
        captured_utc_ns=time.time_ns() if captured_utc_ns is None else captured_utc_ns,
        captured_mono_ns=time.monotonic_ns(),
        verdict=verdict,
        reason=reason,
        doubtful=doubtful,
        score=None if verdict == "INVALID" else 0.75,
        region_threshold=0.5,
        frame=FrameSize(width_px=width, height_px=height),
        map=MapSpec(covers=box, shape=(8, 8)),
    )


def command(*words: str | Path) -> None:
    subprocess.run([str(word) for word in words], check=True, capture_output=True)


def need_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may mount disks")


def mount_or_skip(*words: str | Path) -> None:
    """Mount; skip the test where a container does not let root do it."""
    need_root()
    result = subprocess.run(["mount", *map(str, words)], capture_output=True, text=True)
    if result.returncode:
        pytest.skip(f"this machine may not mount: {result.stderr.strip()}")


@contextmanager
def small_disk(place: Path, mib: int) -> Iterator[Path]:
    """A disk of its own, in memory."""
    place.mkdir()
    mount_or_skip("-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", place)
    try:
        yield place
    finally:
        command("umount", "-l", place)


@contextmanager
def file_system(place: Path, mib: int = 24) -> Iterator[Path]:
    """An ext4 that goes read-only at its first error, as on a line PC."""
    image = place.with_name(place.name + ".img")
    with image.open("wb") as file:
        file.truncate(mib << 20)
    need_root()
    try:
        command("mkfs.ext4", "-q", "-F", image)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no ext4 can be made here: {error}")
    place.mkdir()
    mount_or_skip("-o", "loop,errors=remount-ro", image, place)
    try:
        yield place
    finally:
        command("umount", "-l", place)


def loop_of(place: Path) -> str:
    """The name of the device that `place` is mounted from."""
    for line in Path("/proc/mounts").read_text().splitlines():
        device, where, *_ = line.split()
        if where == str(place):
            return Path(device).name
    raise LookupError(place)
