"""The systemd units, as files: what systemd-analyze says of them, and that they fit the daemon.

What only a running systemd shows (devices, credentials, limits) is not tested here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from dualkd.configs.loader import load
from dualkd.daemon.bridges import command as bridge_command
from dualkd.daemon.bridges.config import BridgeConfig
from dualkd.daemon.config import DaemonConfig
from dualkd.daemon.service import ExitStatus
from dualkd.daemon.view import command as view_command
from dualkd.daemon.view.config import ViewConfig

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "systemd"
LINES = ("dualkd@.service", "dualkd-replay@.service")
COMPANIONS = ("dualkd-bridge@.service", "dualkd-view.service")
EXPOSURE_AT_MOST = 1.7

unit = pytest.mark.parametrize("name", LINES)
companion = pytest.mark.parametrize("name", COMPANIONS)
each_unit = pytest.mark.parametrize("name", LINES + COMPANIONS)


def settings(name: str) -> dict[str, list[str]]:
    """What a unit sets, all values of a key in order."""
    found: dict[str, list[str]] = {}
    for line in (UNITS / name).read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze; skip the test where there is none."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    environment = {**os.environ, "SYSTEMD_COLORS": "0", "SYSTEMD_EMOJI": "0", "LC_ALL": "C.UTF-8"}
    command = [program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@each_unit
def test_a_unit_is_well_hardened(name: str) -> None:
    """By systemd's own measure, which ranges from 0 (safe) to 10."""
    said = analyze("security", "--offline=true", "--no-pager", UNITS / name)
    if "unrecognized option" in said.stderr:
        pytest.skip("this systemd-analyze has no security --offline (systemd 250)")
    exposure = re.search(r"Overall exposure level for \S+ ([0-9.]+)", said.stdout)
    assert exposure, said.stdout + said.stderr
    assert float(exposure[1]) <= EXPOSURE_AT_MOST


@each_unit
def test_systemd_understands_every_line_of_a_unit(name: str, tmp_path: Path) -> None:
    """With the program where a copy of the unit says that it is, there is nothing to complain of."""
    (start,) = settings(name)["ExecStart"]
    shutil.copy("/bin/true", tmp_path / Path(start.split()[0]).name)
    text = (UNITS / name).read_text()
    (tmp_path / name).write_text(text.replace("/opt/dualkd/bin", str(tmp_path)))
    said = analyze("verify", tmp_path / name)
    assert (said.returncode, said.stdout + said.stderr) == (0, "")


@unit
def test_a_drained_stop_fits_into_the_time_that_systemd_gives(name: str) -> None:
    """For the defaults; a configuration that allows longer has the daemon ask for more."""
    config = load(ROOT / "configs/daemon.yaml", DaemonConfig)
    needs_s = config.drain_timeout_s + config.stop_grace_s + config.publisher.linger_ms / 1e3
    assert float(settings(name)["TimeoutStopSec"][-1]) >= needs_s


@unit
def test_sources_may_take_their_time_to_open(name: str) -> None:
    """A slow camera is reported by the daemon, not cut off by systemd."""
    config = load(ROOT / "configs/daemon.yaml", DaemonConfig)
    assert float(settings(name)["TimeoutStartSec"][-1]) > config.open_timeout_s


def test_what_does_not_mend_itself_is_not_tried_again() -> None:
    """A wrong configuration or bundle stays wrong; everything else is tried for ever."""
    unit = settings("dualkd@.service")
    statuses = {int(status) for status in unit["RestartPreventExitStatus"][-1].split()}
    assert statuses == {ExitStatus.CONFIG, ExitStatus.BUNDLE}
    assert unit["StartLimitIntervalSec"] == ["0"]
    assert "Restart" in unit


@unit
def test_the_example_of_a_configuration_fits_the_unit(name: str) -> None:
    """It is valid, its sockets lie in the RuntimeDirectory=, its files in the StateDirectory=."""
    config = load(UNITS / "line1.yaml", DaemonConfig)
    unit = settings(name)
    (runtime,) = (f"/run/{folder.replace('%i', config.line)}" for folder in unit["RuntimeDirectory"])
    (state,) = (f"/var/lib/{folder.replace('%i', config.line)}" for folder in unit["StateDirectory"])
    for endpoint in (
        config.publisher.results,
        config.publisher.scores,
        config.preview.endpoint,
        config.control.endpoint,
    ):
        assert str(endpoint).startswith(f"ipc://{runtime}/")
    for folder in (config.state, config.archive.folder):
        assert str(folder).startswith(f"{state}/")


@unit
def test_the_key_that_the_example_names_is_the_one_that_the_unit_passes_on(name: str) -> None:
    """And a line without one has a value in its place, so that it starts."""
    loaded, set_to = (settings(name)[key][-1].split(":")[0] for key in ("LoadCredential", "SetCredential"))
    assert loaded == set_to
    assert f"secret_key: {loaded}" in (UNITS / "line1.yaml").read_text()


@unit
def test_the_user_of_a_unit_is_made_at_install(name: str, tmp_path: Path) -> None:
    """By sysusers.d, in a root of its own."""
    if shutil.which("systemd-sysusers") is None:
        pytest.skip("systemd-sysusers is not installed")
    (tmp_path / "etc").mkdir()
    command = ["systemd-sysusers", f"--root={tmp_path}", str(UNITS / "sysusers.conf")]
    subprocess.run(command, capture_output=True, check=True)
    for database, key in (("passwd", "User"), ("group", "Group")):
        made = [line.split(":")[0] for line in (tmp_path / "etc" / database).read_text().splitlines()]
        assert settings(name)[key][-1] in made


@companion
def test_a_companion_can_neither_delay_nor_end_the_daemon(name: str) -> None:
    """No dependency in either direction; it runs as somebody else, has less memory, and is the first to be killed."""
    unit, line = settings(name), settings("dualkd@.service")
    ties = (
        "Wants",
        "Requires",
        "Requisite",
        "BindsTo",
        "PartOf",
        "Upholds",
        "Conflicts",
        "Before",
        "OnFailure",
    )
    assert not set(ties) & unit.keys()
    assert "dualkd" not in unit["After"][-1]
    assert unit["DynamicUser"] == ["yes"]
    assert unit["SupplementaryGroups"] == line["Group"]
    assert int(unit["OOMScoreAdjust"][-1]) > 0 > int(line["OOMScoreAdjust"][-1])
    assert re.fullmatch(r"\d+[MG]", unit["MemoryMax"][-1])


@companion
def test_a_companion_is_started_again_for_ever(name: str) -> None:
    """But not with a configuration that stays wrong."""
    unit = settings(name)
    assert (unit["Restart"], unit["StartLimitIntervalSec"]) == (["always"], ["0"])
    assert bridge_command.USAGE == view_command.USAGE == int(unit["RestartPreventExitStatus"][-1])


def test_the_examples_of_bridge_and_view_meet_the_sockets_of_the_line() -> None:
    """All three examples together are one line."""
    line = load(UNITS / "line1.yaml", DaemonConfig)
    bridge, view = load(UNITS / "bridge.yaml", BridgeConfig), load(UNITS / "view.yaml", ViewConfig)
    assert bridge.line == view.line == line.line
    assert [camera.name for camera in bridge.cameras] == [camera.name for camera in line.cameras]
    assert bridge.recipes == list(line.recipes)
    assert bridge.results == line.publisher.results
    assert view.scores == line.publisher.scores
    assert view.preview == line.preview.endpoint
    assert bridge.control == view.control == line.control.endpoint
    assert view.archive == line.archive.folder
    (state,) = settings("dualkd-view.service")["StateDirectory"]
    for token in (view.tokens.view, view.tokens.control):
        assert str(token).startswith(f"/var/lib/{state}/")


@companion
def test_the_secrets_that_an_example_names_are_those_that_its_unit_passes_on(name: str) -> None:
    """Each has a value in its place, so that a companion without it starts."""
    example = re.sub(r"dualkd-(\w+)@?\.service", r"\1.yaml", name)
    unit, text = settings(name), (UNITS / example).read_text()
    loaded, set_to = (
        [value.split(":")[0] for value in unit[key]] for key in ("LoadCredential", "SetCredential")
    )
    assert loaded == set_to
    assert all(re.search(rf"(own|key|password_file): {credential}\b", text) for credential in loaded)
