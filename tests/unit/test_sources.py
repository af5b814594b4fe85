"""Films and folders as sources, and the faults that real files have."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import fakes
import numpy as np
import pytest
from dualkd.daemon.cameras.containers import missing_bytes
from dualkd.daemon.cameras.sources import Opening, Source, SourceError, comes_back, open_source
from dualkd.daemon.config import CameraConfig

FRAMES = 24
PICTURES = [fakes.picture(10 * index) for index in range(FRAMES)]


def read_all(source: Source) -> int:
    count = 0
    while source.grab():
        assert source.retrieve(None).image is not None
        count += 1
    return count


def with_index_first(film: Path) -> Path:
    """Move an MP4's index (moov) before its data, as files for streaming have it, so that a cut one opens."""
    raw = film.read_bytes()
    boxes: dict[bytes, bytes] = {}
    at = 0
    while at < len(raw):
        length, kind = struct.unpack(">I4s", raw[at : at + 8])
        boxes[kind] = raw[at : at + length]
        at += length
    index = bytearray(boxes[b"moov"])
    table = index.find(b"stco")
    for place in range(struct.unpack(">I", index[table + 8 : table + 12])[0]):
        here = slice(table + 12 + 4 * place, table + 16 + 4 * place)
        index[here] = struct.pack(">I", struct.unpack(">I", index[here])[0] + len(index))
    film.write_bytes(boxes.pop(b"ftyp") + bytes(index) + boxes.pop(b"free", b"") + boxes[b"mdat"])
    return film


FILMS = [("film.mp4", "mp4v"), ("first.mp4", "mp4v"), ("film.avi", "MJPG"), ("film.mkv", "MJPG")]


def film_of(tmp_path: Path, name: str, codec: str) -> Path:
    film = fakes.write_video(tmp_path / name, PICTURES, codec=codec)
    return with_index_first(film) if name.startswith("first") else film


@pytest.mark.parametrize(("name", "codec"), FILMS)
def test_a_whole_film_is_read_to_its_end(tmp_path: Path, name: str, codec: str) -> None:
    """Every frame, no complaint, at the pace that it was written with."""
    film = film_of(tmp_path, name, codec)
    assert missing_bytes(film) == 0
    source = open_source(Opening(str(film)))
    assert (source.live, source.fps) == (False, 25.0)
    assert read_all(source) == FRAMES
    source.close()


@pytest.mark.parametrize(("name", "codec"), FILMS)
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_film_that_was_cut_short_is_reported(tmp_path: Path, name: str, codec: str, share: float) -> None:
    """With its index at the end it does not open; else what is there is read, and then comes the error."""
    film = film_of(tmp_path, name, codec)
    raw = film.read_bytes()
    film.write_bytes(raw[: int(len(raw) * share)])
    assert missing_bytes(film) > 0
    if name == "film.mp4":
        with pytest.raises(SourceError, match="cannot be opened: the file is cut short"):
            open_source(Opening(str(film)))
        return
    source = open_source(Opening(str(film)))
    with pytest.raises(SourceError, match=r"ended after [1-9]\d* of 24 frames: the file is cut short"):
        read_all(source)
    source.close()


def test_a_film_damaged_inside_is_reported(tmp_path: Path) -> None:
    """Its length is right, but its second half was never written (zeros)."""
    film = with_index_first(fakes.write_video(tmp_path / "film.mp4", PICTURES * 3, codec="mp4v"))
    raw = film.read_bytes()
    film.write_bytes(raw[: len(raw) // 2] + bytes(len(raw) - len(raw) // 2))
    source = open_source(Opening(str(film)))
    with pytest.raises(SourceError, match=r"ended after \d+ of 72 frames, [\d.]+ s too early"):
        read_all(source)
    source.close()


def test_bytes_after_the_end_are_no_fault(tmp_path: Path) -> None:
    """Some recorders leave room behind the film."""
    film = fakes.write_video(tmp_path / "film.mkv", PICTURES)
    film.write_bytes(film.read_bytes() + bytes(1000))
    assert missing_bytes(film) == 0


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("film.mp4", b"no film at all, but words", "cannot be opened"),
        ("film.avi", b"", "cannot be opened"),
        ("picture.png", b"x", "is a single picture; give the folder"),
        ("nothing.mp4", None, "there is no such video file"),
    ],
)
def test_what_is_no_film_is_refused(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    """Words, an empty file, a picture, nothing there: each named, none opened."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=said):
        open_source(Opening(str(tmp_path / name)))


def test_a_folder_without_an_image_is_refused(tmp_path: Path) -> None:
    """It says what would count as one."""
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(SourceError, match=r"holds no image \(\.png"):
        open_source(Opening(str(tmp_path)))


def test_a_folder_is_read_by_name_with_faults_in_their_place(tmp_path: Path) -> None:
    """b.png is no picture: it is delivered, in its turn, with what is wrong with it."""
    fakes.write_folder(tmp_path, [fakes.picture(7)])
    (tmp_path / "b.png").write_bytes(b"rubbish")
    (tmp_path / "c.jpg").write_bytes(b"")
    source = open_source(Opening(str(tmp_path)))
    delivered = []
    while source.grab():
        delivered.append(source.retrieve(None))
    assert [picture.name for picture in delivered] == ["0000.png", "b.png", "c.jpg"]
    assert delivered[0].image is not None
    np.testing.assert_array_equal(delivered[0].image, fakes.picture(7))
    assert all(picture.image is None and "does not decode" in picture.fault for picture in delivered[1:])


def test_a_film_decodes_into_the_memory_it_is_given(tmp_path: Path) -> None:
    """No copy where the shape fits: shared memory is written by the decoder itself."""
    source = open_source(Opening(str(fakes.write_video(tmp_path / "film.avi", [fakes.picture(200)]))))
    target = np.zeros((96, 128, 3), np.uint8)
    assert source.grab()
    image = source.retrieve(target).image
    assert image is not None
    assert np.may_share_memory(image, target)
    assert target.mean() == pytest.approx(200, abs=3)
    source.close()


@pytest.mark.parametrize(
    ("source", "follow", "expected"),
    [
        (0, False, True),
        ("/dev/video7", False, True),
        ("rtsp://camera/stream", False, True),
        ("videotestsrc ! appsink", False, True),
        ("folder", True, True),
        ("folder", False, False),
        ("film.mp4", False, False),
    ],
)
def test_what_may_be_away_is_told_by_its_name(source: int | str, follow: bool, expected: bool) -> None:
    """For what is unplugged cannot be looked at."""
    assert comes_back(CameraConfig(name="cam", source=source, follow=follow)) is expected


@pytest.mark.parametrize("source", ["/dev/video99", "99", "http://127.0.0.1:9/x.mjpg"])
def test_a_camera_that_is_not_there_is_told(source: str) -> None:
    """By its name, as it was written."""
    with pytest.raises(SourceError, match=f"^{source}: cannot be opened; is it there"):
        open_source(Opening(source, open_timeout_s=5.0))


def test_a_password_is_not_told() -> None:
    """What is said of a stream goes to logs and subscribers."""
    with pytest.raises(SourceError, match=r"http://\*\*\*@127\.0\.0\.1:9/x: cannot be opened") as caught:
        open_source(Opening("http://user:se@cret@127.0.0.1:9/x", open_timeout_s=5.0))
    assert "cret" not in str(caught.value)


@pytest.mark.skipif(cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER), reason="this OpenCV has GStreamer")
def test_a_pipeline_needs_an_opencv_with_gstreamer() -> None:
    """And it is said where to find one."""
    with pytest.raises(SourceError, match=r"was built without GStreamer .*install the system's OpenCV"):
        open_source(Opening("videotestsrc ! videoconvert ! appsink"))
