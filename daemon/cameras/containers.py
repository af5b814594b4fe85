"""Whether a video file is as long as its own container says.

Reads only the outermost lengths of MP4/MOV, AVI and Matroska files: enough to tell a file that was cut
short (a broken copy, a recorder that lost power) from one whose frame count is merely an estimate.
Decodes nothing.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_MP4_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")
_MAX_BOXES = 1 << 20  # a day of fragments; a file that is nothing but lengths has no end worth seeking
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def missing_bytes(path: Path) -> int:
    """Return how many bytes, at least, the container says are missing; 0 if whole or of another kind."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        file.seek(0)
        if head[4:8] in _MP4_FIRST_BOXES:
            end = _mp4_end(file, size)
        elif head[:4] == b"RIFF":
            end = _riff_end(file, size)
        elif head[:4] == _EBML:
            end = _matroska_end(file)
        else:
            end = 0
    return max(0, end - size)


def _mp4_end(file: BinaryIO, size: int) -> int:
    at = 0
    for _ in range(_MAX_BOXES):
        header = _header(file, at, size)
        if len(header) < 8:
            return at
        length = int(struct.unpack(">I", header[:4])[0])
        if length == 1 and len(header) == 16:
            length = int(struct.unpack(">Q", header[8:])[0])
        if length < 8:  # 0: up to the end of the file; else no box at all
            return size
        at += length
    return size


def _riff_end(file: BinaryIO, size: int) -> int:
    at = 0
    for _ in range(_MAX_BOXES):
        header = _header(file, at, size)
        if len(header) < 8:
            return at
        name, length = struct.unpack("<4sI", header[:8])
        if name != b"RIFF" or length == 0:  # 0: the writer never came back to fill it in
            return size
        at += 8 + int(length)
    return size


def _header(file: BinaryIO, at: int, size: int) -> bytes:
    """Up to 16 bytes, fewer than 8 past the end, of a file that may meanwhile be shorter than `size`."""
    if at + 8 > size:
        return b""
    file.seek(at)
    return file.read(16)


def _matroska_end(file: BinaryIO) -> int:
    for name in (_EBML, _SEGMENT):
        if file.read(4) != name:
            return 0
        length = _ebml_length(file)
        if length is None:
            return 0
        if name == _EBML:
            file.seek(length, 1)
    return file.tell() + length if length is not None else 0


def _ebml_length(file: BinaryIO) -> int | None:
    """Read a variable-length integer; None for "unknown" (a live recording) or nonsense."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    extra = 8 - first[0].bit_length()
    raw = bytes([first[0] & ((1 << (7 - extra)) - 1)]) + file.read(extra)
    value = int.from_bytes(raw, "big")
    return None if value == (1 << (7 * (extra + 1))) - 1 else value
