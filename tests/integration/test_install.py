"""What pip installs: every module, and a daemon that runs with the base dependencies alone."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from fakes import DARK, picture, write_bundle, write_video

ROOT = Path(__file__).resolve().parents[2]
FLOORS = ("configs", "daemon", "train", "export")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since a build folder of an earlier time would ship modules that are gone."""
    import shutil

    source = tmp_path_factory.mktemp("source")
    for name in (*FLOORS, "pyproject.toml", "README.md", "LICENSE"):
        path = ROOT / name
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(path, source / name, ignore=ignore) if path.is_dir() else shutil.copy(path, source)
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(out), str(source)], check=True)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_every_module_and_configuration(wheel: Path) -> None:
    """A subfolder that pyproject.toml does not list would import from a checkout and be missing here."""
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    for floor in FLOORS:
        for path in (ROOT / floor).rglob("*"):
            if path.suffix in (".py", ".yaml") or path.name == "py.typed":
                assert f"dualkd/{path.relative_to(ROOT)}" in packed
    assert not any(name.startswith(("tests/", "daemon/", "build/")) for name in packed)


def test_the_base_install_runs_the_daemon_without_the_training_stack(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own: no torch, no timm, no onnx, and a film is judged all the same."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(wheel)], check=True)
    listed = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "timm", "onnx", "matplotlib"} & {line.split()[0] for line in listed.splitlines()}
    film = write_video(tmp_path / "film.avi", [picture(DARK)] * 5)
    config = {
        "line": "base",
        "bundle": str(write_bundle(tmp_path / "bundle")),
        "cameras": [{"name": "cam", "source": str(film), "pace": "max"}],
        "publisher": {"results": f"ipc://{tmp_path}/r", "scores": f"ipc://{tmp_path}/s"},
    }
    (tmp_path / "daemon.yaml").write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [tmp_path / "venv/bin/dualkd-daemon", tmp_path / "daemon.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for command in ("dualkd-train", "dualkd-eval", "dualkd-export"):
        line = [tmp_path / "venv/bin" / command, "x", *(["--out", "y"] if command == "dualkd-export" else [])]
        refused = subprocess.run(line, capture_output=True, text=True, check=False)
        assert refused.returncode == 1
        assert "pip install '.[train]'" in refused.stderr
        assert "Traceback" not in refused.stderr
