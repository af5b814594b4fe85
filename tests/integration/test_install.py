"""What pip installs: every module, and a daemon that runs with the base dependencies alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from fakes import DARK, picture, write_bundle, write_video
from running import short_folder

ROOT = Path(__file__).resolve().parents[2]
FLOORS = ("configs", "daemon", "train", "export")
UNITS = ("dualkd@.service", "dualkd-replay@.service", "dualkd-bridge@.service", "dualkd-view.service")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since a build folder of an earlier time would ship modules that are gone."""
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


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root that `make install DESTDIR=...` fills, dependencies and all."""
    root = tmp_path_factory.mktemp("root")
    configured = root / "etc/dualkd/line1.yaml"
    configured.parent.mkdir(parents=True)
    configured.write_text("mine")
    made = make("install", root)
    assert made.returncode == 0, made.stderr
    return root


def make(target: str, root: Path) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", target, f"DESTDIR={root}", f"PYTHON={sys.executable}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_make_install_puts_everything_where_systemd_looks(installed: Path) -> None:
    """Programs that name their place without DESTDIR, units, user, folders; a configuration is left alone."""
    program = (installed / "opt/dualkd/bin/dualkd-daemon").read_text()
    assert str(installed) not in program
    assert "/opt/dualkd/bin/python" in program
    library = installed / "usr/local/lib"
    for unit in UNITS:
        text = (library / "systemd/system" / unit).read_text()
        (start,) = (line for line in text.splitlines() if line.startswith("ExecStart="))
        assert (installed / start.removeprefix("ExecStart=/").split()[0]).is_file()
    assert (library / "sysusers.d/dualkd.conf").is_file()
    assert (library / "tmpfiles.d/dualkd.conf").is_file()
    assert (installed / "etc/dualkd/line1.yaml").read_text() == "mine"
    for example in ("line1", "bridge", "view"):
        assert "line: line1" in (installed / f"etc/dualkd/{example}.yaml.example").read_text()


def test_systemd_finds_nothing_wrong_with_what_was_installed(installed: Path, tmp_path: Path) -> None:
    """The program is there and executable, once the unit says where the root is."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    for unit in (installed / "usr/local/lib/systemd/system").iterdir():
        text = unit.read_text().replace("/opt/dualkd", f"{installed}/opt/dualkd")
        (tmp_path / unit.name).write_text(text)
        command = ["systemd-analyze", "verify", str(tmp_path / unit.name)]
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (said.returncode, said.stdout + said.stderr) == (0, "")


def test_make_uninstall_keeps_what_is_not_its_own(tmp_path: Path) -> None:
    """Configurations, keys, bundles and archives outlive the program."""
    library = tmp_path / "usr/local/lib"
    own = [
        tmp_path / "opt/dualkd/pyvenv.cfg",
        *(tmp_path / f"etc/dualkd/{example}.yaml.example" for example in ("line1", "bridge", "view")),
        *(library / "systemd/system" / unit for unit in UNITS),
        library / "sysusers.d/dualkd.conf",
        library / "tmpfiles.d/dualkd.conf",
    ]
    kept = [tmp_path / name for name in ("etc/dualkd/line1.yaml", "var/lib/dualkd/line1/archive/index.db")]
    for path in (*own, *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert make("uninstall", tmp_path).returncode == 0
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == kept
    assert not (tmp_path / "opt/dualkd").exists()


@pytest.mark.parametrize("target", ["install", "uninstall"])
def test_make_spares_a_folder_that_is_not_an_installation(target: str, tmp_path: Path) -> None:
    """PREFIX=/usr/local would fill a folder that others use, and then remove it."""
    others = tmp_path / "opt/dualkd/bin/other"
    others.parent.mkdir(parents=True)
    others.touch()
    refused = make(target, tmp_path)
    assert refused.returncode != 0
    assert "PREFIX=" in refused.stdout
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [others]


def test_the_base_install_runs_the_daemon_without_the_training_stack(installed: Path, tmp_path: Path) -> None:
    """In an environment of its own: no torch, no timm, no onnx, and a film is judged all the same."""
    programs = installed / "opt/dualkd/bin"
    python = programs / "python"
    listed = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "timm", "onnx", "matplotlib"} & {line.split()[0] for line in listed.splitlines()}
    film = write_video(tmp_path / "film.avi", [picture(DARK)] * 5)
    config = {
        "line": "base",
        "recipes": {"default": {"bundle": str(write_bundle(tmp_path / "bundle"))}},
        "cameras": [{"name": "cam", "source": str(film), "pace": "max"}],
        "preview": {"endpoint": None},
        "control": {"endpoint": None},
        "metrics": {"address": None},
    }
    with short_folder() as folder:
        sockets = {"results": f"ipc://{folder}/r", "scores": f"ipc://{folder}/s"}
        (tmp_path / "daemon.yaml").write_text(yaml.safe_dump({**config, "publisher": sockets}))
        command = [python, programs / "dualkd-daemon", tmp_path / "daemon.yaml"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("dualkd-train", "dualkd-eval", "dualkd-export"):
        line = [python, programs / command, "x", *(["--out", "y"] if command == "dualkd-export" else [])]
        refused = subprocess.run(line, capture_output=True, text=True, check=False)
        assert refused.returncode == 1
        assert "pip install '.[train]'" in refused.stderr
        assert "Traceback" not in refused.stderr
