"""The OPC UA bridge as a process, between a real daemon and a real client."""

from __future__ import annotations

import signal
import time
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import fakes
import pytest
from asyncua import ua
from dualkd.daemon.control_messages import Trigger
from hearing import Ear
from opcua_peer import OpcUa, Peer, is_verdict, run, until
from running import DaemonProcess
from stream_server import StreamServer

GONE_S = 2.0  # promised: from a daemon that is gone to values that say so
STATE = "VisionStateMachine.CurrentState"
SUBSTATE = "VisionStateMachine.AutomaticModeStateMachine.CurrentState"


def stream(server: StreamServer, **changes: Any) -> list[dict[str, Any]]:
    return [{"name": "cam", "source": server.url, **changes}]


async def assert_nothing_good(peer: Peer, code: str) -> None:
    """The camera's verdict reads INVALID, and nothing of any result is Good."""
    verdict = await peer.read("Cameras.cam.Verdict")
    assert (verdict.Value.Value, verdict.StatusCode.name) == ("INVALID", "UncertainSubstituteValue")
    assert await peer.value("Cameras.cam.VerdictNumber") == 3
    for name in ("ResultId", "Score", "JobId", "CreationTime", "ResultState", "Regions"):
        assert await peer.status(f"Cameras.cam.{name}") == code
    for place in range(10):
        assert not (await peer.read(f"ResultManagement.Results.Result{place}.Verdict")).StatusCode.is_good()


def test_a_verdict_is_shown_with_types_times_and_a_good_status(folder: Path, bundle: Path) -> None:
    """A followed folder with one picture with a bright square: FAIL, its region, its file, when it was taken."""

    async def scenario() -> None:
        async with Peer(bridge.url) as peer:
            fakes.write_folder(parts, [fakes.with_square(fakes.picture(fakes.DARK), 32, 24, 32)])
            await peer.wait("Cameras.cam.Verdict", lambda value: value == "FAIL", "the verdict")
            told = ear.judged()[0]
            verdict = await peer.read("Cameras.cam.Verdict")
            captured = datetime.fromtimestamp(told.captured_utc_ns / 1e9, timezone.utc)
            assert abs(verdict.SourceTimestamp - captured) < timedelta(microseconds=2)
            assert verdict.ServerTimestamp - captured < timedelta(seconds=30)
            assert await peer.value("Cameras.cam.Score") == told.score
            assert await peer.value("Cameras.cam.PartId") == "0000.png"
            assert await peer.value("Cameras.cam.ResultState") == 1
            box = told.regions[0]
            assert await peer.value("Cameras.cam.Regions") == [
                box.x_px,
                box.y_px,
                box.width_px,
                box.height_px,
            ]
            assert await peer.value("ResultManagement.Results.Result0.ResultId") == (
                await peer.value("Cameras.cam.ResultId")
            )
            for path, kind, rank in (
                ("Cameras.cam.Verdict", ua.ObjectIds.String, -1),
                ("Cameras.cam.VerdictNumber", ua.ObjectIds.Int32, -1),
                ("Cameras.cam.CreationTime", ua.ObjectIds.UtcTime, -1),
                ("Cameras.cam.ProcessingDuration", ua.ObjectIds.Duration, -1),
                ("Cameras.cam.SequenceNumber", ua.ObjectIds.UInt64, -1),
                ("Cameras.cam.Regions", ua.ObjectIds.Int32, 1),
                ("Heartbeat", ua.ObjectIds.UInt32, -1),
            ):
                assert (await peer.node(path).read_data_type()).Identifier == kind, path
                assert await peer.node(path).read_value_rank() == rank, path
            assert await peer.value("RecipeManagement.ActiveRecipe") == "default"
            assert await peer.value("RecipeManagement.ActiveProduct") == "brightness"
            assert await peer.value("ConfigurationManagement.ActiveConfiguration") == told.bundle.sha256
            with pytest.raises(ua.uaerrors.BadUserAccessDenied):
                await peer.node("Cameras.cam.Verdict").write_value("PASS")

    parts = folder / "parts"
    parts.mkdir()
    cameras = [{"name": "cam", "source": str(parts), "follow": True}]
    with (
        DaemonProcess(folder, bundle, cameras) as daemon,
        Ear(daemon.results) as ear,
        OpcUa(daemon) as bridge,
    ):
        run(scenario())
        assert bridge.stop() == 0
        assert "Traceback" not in bridge.log


def test_every_verdict_is_an_event_and_every_change_a_notification(folder: Path, bundle: Path) -> None:
    """A film of 60 frames a second whose verdict changes with every frame: nothing is left out."""

    async def scenario() -> None:
        async with Peer(bridge.url) as peer:
            await peer.subscribe("Cameras.cam.Verdict")
            await until(lambda: len(peer.events) > 150, "150 events")
            numbers = [event.SequenceNumber for event in peer.events]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
            assert all(before.Verdict != after.Verdict for before, after in pairwise(peer.events))
            await until(lambda: len(peer.changes["Cameras.cam.Verdict"]) > 150, "150 changes")
            good = [change for change in peer.changes["Cameras.cam.Verdict"] if change.StatusCode.is_good()]
            assert all(before.Value.Value != after.Value.Value for before, after in pairwise(good))
            times = {change.SourceTimestamp: change.Value.Value for change in good}
            shared = [event for event in peer.events if event.Time in times]
            assert len(shared) > 140
            assert all(times[event.Time] == event.Verdict for event in shared)

    pictures = [fakes.picture(grey) for grey in (fakes.DARK, fakes.BRIGHT)] * 900
    film = fakes.write_video(folder / "film.avi", pictures, fps=60)
    with (
        DaemonProcess(folder, bundle, [{"name": "cam", "source": str(film)}]) as daemon,
        OpcUa(daemon) as bridge,
    ):
        run(scenario())
        assert bridge.log.count("\n") < 10  # never one a frame


def test_a_job_that_is_triggered_gets_its_verdict(folder: Path, bundle: Path) -> None:
    """The state goes from Ready over SingleExecution back to Ready; refusals come with the daemon's text."""

    async def scenario() -> None:
        async with Peer(bridge.url) as peer:
            await peer.subscribe(SUBSTATE)
            await peer.wait(SUBSTATE, lambda state: state and state.Text == "Ready", "it is ready")
            for number in range(3):
                assert await peer.call("Trigger", "cam", f"job-{number}") == (0, "")
                await until(lambda expected=number + 1: len(peer.events) == expected, "the verdict")
                assert peer.events[-1].JobId == f"job-{number}"
                assert is_verdict(peer.events[-1].Verdict)
                assert await peer.value("Cameras.cam.JobId") == f"job-{number}"
            await until(lambda: len(peer.changes[SUBSTATE]) >= 7, "the states")
            states = [change.Value.Value.Text for change in peer.changes[SUBSTATE][:7]]
            assert states == ["Ready", *["SingleExecution", "Ready"] * 3]
            error, text = await peer.call("Trigger", "cam", "not a job id")
            assert error == -1
            assert "job_id" in text
            assert await peer.call("Trigger", "nose", "1") == (
                -1,
                "there is no camera 'nose' here; there are: cam",
            )
            with pytest.raises(ua.uaerrors.BadArgumentsMissing):
                await peer.call("Trigger", "cam")
            with pytest.raises(ua.uaerrors.BadInvalidArgument):
                await peer.call("Trigger", "cam", 7)

    with (
        StreamServer() as server,
        DaemonProcess(folder, bundle, stream(server, trigger={"mode": "software"})) as daemon,
        OpcUa(daemon) as bridge,
    ):
        run(scenario())


def test_a_recipe_is_activated_or_refused_with_the_reason(folder: Path, bundle: Path) -> None:
    async def scenario() -> None:
        async with Peer(bridge.url) as peer:
            await peer.wait("RecipeManagement.ActiveRecipe", lambda value: value == "default", "the first")
            assert await peer.value("RecipeManagement.Recipes") == ["default", "strict", "unknown"]
            assert (await peer.call("RecipeManagement.ActivateRecipe", "", "strict"))[0] == 0
            await peer.wait("RecipeManagement.ActiveRecipe", lambda value: value == "strict", "the other")
            await peer.wait("Cameras.cam.InternalRecipeId", lambda value: value == "strict", "its verdicts")
            assert await peer.value("Cameras.cam.FailThreshold") == 0.25
            await peer.wait(
                "RecipeManagement.LastActivation",
                lambda value: value == "strict for all cameras: done",
                "the outcome",
            )
            error, text = await peer.call("RecipeManagement.ActivateRecipe", "cam", "unknown")
            assert error == -1
            assert "unknown" in text
            assert await peer.value("RecipeManagement.LastActivation") == f"unknown for cam: {text}"
            assert await peer.call("RecipeManagement.ActivateRecipe", "", "other") == (
                -1,
                "'other' is none of the recipes here: default, strict, unknown",
            )
            assert await peer.value("RecipeManagement.ActiveRecipe") == "strict"

    recipes = {"default": {"bundle": str(bundle)}, "strict": {"bundle": str(bundle), "fail": 0.25}}
    with (
        StreamServer() as server,
        DaemonProcess(folder, bundle, stream(server), recipes=recipes) as daemon,
        OpcUa(daemon, recipes=["default", "strict", "unknown"]) as bridge,
    ):
        run(scenario())


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_daemon_that_is_gone_is_told_within_two_seconds(how: str, folder: Path, bundle: Path) -> None:
    """SIGKILL or SIGSTOP: INVALID, no Good value, no heartbeat, Error. It comes back: all is Good by itself."""

    async def scenario() -> None:
        async with Peer(bridge.url) as peer:
            await peer.wait("Cameras.cam.Verdict", is_verdict, "verdicts")
            await peer.subscribe("Cameras.cam.Verdict", "Heartbeat")
            await until(lambda: len(peer.changes["Heartbeat"]) > 1, "the heart beats")
            daemon.process.send_signal(signal.SIGKILL if how == "killed" else signal.SIGSTOP)
            at = datetime.now(timezone.utc)
            await peer.wait("Cameras.cam.Verdict", lambda value: value == "INVALID", "the fault is told")
            seconds = ((await peer.read("Cameras.cam.Verdict")).SourceTimestamp - at).total_seconds()
            assert seconds < GONE_S
            print(f"daemon {how}: told after {seconds:.2f} s")
            await assert_nothing_good(peer, "BadNoCommunication")
            fault = await peer.value("Fault")
            assert ("no connection" if how == "killed" else "silent for") in fault
            assert await peer.value("Cameras.cam.Fault") == fault
            assert (await peer.value(STATE)).Text == "Error"
            assert await peer.status(SUBSTATE) == "BadStateNotActive"
            assert await peer.status("Heartbeat") == "BadNoCommunication"
            assert await peer.status("Cameras.cam.Passed") == "BadNoCommunication"
            assert await peer.call("Trigger", "cam", "1") == (-1, fault)
            assert await peer.call("RecipeManagement.ActivateRecipe", "", "default") == (-1, fault)
            if how == "killed":
                daemon.wait()
                daemon.__enter__()
            else:
                daemon.process.send_signal(signal.SIGCONT)
            await peer.wait("Cameras.cam.Verdict", is_verdict, "verdicts again")
            assert await peer.status("Cameras.cam.Verdict") == "Good"
            assert await peer.value("Fault") == ""
            await peer.wait(STATE, lambda state: state.Text == "Operational", "it works again")
            last = peer.changes["Heartbeat"][-1]
            await until(lambda: peer.changes["Heartbeat"][-1] is not last, "the heart beats again")
            read = [
                (change.Value.Value, change.StatusCode.name) for change in peer.changes["Cameras.cam.Verdict"]
            ]
            assert ("INVALID", "UncertainSubstituteValue") in read
            assert all(name == "Good" for value, name in read if value != "INVALID")

    with (
        StreamServer() as server,
        DaemonProcess(folder, bundle, stream(server)) as daemon,
        OpcUa(daemon) as bridge,
    ):
        run(scenario())


def test_a_camera_that_is_lost_is_told_and_comes_back(folder: Path, bundle: Path) -> None:
    """Its stream falls silent: the daemon lives, the camera's verdict does not."""

    async def scenario() -> None:
        async with Peer(bridge.url) as peer:
            await peer.wait("Cameras.cam.Verdict", is_verdict, "verdicts")
            await peer.subscribe()
            server.freeze()
            await until(lambda: any(event.Verdict == "INVALID" for event in peer.events), "the loss is told")
            await peer.wait("Cameras.cam.Verdict", lambda value: value == "INVALID", "it is shown")
            await peer.wait("Cameras.cam.State", lambda value: value == "lost", "the camera's state")
            await assert_nothing_good(peer, "BadOutOfService")
            assert "no frame for 1.5 s" in await peer.value("Cameras.cam.Fault")
            assert await peer.value("Fault") == ""
            assert await peer.status("Heartbeat") == "Good"
            assert (await peer.value(STATE)).Text == "Error"
            assert any("cam" in warning for warning in await peer.value("Warnings"))
            server.thaw()
            await peer.wait("Cameras.cam.Verdict", is_verdict, "verdicts again")
            assert await peer.status("Cameras.cam.Score") == "Good"

    with (
        StreamServer() as server,
        DaemonProcess(folder, bundle, stream(server)) as daemon,
        OpcUa(daemon) as bridge,
    ):
        run(scenario())


def test_what_was_judged_before_the_bridge_came_is_not_shown(folder: Path, bundle: Path) -> None:
    """A late subscriber gets the last verdict again: it is no news, and neither a value nor an event."""

    async def scenario() -> None:
        async with Peer(bridge.url) as peer:
            await peer.subscribe()
            await peer.wait("Cameras.cam.State", lambda value: value == "running", "the daemon is heard")
            await assert_nothing_good(peer, "BadOutOfService")
            assert await peer.value("Cameras.cam.Fault") == "no verdict yet"
            assert await peer.value("Cameras.cam.Passed") == 1
            assert await peer.call("Trigger", "cam", "second") == (0, "")
            await until(lambda: len(peer.events) > 0, "the next verdict")
            assert [event.JobId for event in peer.events] == ["second"]
            await peer.wait("Cameras.cam.Verdict", is_verdict, "it is shown")

    with (
        StreamServer() as server,
        DaemonProcess(folder, bundle, stream(server, trigger={"mode": "software"})) as daemon,
    ):
        with Ear(daemon.results) as ear:
            ear.status(lambda status: status.cameras["cam"].state == "running", "the camera runs")
            assert daemon.ask(Trigger(camera="cam", job_id="first")).ok
            ear.judged()
        with OpcUa(daemon) as bridge:
            run(scenario())


def test_a_bridge_before_its_daemon_waits_and_refuses(folder: Path, bundle: Path) -> None:
    async def scenario() -> None:
        async with Peer(bridge.url) as peer:
            await assert_nothing_good(peer, "BadNoCommunication")
            assert (await peer.value(STATE)).Text == "Preoperational"
            assert (await peer.call("Trigger", "cam", "1"))[0] == -1
            with daemon:
                await peer.wait("Cameras.cam.Verdict", is_verdict, "verdicts")
                daemon.terminate()
                await peer.wait("Cameras.cam.Verdict", lambda value: value == "INVALID", "it has ended")
                assert (await peer.value(STATE)).Text == "Halted"
                await assert_nothing_good(peer, "BadNoCommunication")

    with StreamServer() as server:
        daemon = DaemonProcess(folder, bundle, stream(server))
        with OpcUa(daemon) as bridge:
            run(scenario())


def test_without_a_control_socket_nothing_can_be_asked(folder: Path, bundle: Path) -> None:
    async def scenario() -> None:
        async with Peer(bridge.url) as peer:
            await peer.wait("Cameras.cam.Verdict", is_verdict, "verdicts")
            refusal = (-1, "this bridge only reads (control: null)")
            assert await peer.call("Trigger", "cam", "1") == refusal
            assert await peer.call("RecipeManagement.ActivateRecipe", "", "default") == refusal

    with (
        StreamServer() as server,
        DaemonProcess(folder, bundle, stream(server)) as daemon,
        OpcUa(daemon, control=None) as bridge,
    ):
        run(scenario())


def test_a_daemon_is_not_held_up_by_a_client_that_hangs(folder: Path, bundle: Path) -> None:
    """A client subscribes and never reads again: others get their events, and the daemon judges on."""

    async def scenario() -> None:
        async with Peer(bridge.url) as hanging, Peer(bridge.url) as peer:
            await hanging.subscribe("Cameras.cam.Verdict", period_ms=10)
            await until(lambda: len(hanging.events) > 3, "its first events")
            transport = hanging.client.uaclient.protocol.transport
            transport.pause_reading()
            await peer.subscribe()
            began_s, before = time.monotonic(), len(ear.judged())
            await until(lambda: len(peer.events) > 100, "100 events")
            ear.judged(100)
            assert before == 1
            print(f"100 verdicts beside a hanging client: {time.monotonic() - began_s:.1f} s")
            assert bridge.stop() == 0  # in the midst of it
            transport.resume_reading()

    with (
        StreamServer() as server,
        DaemonProcess(folder, bundle, stream(server)) as daemon,
        OpcUa(daemon) as bridge,
        Ear(daemon.results) as ear,
    ):
        run(scenario())
