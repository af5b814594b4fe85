"""Engine files that are damaged: at the start, for a recipe change, and under a running engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import fakes
import pytest
from dualkd.daemon.control_messages import Recipe, Reload
from hearing import Ear
from running import DaemonProcess
from stream_server import StreamServer

Damage = Callable[[Path], None]


def truncate(bundle: Path) -> None:
    graph = bundle / "model.onnx"
    graph.write_bytes(graph.read_bytes()[: graph.stat().st_size // 2])


def flip_a_bit(bundle: Path) -> None:
    graph = bundle / "model.onnx"
    raw = bytearray(graph.read_bytes())
    raw[len(raw) // 2] ^= 1
    graph.write_bytes(raw)


damaged = pytest.mark.parametrize("damage", [truncate, flip_a_bit])


@damaged
def test_a_damaged_engine_file_keeps_the_daemon_from_starting(
    damage: Damage, folder: Path, tmp_path: Path
) -> None:
    """Status 3 and one line with the file, the two sums and what to do; no frame is judged."""
    bundle = fakes.write_bundle(tmp_path / "bundle")
    damage(bundle)
    with (
        StreamServer() as server,
        DaemonProcess(folder, bundle, [{"name": "cam", "source": server.url}]) as daemon,
    ):
        assert daemon.wait() == 3
        (said,) = [line for line in daemon.log.splitlines() if line.startswith("dualkd-daemon: ")]
        assert "Traceback" not in daemon.log
        assert "line test: running" not in daemon.log
    assert f"{bundle}/model.onnx: sha256 is " in said
    assert "the file is damaged or was swapped; copy or export the bundle again" in said


@damaged
def test_a_recipe_with_a_damaged_engine_file_is_refused_and_the_old_one_goes_on(
    damage: Damage, folder: Path, bundle: Path, tmp_path: Path
) -> None:
    """The change is answered with the reason; every frame before, during and after is judged as before."""
    other = fakes.write_bundle(tmp_path / "bundle")
    damage(other)
    recipes = {"default": {"bundle": str(bundle)}, "other": {"bundle": str(other)}}
    with (
        StreamServer() as server,
        DaemonProcess(folder, bundle, [{"name": "cam", "source": server.url}], recipes=recipes) as daemon,
        Ear(daemon.results) as ear,
    ):
        ear.judged(5)
        reply = daemon.ask(Recipe(recipe="other"))
        ear.judged(5)
        daemon.terminate()
        last = ear.to_the_end()
        assert daemon.wait() == 0
    assert not reply.ok
    assert f"{other}/model.onnx: sha256 is " in reply.message
    assert {header.recipe for header in ear.results} == {"default"}
    assert last.cameras["cam"].invalid == 0


def overwrite(bundle: Path) -> None:
    """Through the same file, so that whoever has it mapped sees it."""
    with (bundle / "model.onnx").open("r+b") as file:
        file.write(b"\xff" * (bundle / "model.onnx").stat().st_size)


def replace_whole(bundle: Path) -> None:
    """Another good graph under the old name, but not the one that bundle.json means."""
    other = fakes.brightness_model()
    other.graph.name = "another"
    new = bundle / "new"
    new.write_bytes(other.SerializeToString())
    new.replace(bundle / "model.onnx")


@pytest.mark.parametrize("damage", [overwrite, truncate, replace_whole])
def test_an_engine_file_that_is_swapped_during_a_run_is_not_looked_at(
    damage: Damage, folder: Path, tmp_path: Path
) -> None:
    """The loaded engine goes on, without one INVALID; a reload reads the file, refuses it and says why."""
    bundle = fakes.write_bundle(tmp_path / "bundle")
    with (
        StreamServer() as server,
        DaemonProcess(folder, bundle, [{"name": "cam", "source": server.url}]) as daemon,
        Ear(daemon.results) as ear,
    ):
        ear.judged(5)
        damage(bundle)
        ear.judged(5)
        reply = daemon.ask(Reload())
        warned = ear.status(lambda status: bool(status.warnings), "the warning")
        ear.judged(5)
        daemon.terminate()
        last = ear.to_the_end()
        assert daemon.wait() == 0
    assert not reply.ok
    assert "sha256 is " in reply.message
    assert warned.warnings == [f"reload refused: {reply.message}"]
    assert last.cameras["cam"].invalid == 0
    assert len({header.bundle.sha256 for header in ear.results}) == 1
