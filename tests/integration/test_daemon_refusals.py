"""What the daemon refuses to do: each fault its own exit status and one clear line, no traceback."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import fakes
import pytest
from running import DaemonProcess


@pytest.fixture
def film(folder: Path) -> Path:
    return fakes.write_video(folder / "film.avi", [fakes.picture(fakes.DARK)] * 10)


def refused(daemon: DaemonProcess, status: int) -> str:
    """Run to the end; the one line of the error."""
    with daemon:
        assert daemon.wait() == status
    assert "Traceback" not in daemon.log
    lines = [line for line in daemon.log.splitlines() if line.startswith("dualkd-daemon: ")]
    assert len(lines) == 1, daemon.log
    return lines[0]


def test_a_missing_film_is_a_source_error(folder: Path, bundle: Path) -> None:
    """Status 5, naming the camera and the path."""
    said = refused(DaemonProcess(folder, bundle, [{"name": "cam", "source": "nowhere.mp4"}]), 5)
    assert "camera cam: nowhere.mp4: there is no such video file" in said


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="there is an NVIDIA driver here")
def test_a_gpu_engine_where_there_is_none_is_an_engine_error(folder: Path, bundle: Path, film: Path) -> None:
    """Status 4 and the way on; the CPU is not used behind the user's back."""
    cameras = [{"name": "cam", "source": str(film)}]
    said = refused(DaemonProcess(folder, bundle, cameras, engine={"kind": "tensorrt"}), 4)
    assert "no NVIDIA driver on this machine" in said
    assert "engine.kind: onnx" in said


def test_a_graph_that_does_not_load_is_an_engine_error(folder: Path, film: Path) -> None:
    """Its sum is right and its content is not: status 4."""
    bundle = fakes.write_bundle(folder / "bundle", graph=b"no graph")
    said = refused(DaemonProcess(folder, bundle, [{"name": "cam", "source": str(film)}]), 4)
    assert "does not load" in said


def test_a_precision_that_the_bundle_lacks_is_a_bundle_error(folder: Path, bundle: Path, film: Path) -> None:
    """fp16 asked for, fp32 there: status 3 naming what there is, no silent change of precision."""
    cameras = [{"name": "cam", "source": str(film)}]
    said = refused(DaemonProcess(folder, bundle, cameras, engine={"precision": "fp16"}), 3)
    assert "holds no fp16 graph (it has: fp32)" in said


def test_a_used_port_is_a_publisher_error(folder: Path, bundle: Path, film: Path) -> None:
    """Status 6, naming the endpoint and the keys to change."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        endpoint = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        cameras = [{"name": "cam", "source": str(film)}]
        said = refused(DaemonProcess(folder, bundle, cameras, publisher={"results": endpoint}), 6)
    assert endpoint in said
    assert "publisher.results" in said


def test_a_scores_path_that_is_taken_is_a_publisher_error(folder: Path, bundle: Path, film: Path) -> None:
    """The second socket's fault ends as orderly as the first's."""
    (folder / "scores").write_text("x")
    said = refused(DaemonProcess(folder, bundle, [{"name": "cam", "source": str(film)}]), 6)
    assert "there is a file that is no socket" in said


def test_a_film_without_its_index_is_a_source_error_and_ffmpeg_keeps_quiet(
    folder: Path, bundle: Path
) -> None:
    """A cut MP4 with its index at the end cannot be opened; our line says why, and is the only one."""
    film = fakes.write_video(folder / "film.mp4", [fakes.picture(fakes.DARK)] * 30, codec="mp4v")
    film.write_bytes(film.read_bytes()[:900])
    daemon = DaemonProcess(folder, bundle, [{"name": "cam", "source": str(film)}])
    assert "cannot be opened: the file is cut short, at least" in refused(daemon, 5)
    strange = [line for line in daemon.log.splitlines() if " INFO " not in line]
    assert len(strange) == 1


def test_no_subscriber_in_time_is_a_publisher_error(folder: Path, bundle: Path, film: Path) -> None:
    """Told to wait for a subscriber, the daemon does not replay the film to nobody."""
    cameras = [{"name": "cam", "source": str(film)}]
    said = refused(DaemonProcess(folder, bundle, cameras, publisher={"wait_timeout_s": 0.2}), 6)
    assert "0 of 1 subscriptions came within 0.2 s" in said


def test_a_wrong_configuration_names_every_mistake(folder: Path, bundle: Path) -> None:
    """Status 2, one line a mistake with file, line, key path and what is allowed."""
    config = folder / "wrong.yaml"
    config.write_text(
        "line: my line\n"
        f"recipes: {{default: {{bundle: {bundle}, fail: 0.5, warn: 0.6}}}}\n"
        "cameras:\n"
        "  - {name: a, source: x.mp4, slots: 1}\n"
        "engin: {kind: onnx}\n"
        "publisher: {results: udp://127.0.0.1:5571}\n"
    )
    command = [sys.executable, "-m", "dualkd.daemon", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 5, lines
    assert f"{config}:5: engin: unknown key; did you mean 'engine'?" in done.stderr
    assert f"{config}:1: line: got 'my line'" in done.stderr
    assert f"{config}:4: cameras.0.slots: got 1" in done.stderr
    assert f"{config}:2: recipes.default: warn must lie below fail, got 0.6 and 0.5" in done.stderr
    assert f"{config}:6: publisher: results: got 'udp://127.0.0.1:5571': expected ipc://PATH" in done.stderr


def test_other_hosts_are_not_served_without_keys(folder: Path, bundle: Path, film: Path) -> None:
    """Status 2 before anything is bound, naming the missing keys and how to make them."""
    cameras = [{"name": "cam", "source": str(film)}]
    said = refused(DaemonProcess(folder, bundle, cameras, publisher={"results": "tcp://0.0.0.0:5571"}), 2)
    assert "can be reached from other hosts, which needs curve.secret_key and curve.subscribers" in said
    assert "dualkd-ctl keygen" in said


def test_check_prints_the_effective_configuration() -> None:
    """--check shows defaults and overrides, touches nothing and ends with 0."""
    config = Path(__file__).parents[2] / "configs" / "daemon.yaml"
    command = [sys.executable, "-m", "dualkd.daemon", str(config), "--check", "--set", "cameras.0.slots=9"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "slots: 9" in done.stdout
    assert "heartbeat_s: 1.0" in done.stdout


def test_the_daemon_imports_no_training_stack() -> None:
    """With every module of the daemon imported, none of the training stack is."""
    code = (
        "import pkgutil, importlib, sys, dualkd.daemon as d\n"
        "for m in pkgutil.iter_modules(d.__path__): importlib.import_module('dualkd.daemon.' + m.name)\n"
        "heavy = {'torch', 'torchvision', 'timm', 'onnx', 'matplotlib', 'sklearn', 'safetensors'}\n"
        "print(sorted(n for n in sys.modules if n.split('.')[0] in heavy))\n"
        "print(sorted(n for n in sys.modules if n.startswith(('dualkd.train', 'dualkd.export'))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.splitlines() == ["[]", "[]"], done.stdout + done.stderr


def test_reading_messages_needs_neither_zmq_nor_opencv() -> None:
    """messages.py can be used by whoever got the bytes in another way."""
    code = (
        "import dualkd.daemon.messages, sys\n"
        "print(sorted(n for n in sys.modules if n.split('.')[0] in ('zmq', 'cv2', 'onnxruntime')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
