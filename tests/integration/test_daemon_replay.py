"""The daemon as a process on real films and folders, heard through real sockets."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import fakes
from hearing import Ear
from notify_socket import NotifySocket
from running import DaemonProcess, alive, receive_to_the_end, wait_until


def blinking(frames: int) -> list[fakes.Image]:
    """Dark pictures, of which every fifth has a bright square in its lower right quarter."""
    dark = fakes.picture(fakes.DARK)
    return [fakes.with_square(dark, 80, 56, 32) if index % 5 == 3 else dark for index in range(frames)]


def test_every_frame_of_a_film_ends_in_exactly_one_message(folder: Path, bundle: Path) -> None:
    """60 frames in, 60 messages out on both sockets, gapless, each with the verdict its picture deserves."""
    film = fakes.write_video(folder / "film.mp4", blinking(60), codec="mp4v")
    daemon = DaemonProcess(
        folder,
        bundle,
        [{"name": "cam", "source": str(film), "pace": "max"}],
        publisher={"wait_for_subscribers": 2},
    )
    with daemon, daemon.subscriber() as results_in, daemon.subscriber(daemon.scores) as scores_in:
        results, statuses = receive_to_the_end(results_in)
        scores, _ = receive_to_the_end(scores_in)
        assert daemon.wait() == 0
    assert [result.header.seq for result in results] == list(range(60))
    assert [result.header.frame_id for result in results] == list(range(60))
    assert [result.header for result in scores] == [result.header for result in results]
    assert all(result.anomaly_map is None for result in scores)
    verdicts = [result.header.verdict for result in results]
    assert verdicts == ["FAIL" if index % 5 == 3 else "PASS" for index in range(60)]
    failed = results[3]
    assert failed.anomaly_map is not None
    assert failed.anomaly_map.shape == (8, 8)
    assert failed.anomaly_map[6, 6] > 0.7 > 0.3 > failed.anomaly_map[0, 0]
    (box,) = failed.header.regions
    assert (box.x_px, box.y_px, box.width_px, box.height_px) == (80, 60, 32, 24)
    totals = statuses[-1].header.cameras["cam"]
    assert (totals.captured, totals.passed, totals.failed, totals.invalid) == (60, 48, 12, 0)
    assert statuses[-1].header.exit_status == 0
    assert [status.header.seq for status in statuses] == list(range(len(statuses)))


def test_a_picture_that_does_not_decode_is_invalid_and_the_rest_is_judged(folder: Path, bundle: Path) -> None:
    """Pictures of different sizes, one of them rubbish: each gets its own message, beside another camera."""
    pictures = fakes.write_folder(
        folder / "pictures",
        [fakes.picture(fakes.DARK), fakes.picture(fakes.BRIGHT, 640, 480), fakes.picture(fakes.DARK)],
    )
    (pictures / "0001a.png").write_bytes(b"\x89PNG\r\n\x1a\n rubbish")
    film = fakes.write_video(folder / "film.avi", blinking(20))
    cameras = [
        {"name": "stills", "source": str(pictures)},
        {"name": "film", "source": str(film), "pace": "max"},
    ]
    with DaemonProcess(folder, bundle, cameras) as daemon, daemon.subscriber() as subscriber:
        results, _ = receive_to_the_end(subscriber)
        assert daemon.wait() == 0
    stills = [result.header for result in results if result.header.camera == "stills"]
    assert [header.verdict for header in stills] == ["PASS", "FAIL", "INVALID", "PASS"]
    assert [header.seq for header in stills] == [0, 1, 2, 3]
    assert [header.source_name for header in stills] == ["0000.png", "0001.png", "0001a.png", "0002.png"]
    assert "does not decode" in stills[2].reason
    assert stills[2].score is None
    assert stills[2].frame is None
    assert stills[1].frame is not None
    assert (stills[1].frame.width_px, stills[1].regions[0].width_px) == (640, 640)
    films = [result.header.seq for result in results if result.header.camera == "film"]
    assert films == list(range(20))


def test_sigterm_drains_and_says_so_to_systemd(folder: Path, bundle: Path) -> None:
    """Stopped in mid-film, the daemon judges what it captured, closes its accounts and ends with 0."""
    film = fakes.write_video(folder / "film.avi", blinking(2000))
    daemon = DaemonProcess(folder, bundle, [{"name": "cam", "source": str(film)}])  # at its own pace: 80 s
    with NotifySocket(folder) as systemd:
        daemon.environment = systemd.environment
        with daemon, Ear(daemon.results) as ear:
            ear.judged()
            daemon.terminate()
            last = ear.to_the_end()
            assert daemon.wait() == 0
        told = [line for message in systemd.messages for line in message.lines if line.endswith("=1")]
    assert told == ["READY=1", "STOPPING=1"]
    assert 1 <= last.cameras["cam"].captured < 2000
    assert last.cameras["cam"].captured == len(ear.results)
    assert [status.state for status in ear.statuses][-2:] == ["draining", "ended"]


def test_a_killed_daemon_leaves_nothing_behind(folder: Path, bundle: Path) -> None:
    """After SIGKILL the capture process goes too, no shared memory is left, the endpoints are free again."""
    film = fakes.write_video(folder / "film.avi", blinking(500))
    shared_before = set(Path("/dev/shm").iterdir())
    cameras = [{"name": "cam", "source": str(film)}]
    with DaemonProcess(folder, bundle, cameras) as daemon, daemon.subscriber() as subscriber:
        next(iter(subscriber))
        (capture,) = daemon.capture_pids()
        daemon.process.kill()
        wait_until(lambda: not alive(capture), "the capture process ends with its parent")
    assert set(Path("/dev/shm").iterdir()) <= shared_before
    cameras[0]["pace"] = "max"
    with DaemonProcess(folder, bundle, cameras) as daemon, daemon.subscriber() as subscriber:
        results, _ = receive_to_the_end(subscriber)
        assert daemon.wait() == 0
    assert len(results) == 500


def test_the_daemon_starts_lean_and_its_memory_stays_flat(folder: Path, bundle: Path) -> None:
    """Under 3 s of work to the first frame; 350 pictures of 640 x 480 later it is no bigger than after 50."""
    dark = fakes.picture(fakes.DARK, 640, 480)
    film = fakes.write_video(folder / "film.avi", [dark] * 400)
    slow = fakes.write_video(folder / "slow.avi", blinking(2000))  # keeps the daemon alive
    cameras = [{"name": "cam", "source": str(film), "pace": "max"}, {"name": "slow", "source": str(slow)}]
    with DaemonProcess(folder, bundle, cameras) as daemon, daemon.subscriber() as subscriber:
        pid = daemon.process.pid
        sizes_mib = []
        for result in subscriber:
            if result.header.camera != "cam":
                continue
            if result.header.seq == 0:
                ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
                assert sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK") < 3.0
            if result.header.seq in (50, 399):
                sizes_mib.append(daemon.resident_mib())
            if len(sizes_mib) == 2:
                break
    assert sizes_mib[1] - sizes_mib[0] < 8.0


def test_frames_arrive_at_the_films_own_pace(folder: Path, bundle: Path) -> None:
    """At `pace: source` a second of film takes a second."""
    film = fakes.write_video(folder / "film.avi", blinking(26), fps=25.0)
    cameras = [{"name": "cam", "source": str(film), "pace": "source"}]
    with DaemonProcess(folder, bundle, cameras) as daemon, daemon.subscriber() as subscriber:
        results, _ = receive_to_the_end(subscriber)
        assert daemon.wait() == 0
    took_s = (results[-1].header.captured_mono_ns - results[0].header.captured_mono_ns) / 1e9
    assert len(results) == 26
    assert 0.9 < took_s < 3.0  # never faster; on a busy machine slower


def test_opencv_reads_what_the_fakes_write(folder: Path) -> None:
    """The films of these tests are real: their frames come back as bright or dark as they went in."""
    film = fakes.write_video(folder / "film.mp4", blinking(5), codec="mp4v")
    capture = cv2.VideoCapture(str(film))
    greys = [float(capture.read()[1][80, 100].mean()) for _ in range(5)]
    capture.release()
    assert [round(grey / 10) for grey in greys] == [4, 4, 4, 22, 4]
