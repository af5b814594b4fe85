"""A picture with its verdict and its map as one piece of bytes for the page: live ones and archived ones alike.

4 bytes, little-endian: the length of the JSON that follows
JSON: {"number", "type", "picture_bytes", "result", "map"}; `result` is the verdict's header as published,
    `map` null or {"height", "width", "covers"}
the picture, as a file (`type` is its media type)
the map, a byte a cell, row by row: 0 is no distance, 255 twice the region threshold or more
"""

from __future__ import annotations

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
from dualkd.daemon.archive.index import ArchiveError
from dualkd.daemon.archive.reader import ArchiveReader, Record
from dualkd.daemon.client import Preview
from dualkd.daemon.messages import Box, MapSpec

THUMBNAIL_PX = 320
_MEDIA_TYPES = {"png": "image/png", "jpg": "image/jpeg"}
_BOX_BGR = (60, 60, 230)


class MapPlace(msgspec.Struct, frozen=True, kw_only=True):
    """The map's size, and what part of the camera's picture it covers."""

    height: int
    width: int
    covers: Box


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    number: int
    type: str
    picture_bytes: int
    result: msgspec.Raw
    map: MapPlace | None


class _Boxes(msgspec.Struct, frozen=True):
    regions: list[Box] = []


def of_preview(number: int, preview: Preview) -> bytes:
    """A live picture; `number` tells it from the ones before."""
    result = preview.header.result
    cells = None
    if preview.anomaly_map is not None and result.map is not None:
        cells = _cells(preview.anomaly_map, result.map, result.region_threshold)
    return _pack(number, "image/jpeg", preview.jpeg, msgspec.Raw(msgspec.json.encode(result)), cells)


def of_record(reader: ArchiveReader, record: Record) -> bytes:
    """An archived picture. Raises ArchiveError, which says so too where there is none."""
    picture, media_type = _picture(reader, record)
    found = record.anomaly_map()
    header = msgspec.Raw(record.header or msgspec.json.encode(record.entry))
    return _pack(record.entry.id, media_type, picture, header, None if found is None else _cells(*found))


def thumbnail(reader: ArchiveReader, record: Record) -> bytes:
    """A small JPEG of an archived picture, the anomalous places framed. Raises ArchiveError."""
    picture, _ = _picture(reader, record)
    image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ArchiveError(f"frame {record.entry.id}: its picture cannot be decoded")
    height, width = image.shape[:2]
    share = min(1.0, THUMBNAIL_PX / max(height, width))
    size = (max(1, round(width * share)), max(1, round(height * share)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    for box in _boxes(record):
        corner = (round(box.x_px * share), round(box.y_px * share))
        opposite = (round((box.x_px + box.width_px) * share), round((box.y_px + box.height_px) * share))
        cv2.rectangle(small, corner, opposite, _BOX_BGR, 2)
    return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()


def _boxes(record: Record) -> list[Box]:
    try:
        return [] if record.header is None else msgspec.json.decode(record.header, type=_Boxes).regions
    except msgspec.MsgspecError as error:
        raise ArchiveError(f"frame {record.entry.id}: its header cannot be read: {error}") from error


def _picture(reader: ArchiveReader, record: Record) -> tuple[bytes, str]:
    picture = reader.read_picture(record.entry)
    if picture is None or record.entry.picture is None:
        raise ArchiveError(f"frame {record.entry.id}: has no picture")
    return picture, _MEDIA_TYPES[record.entry.picture.rpartition(".")[2]]


def _cells(
    anomaly_map: npt.NDArray[np.float32], spec: MapSpec, region_threshold: float | None
) -> tuple[MapPlace, bytes]:
    top = 2 * region_threshold if region_threshold else 1.0
    unit = np.clip(np.nan_to_num(anomaly_map / top, nan=1.0), 0.0, 1.0)  # what is no number is not good
    height, width = spec.shape
    place = MapPlace(height=height, width=width, covers=spec.covers)
    return place, (unit * 255).astype(np.uint8).tobytes()


def _pack(
    number: int, media_type: str, picture: bytes, result: msgspec.Raw, cells: tuple[MapPlace, bytes] | None
) -> bytes:
    place, values = (None, b"") if cells is None else cells
    head = msgspec.json.encode(
        _Head(number=number, type=media_type, picture_bytes=len(picture), result=result, map=place)
    )
    return b"".join((len(head).to_bytes(4, "little"), head, picture, values))
