"""Whatever is on the disk: manifests, films, pictures and data sets are read or refused."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from dualkd.daemon.bundle import FileName, Manifest
from dualkd.daemon.cameras.containers import missing_bytes
from dualkd.daemon.frames import FrameError, read_image
from dualkd.train.archives import ArchiveError, read_idx
from fuzz.targets import (
    archive_seeds,
    check_archive,
    check_container,
    check_image,
    check_manifest,
    container_seeds,
    image_seeds,
    manifest_seeds,
)
from fuzz.trees import slips
from hypothesis import given, settings
from hypothesis import strategies as st

quick = settings(max_examples=200, derandomize=True, deadline=None)


def damaged(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """One of the seeds, cut, with a few bytes written over, or as it is."""

    def damage(seed: bytes, cut: int, patch: bytes, at: int) -> bytes:
        patched = seed[: at % (len(seed) + 1)] + patch + seed[at % (len(seed) + 1) + len(patch) :]
        return patched[: len(patched) - cut % (len(patched) + 1)]

    numbers = st.integers(0, 100_000)
    return st.builds(damage, st.sampled_from(seeds), st.just(0) | numbers, st.binary(max_size=8), numbers)


@quick
@given(st.binary(max_size=300) | damaged(manifest_seeds()) | slips(Manifest).map(msgspec.json.encode))
def test_any_manifest_is_read_or_refused(data: bytes) -> None:
    """And one that is read names files of its own folder only."""
    check_manifest(data)


@quick
@given(st.text(max_size=12) | st.sampled_from(["..", ".", "a/b", "/etc/passwd", "a\0", "a\n", "C:\\x", ""]))
def test_a_file_name_is_one_plain_name(name: str) -> None:
    """No separator, no way up, nothing hidden, nothing that does not print."""
    try:
        msgspec.convert(name, FileName)
    except msgspec.ValidationError:
        return
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*", name)
    assert Path("folder", name).parent == Path("folder")


@quick
@given(st.binary(max_size=100) | damaged(container_seeds()))
def test_any_film_has_a_number_of_missing_bytes(data: bytes) -> None:
    """No length in it sends the reader astray."""
    check_container(data)


@pytest.mark.parametrize(
    ("box", "long"), [(b"\0\0\0\x08free", b"\0\xff\0\0mdat"), (b"RIFF\x01\0\0\0\0", b"RIFF\0\0\xff\0")]
)
def test_a_film_of_nothing_but_lengths_is_given_up(tmp_path: Path, box: bytes, long: bytes) -> None:
    """A sparse file is large at no cost; so many boxes are not walked to the last, which is too long."""
    film = tmp_path / "film"
    film.write_bytes(box * 1000 + long)
    assert missing_bytes(film) > 0
    film.write_bytes(box * (1 << 20) + long)
    assert missing_bytes(film) == 0


def test_a_film_that_shrinks_while_it_is_looked_at_is_no_error(tmp_path: Path) -> None:
    """Its size was told, and then it has fewer bytes."""

    class Shrinking(type(Path())):  # type: ignore[misc]
        def stat(self, **options: Any) -> Any:
            told = super().stat(**options)
            Path(str(self)).write_bytes(b"\0\0\0\x08ftyp")
            return told

    film = tmp_path / "film"
    film.write_bytes(b"\0\0\0\x08ftyp" + b"\0\0\0\x08free" * 4)
    assert missing_bytes(Shrinking(film)) == 0


@quick
@given(st.binary(max_size=100) | damaged(image_seeds()))
def test_any_picture_is_decoded_or_refused(data: bytes) -> None:
    """BGR, or the promised error."""
    check_image(data)


def test_a_picture_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    """Files of a hundred bytes that promise 3,600 and 400 megapixels; nothing is allocated for them."""
    said = "does not decode as an image: OpenCV asks that pixels <= CV_IO_MAX_IMAGE_PIXELS"
    huge, large = tmp_path / "huge.png", tmp_path / "large.png"
    huge.write_bytes(png(60_000, 60_000))
    with pytest.raises(FrameError, match=said):
        read_image(huge)
    large.write_bytes(png(20_000, 20_000))
    command = "import sys; from dualkd.daemon.frames import *; read_image(Path(sys.argv[1]))"
    alone = subprocess.run(
        [sys.executable, "-c", command, large], capture_output=True, text=True, check=False
    )
    assert said in alone.stderr


def png(width: int, height: int) -> bytes:
    """A PNG whose header promises so many pixels, and whose data has none of them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@quick
@given(st.binary(max_size=100) | damaged(archive_seeds()))
def test_any_archive_is_read_or_refused(data: bytes) -> None:
    """An array with the wanted dimensions, or the promised error."""
    check_archive(data)


def test_an_archive_whose_size_overflows_is_refused(tmp_path: Path) -> None:
    """2^31 x 2^31 x 4 values are none in 64 bits, which is what the file has."""
    archive = tmp_path / "archive"
    archive.write_bytes(b"\0\0\x08\x03" + struct.pack(">III", 1 << 31, 1 << 31, 4))
    with pytest.raises(ArchiveError, match="but has 0 of them"):
        read_idx(archive, 3)
