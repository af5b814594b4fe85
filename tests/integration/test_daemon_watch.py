"""dualkd-watch as a process, against a daemon as a process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import fakes
from running import PATIENCE_S, DaemonProcess, short_folder


def watch(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dualkd.daemon.watch", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_watch_shows_every_verdict_and_saves_every_heatmap(tmp_path: Path) -> None:
    """A JSON line and a PNG for each frame; the bright square is red in its heatmap, good parts are blue."""
    dark = fakes.picture(fakes.DARK)
    with short_folder() as folder:
        film = fakes.write_video(folder / "film.avi", [dark, fakes.with_square(dark, 80, 56, 32), dark])
        bundle = fakes.write_bundle(folder / "bundle")
        with DaemonProcess(folder, bundle, [{"name": "cam", "source": str(film), "pace": "max"}]) as daemon:
            done = watch(
                daemon.results, "--json", "--until-ended", "--timeout", "60", "--save", str(tmp_path / "maps")
            )
            assert daemon.wait() == 0
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    verdicts = [line["verdict"] for line in lines if line["kind"] == "result"]
    assert verdicts == ["PASS", "FAIL", "PASS"]
    assert lines[-1]["kind"] == "status"
    assert lines[-1]["state"] == "ended"
    assert "3 verdicts" in done.stderr
    assert "0 messages lost" in done.stderr
    names = sorted(path.name for path in (tmp_path / "maps").iterdir())
    assert names == ["cam_00000000_PASS.png", "cam_00000001_FAIL.png", "cam_00000002_PASS.png"]
    heatmap = cv2.imread(str(tmp_path / "maps" / names[1]))
    assert heatmap.shape == (96, 128, 3)
    blue, _, red = (int(channel) for channel in heatmap[72, 96])
    assert red > blue + 100
    blue, _, red = (int(channel) for channel in heatmap[10, 10])
    assert blue > red + 100


def test_watch_says_when_nothing_comes() -> None:
    """With --timeout and no daemon, status 1 and a line saying so."""
    with short_folder() as folder:
        done = watch(f"ipc://{folder}/nobody", "--timeout", "0.2")
    assert done.returncode == 1
    assert "nothing came within 0.2 s" in done.stderr


def test_watch_prints_a_readable_line_a_verdict_without_colours_in_a_pipe() -> None:
    """What a person reads: camera, frame, verdict, score, milliseconds; --count ends it."""
    with short_folder() as folder:
        film = fakes.write_video(folder / "film.avi", [fakes.picture(fakes.BRIGHT)] * 5)
        bundle = fakes.write_bundle(folder / "bundle")
        with DaemonProcess(folder, bundle, [{"name": "cam", "source": str(film), "pace": "max"}]) as daemon:
            done = watch(daemon.scores, "--count", "5", "--timeout", "60")
            assert daemon.wait() == 0
    assert done.returncode == 0, done.stderr
    verdicts = [line for line in done.stdout.splitlines() if not line.startswith("  --")]
    assert len(verdicts) == 5
    assert all("FAIL" in line and "cam" in line and " ms" in line for line in verdicts)
    assert "\033" not in done.stdout


def test_watch_refuses_what_is_no_endpoint() -> None:
    """A wrong address is a usage error, status 2."""
    done = watch("nonsense")
    assert done.returncode == 2
    assert "no endpoint" in done.stderr
