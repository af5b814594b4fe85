"""dualkd-archive: what it lists, shows, exports and prunes, and how it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from archive_frames import MAP, header, noise
from dualkd.daemon.archive import Archive
from dualkd.daemon.archive.command import main
from dualkd.daemon.archive.export import overlay
from dualkd.daemon.config import ArchiveConfig
from dualkd.daemon.frames import FrameError
from dualkd.daemon.messages import Box

NOON_NS = 1_767_614_400 * 10**9  # 2026-01-05T12:00:00Z
HOUR_NS = 3600 * 10**9


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """FAIL at noon, a doubtful PASS at one, INVALID without a picture at two; the second from another camera."""
    made = Archive(ArchiveConfig(folder=str(tmp_path / "kept"), max_days=36_500), "test")
    made.open()
    made.offer(header(0, "FAIL", captured_utc_ns=NOON_NS, reason="a \x1b[31mscratch"), noise(), MAP)
    second = header(1, "PASS", doubtful=True, camera="side", captured_utc_ns=NOON_NS + HOUR_NS)
    made.offer(second, noise(), MAP)
    absent = header(None, "INVALID", captured_utc_ns=NOON_NS + 2 * HOUR_NS, reason="no frame in time")
    made.offer(absent, None, None)
    made.close()
    return tmp_path / "kept"


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([], [3, 2, 1]),
        (["--camera", "side"], [2]),
        (["--verdict", "FAIL"], [1]),
        (["--verdict", "DOUBTFUL"], [2]),
        (["--since", "2026-01-05T13:00:00Z"], [3, 2]),
        (["--until", "2026-01-05T14:00:00+01:00"], [1]),
        (["--since", "2026-01-05", "--until", "2026-01-06", "--limit", "1"], [3]),
    ],
)
def test_list_filters(
    folder: Path, filters: list[str], expected: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Every filter leaves out the others; times without an offset are UTC; newest first."""
    assert main(["list", str(folder), "--json", *filters]) == 0
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == expected


def test_list_is_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line a frame, and nothing in a reason can play with the terminal."""
    assert main(["list", str(folder)]) == 0
    out = capsys.readouterr().out
    head, *lines = out.splitlines()
    assert head.split() == ["ID", "TIME", "(UTC)", "CAMERA", "VERDICT", "SCORE", "REASON"]
    assert lines[2].split()[:6] == ["1", "2026-01-05", "12:00:00.000", "top", "FAIL", "0.750"]
    assert "PASS?" in lines[1]
    assert "\x1b" not in out


def test_no_match_has_its_own_status(folder: Path) -> None:
    """A script can tell an empty list from a full one."""
    assert main(["list", str(folder), "--camera", "nobody"]) == 1


def test_show_says_everything(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The header, readable, and where the picture lies."""
    assert main(["show", str(folder), "1"]) == 0
    out = capsys.readouterr().out
    assert str(folder / "2026-01-05/top_120000.000_0_FAIL.png") in out
    assert '"region_threshold": 0.5' in out


def test_export_writes_picture_heatmap_and_header(folder: Path, tmp_path: Path) -> None:
    """By filter or by id; a frame without a picture gives its header alone."""
    assert main(["export", str(folder), "--verdict", "FAIL", "--out", str(tmp_path / "a")]) == 0
    stem = "2026-01-05_top_120000.000_0_FAIL"
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == [f"{stem}.json", f"{stem}.png", f"{stem}_heatmap.jpg"]
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a" / f"{stem}.png")), noise())
    assert json.loads((tmp_path / "a" / f"{stem}.json").read_text())["frame_id"] == 0
    assert main(["export", str(folder), "3", "2", "--out", str(tmp_path / "b")]) == 0
    assert len(list((tmp_path / "b").iterdir())) == 4


def test_the_heatmap_lies_on_the_part_that_the_map_covers() -> None:
    """A recipe's region is coloured, the rest of the picture stays as it was."""
    picture = np.full((40, 60, 3), 100, np.uint8)
    laid = overlay(picture, MAP, Box(x_px=10, y_px=20, width_px=30, height_px=20), 0.5)
    changed = (laid != picture).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 39, 10, 39)
    with pytest.raises(FrameError, match="outside"):
        overlay(picture, MAP, Box(x_px=40, y_px=20, width_px=30, height_px=20), 0.5)


def test_prune_removes_the_oldest(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By age; a dry run only counts."""
    days = (time.time_ns() - NOON_NS - HOUR_NS // 2) / (24 * HOUR_NS)
    assert main(["prune", str(folder), "--older-than", str(days), "--dry-run"]) == 0
    assert "1 frames" in capsys.readouterr().out
    assert len(list(folder.glob("*/*"))) == 2
    assert main(["prune", str(folder), "--older-than", str(days)]) == 0
    assert main(["list", str(folder), "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [json.loads(line)["id"] for line in lines] == [3, 2]
    assert [path.name for path in folder.glob("*/*")] == ["side_130000.000_1_PASS.png"]


def test_prune_by_size_keeps_what_fits(tmp_path: Path) -> None:
    """The newest stay, and not one more goes than must."""
    made = Archive(ArchiveConfig(folder=str(tmp_path), queue=64), "test")
    made.open()
    for number in range(40):
        made.offer(header(number), noise(seed=number), MAP)
    made.close()
    assert main(["prune", str(tmp_path), "--max-mib", "1"]) == 0
    left = sorted(int(path.name.split("_")[2]) for path in tmp_path.glob("*/*"))
    assert left == list(range(40 - len(left), 40))
    taken = sum(-(-path.stat().st_size // 4096) * 4096 + 4096 for path in tmp_path.glob("*/*"))
    assert (1 << 20) - 64_000 < taken <= 1 << 20


@pytest.mark.parametrize(
    "words",
    [
        ["list", "FOLDER", "--since", "yesterday"],
        ["list", "FOLDER", "--limit", "0"],
        ["list", "FOLDER", "--verdict", "BAD"],
        ["show", "FOLDER", "one"],
        ["prune", "FOLDER", "--older-than", "-1"],
    ],
)
def test_what_makes_no_sense_is_a_usage_error(folder: Path, words: list[str]) -> None:
    """Status 2, from argparse, before anything is touched."""
    with pytest.raises(SystemExit) as ended:
        main([str(folder) if word == "FOLDER" else word for word in words])
    assert ended.value.code == 2


def test_export_and_prune_without_a_choice_do_nothing(folder: Path, tmp_path: Path) -> None:
    """Neither copies nor removes everything by accident."""
    assert main(["export", str(folder), "--out", str(tmp_path / "out")]) == 2
    assert main(["export", str(folder), "1", "--camera", "top", "--out", str(tmp_path / "out")]) == 2
    assert main(["prune", str(folder)]) == 2
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_archive_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 3, the folder is named, and no archive is begun there."""
    for words in (["list"], ["show", "1"], ["prune", "--max-mib", "1"]):
        assert main([words[0], str(tmp_path), *words[1:]]) == 3
        assert f"{tmp_path}: is no archive" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "index.sqlite").write_bytes(b"x" * 5000)
    assert main(["list", str(tmp_path)]) == 3
    assert "not a database" in capsys.readouterr().err


def test_a_frame_that_is_not_there_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 3; an export goes on with the others."""
    assert main(["show", str(folder), "77"]) == 3
    assert "no frame 77" in capsys.readouterr().err
    assert main(["export", str(folder), "77", "1", "--out", str(folder.parent / "out")]) == 3
    assert "1 frames exported" in capsys.readouterr().out


def test_a_reader_that_stops_early_is_no_error(folder: Path) -> None:
    """As in `dualkd-archive list FOLDER | head -1`: no traceback."""
    listing = [sys.executable, "-m", "dualkd.daemon.archive.command", "list", str(folder)]
    process = subprocess.Popen(listing, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait() == 0
    assert process.stderr.read() == b""
    process.stderr.close()
