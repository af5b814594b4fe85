"""A kept frame as files to hand on: the picture, the heatmap laid over it, the header.

Knows how they are named and drawn. Does not know which frames are wanted.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
from dualkd.daemon.archive.index import ArchiveError
from dualkd.daemon.archive.names import utc_text
from dualkd.daemon.archive.reader import ArchiveReader, Record
from dualkd.daemon.frames import FrameError, read_image
from dualkd.daemon.heatmap import heatmap
from dualkd.daemon.messages import Box

Image = npt.NDArray[np.uint8]


def export_frame(reader: ArchiveReader, number: int, target: Path) -> list[Path]:
    """Write a frame's files into the folder `target` and return them. Raises ArchiveError, OSError.

    NAME.png or NAME.jpg, the picture as it is kept; NAME_heatmap.jpg, where there is a map; NAME.json, the
    header, or what the index knows where the header is lost.
    """
    record = reader.get(number)
    stem = _stem(record)
    header = record.header or msgspec.json.encode(record.entry)
    written = [target / f"{stem}.json"]
    written[0].write_bytes(msgspec.json.format(header, indent=2) + b"\n")
    picture = reader.read_picture(record.entry)
    if picture is None or record.entry.picture is None:
        return written
    written.append(target / f"{stem}{Path(record.entry.picture).suffix}")
    written[-1].write_bytes(picture)
    found = record.anomaly_map()
    if found is not None:
        anomaly_map, spec, region_threshold = found
        try:
            laid = overlay(read_image(written[-1]), anomaly_map, spec.covers, region_threshold)
        except FrameError as error:
            raise ArchiveError(f"frame {number}: {error}") from error
        path = target / f"{stem}_heatmap.jpg"
        path.write_bytes(cv2.imencode(".jpg", laid)[1].tobytes())
        written.append(path)
    return written


def overlay(
    picture: Image, anomaly_map: npt.NDArray[np.float32], covers: Box, region_threshold: float | None
) -> Image:
    """Return a copy of `picture` (BGR) with the heatmap of `anomaly_map` on the part that it covers.

    Raises FrameError for a part that lies outside the picture.
    """
    height, width = picture.shape[:2]
    right, bottom = covers.x_px + covers.width_px, covers.y_px + covers.height_px
    if not (0 <= covers.x_px < right <= width and 0 <= covers.y_px < bottom <= height):
        raise FrameError(f"the map covers {covers}, which lies outside the picture of {width} x {height}")
    laid = picture.copy()
    part = laid[covers.y_px : bottom, covers.x_px : right]
    colours = heatmap(anomaly_map, covers.width_px, covers.height_px, region_threshold)
    colours = np.asarray(cv2.resize(colours, (covers.width_px, covers.height_px)), np.uint8)
    part[...] = cv2.addWeighted(part, 0.5, colours, 0.5, 0.0)
    return laid


def _stem(record: Record) -> str:
    entry = record.entry
    if entry.picture is not None:
        return entry.picture.rpartition(".")[0].replace("/", "_")
    when = utc_text(entry.captured_utc_ns).rstrip("Z").replace("T", "_").replace(":", "")
    day, _, clock = when.partition("_")
    return f"{day}_{entry.camera}_{clock}_none{entry.id}_{entry.verdict}"
