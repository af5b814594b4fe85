"""A PLC that reads verdicts, triggers jobs and chooses recipes: pymodbus's client, the real bridge, a real daemon."""

from __future__ import annotations

from pathlib import Path

import fakes
import pytest
from dualkd.daemon.bridges.modbus.map import Answer, CameraState, Fault, JobState, Verdict
from hearing import Ear
from plc import Plc, daemon_of, has_verdict, live, modbus, show
from pymodbus.constants import ExcCodes
from running import free_port, wait_until
from stream_server import StreamServer

SOFTWARE = {"mode": "software", "timeout_s": 1.0}


def test_each_verdict_comes_with_its_figures(folder: Path, bundle: Path) -> None:
    """A dark picture and one with a bright square: PASS and FAIL, score, place and counters in one read."""
    pictures = folder / "pictures"
    pictures.mkdir()
    port = free_port()
    with (
        daemon_of(folder, bundle, [{"name": "cam", "source": str(pictures), "follow": True}]) as daemon,
        modbus(folder, daemon, port) as bridge,
        Plc(port) as plc,
    ):
        wait_until(lambda: plc.camera()["fault"] == Fault.NO_VERDICT, "the camera is there")
        assert plc.camera()["verdict"] == Verdict.NONE
        assert plc.bits() == {"camera_ok"}
        show(pictures, fakes.picture(fakes.DARK), "0.png")
        wait_until(has_verdict(plc), "the first verdict")
        first = plc.camera()
        show(pictures, fakes.with_square(fakes.picture(fakes.DARK), 32, 24, 32), "1.png")
        wait_until(lambda: plc.camera()["sequence"] != first["sequence"], "the second verdict")
        second = plc.camera()
        assert plc.bits() == {"camera_ok", "failed"}
        wait_until(lambda: plc.camera()["captured"] == 2, "the counters follow")
        counted = plc.camera()
        line = plc.line()
        assert bridge.stop() == 0
    assert (first["verdict"], first["fault"], first["regions"]) == (Verdict.PASS, Fault.NONE, 0)
    assert (second["verdict"], second["fault"], second["regions"]) == (Verdict.FAIL, Fault.NONE, 1)
    assert second["sequence"] == first["sequence"] + 1
    assert second["score"] > second["threshold"] > first["score"]
    assert second["score_1e4"] == round(1e4 * second["score"])
    assert second["frame_id"] == first["frame_id"] + 1
    box = (
        second["region_x_px"],
        second["region_y_px"],
        second["region_width_px"],
        second["region_height_px"],
    )
    assert box == (32, 24, 32, 36)  # in whole cells of 16 x 12
    assert (counted["passed"], counted["failed"], counted["invalid"], counted["dropped"]) == (1, 1, 0, 0)
    assert (counted["recipe"], counted["state"]) == (1, CameraState.RUNNING)
    assert 0 < counted["latency_ms"] < 5000
    assert counted["age_ms"] >= second["age_ms"]
    assert (line["map_version"], line["daemon_state"], line["cameras"], line["recipes"]) == (1, 2, 1, 1)


def test_what_one_read_returns_belongs_together(folder: Path, bundle: Path) -> None:
    """However often it is read while verdicts change: figures, verdict and fault are of one frame."""
    port = free_port()
    seen: dict[int, tuple[int, ...]] = {}
    with (
        StreamServer(rate=100) as server,
        daemon_of(folder, bundle, live(server)) as daemon,
        modbus(folder, daemon, port),
        Plc(port) as plc,
    ):
        wait_until(has_verdict(plc), "a verdict")
        while len(seen) < 200:
            camera = plc.camera()
            assert camera["fault"] == Fault.NONE
            assert camera["score_1e4"] == round(1e4 * camera["score"])
            assert (camera["score"] > camera["threshold"]) == (camera["verdict"] == Verdict.FAIL)
            figures = (camera["frame_id"], camera["verdict"], camera["score_1e4"], camera["regions"])
            assert seen.setdefault(camera["sequence"], figures) == figures
    frames = [figures[0] for figures in seen.values()]
    assert frames == sorted(set(frames))
    assert {figures[1] for figures in seen.values()} == {Verdict.PASS, Verdict.FAIL}


def test_a_job_is_triggered_told_and_acknowledged(folder: Path, bundle: Path) -> None:
    """The verdict that the PLC reads is the one of its own job, as the daemon told it to everybody."""
    port = free_port()
    with (
        StreamServer() as server,
        daemon_of(folder, bundle, live(server, trigger=SOFTWARE)) as daemon,
        modbus(folder, daemon, port) as bridge,
        Ear(daemon.results) as ear,
        Plc(port) as plc,
    ):
        wait_until(lambda: plc.camera()["state"] == CameraState.RUNNING, "the camera runs")
        for job in (4711, 4711, 0xFFFF_FFFF):
            sequence = plc.camera()["sequence"]
            assert plc.trigger(job) == 0
            wait_until(lambda: "result_ready" in plc.bits(), "the result")
            camera = plc.camera()
            heard = ear.result(lambda header: header.job_id is not None, "the same verdict")
            assert heard.job_id is not None
            assert heard.job_id.startswith(f"{job}-")
            assert (camera["job_number"], camera["frame_id"]) == (job, heard.frame_id)
            assert Verdict(camera["verdict"]).name == heard.verdict
            assert camera["score"] == pytest.approx(heard.score)
            assert camera["sequence"] == sequence + 1
            assert {"trigger_acknowledged", "result_ready"} <= plc.bits()
            assert plc.coils() == [True, False]
            plc.acknowledge()
            assert plc.coils() == [False, False]
            assert not {"trigger_acknowledged", "result_ready", "trigger_error"} & plc.bits()
            assert plc.camera() | {"age_ms": 0} == camera | {"age_ms": 0, "job_state": JobState.IDLE} | {
                key: plc.camera()[key] for key in ("captured", "passed", "failed", "invalid", "dropped")
            }
        assert bridge.stop() == 0


def test_a_second_trigger_is_refused_while_a_job_is_under_way(folder: Path, bundle: Path) -> None:
    """The same write again is a repeat, another job is busy, and after the result the next trigger gives it up."""
    port = free_port()
    with (
        StreamServer() as server,
        daemon_of(folder, bundle, live(server, trigger={"mode": "software", "timeout_s": 1.2})) as daemon,
        modbus(folder, daemon, port),
        Plc(port) as plc,
    ):
        wait_until(lambda: plc.camera()["state"] == CameraState.RUNNING, "the camera runs")
        server.freeze()
        assert plc.trigger(1) == 0
        wait_until(lambda: "trigger_acknowledged" in plc.bits(), "the daemon takes the job")
        waiting = plc.camera()
        assert (waiting["verdict"], waiting["fault"], waiting["job_number"]) == (0, Fault.JOB_WAITS, 1)
        assert plc.trigger(1) == 0
        assert plc.trigger(2) == ExcCodes.DEVICE_BUSY
        plc.acknowledge()
        assert plc.camera()["job_state"] == JobState.ACCEPTED
        wait_until(lambda: "result_ready" in plc.bits(), "the job is answered")
        answered = plc.camera()
        assert answered["verdict"] == Verdict.INVALID
        assert answered["job_number"] == 1
        server.thaw()
        wait_until(lambda: plc.camera()["state"] == CameraState.RUNNING, "the camera is back")
        assert plc.trigger(2) == 0
        assert plc.camera()["job_number"] == 2
        wait_until(lambda: "result_ready" in plc.bits(), "the next result")
        assert (plc.camera()["job_number"], plc.camera()["fault"]) == (2, Fault.NONE)


def test_a_refused_trigger_says_why(folder: Path, bundle: Path) -> None:
    """A camera that judges every frame has no jobs: error bit, number and text, until it is acknowledged."""
    port = free_port()
    with (
        StreamServer() as server,
        daemon_of(folder, bundle, live(server)) as daemon,
        modbus(folder, daemon, port),
        Plc(port) as plc,
    ):
        wait_until(has_verdict(plc), "a verdict")
        assert plc.trigger(5) == 0
        wait_until(lambda: "trigger_error" in plc.bits(), "the refusal")
        camera = plc.camera()
        assert (camera["job_state"], camera["job_error"]) == (JobState.ERROR, Fault.JOB_REFUSED)
        assert camera["answer"] == "camera cam judges every frame (trigger.mode: free)"
        wait_until(has_verdict(plc), "verdicts go on")
        plc.acknowledge()
        camera = plc.camera()
        assert (camera["job_state"], camera["job_error"], camera["answer"]) == (JobState.IDLE, 0, "")
        assert plc.coils() == [False, False]


def test_a_recipe_is_chosen_by_its_number(folder: Path, bundle: Path) -> None:
    """For every camera and for one; the result says by which it was judged; a bridge that only reads refuses."""
    other = fakes.write_bundle(folder / "other")
    recipes = {"default": {"bundle": str(bundle)}, "other": {"bundle": str(other)}}
    port, reading = free_port(), free_port()
    second = folder / "second"
    second.mkdir()
    with (
        StreamServer() as server,
        daemon_of(
            folder,
            bundle,
            [{"name": "cam", "source": server.url}, {"name": "cam2", "source": server.url}],
            recipes=recipes,
        ) as daemon,
        modbus(folder, daemon, port) as bridge,
        modbus(second, daemon, reading, control=None),
        Plc(port) as plc,
        Plc(reading) as reader,
    ):
        wait_until(lambda: [plc.camera(n)["recipe"] for n in (1, 2)] == [1, 1], "both cameras run")
        assert plc.choose_recipe(2) == 0
        wait_until(lambda: "recipe_done" in plc.line_bits(), "it is done")
        wait_until(lambda: [plc.camera(n)["recipe"] for n in (1, 2)] == [2, 2], "both are judged by it")
        assert plc.line()["recipe_asked"] == 2
        assert plc.choose_recipe(1, camera=2) == 0
        wait_until(lambda: "recipe_done" in plc.bits(2), "it is done")
        wait_until(lambda: [plc.camera(n)["recipe"] for n in (1, 2)] == [2, 1], "one is judged by the first")
        assert plc.choose_recipe(3) == ExcCodes.ILLEGAL_VALUE
        assert plc.line()["recipe_asked"] == 2
        assert plc.choose_recipe(0) == 0
        assert plc.line()["recipe_answer"] == Answer.NONE
        assert reader.choose_recipe(1) == 0
        wait_until(lambda: "recipe_refused" in reader.line_bits(), "it is refused")
        assert reader.line()["answer"] == "this bridge only reads (control: null)"
        assert bridge.stop() == 0
    assert "every camera: recipe other: changed" in bridge.log
