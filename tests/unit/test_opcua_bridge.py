"""The OPC UA bridge beside a feed that a test plays: several cameras, orders that take long, states."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

import pytest
from dualkd.daemon.bridges.config import BridgeCamera, BridgeConfig, OpcUaConfig
from dualkd.daemon.bridges.feed import CameraNow, LineNow, Orders
from dualkd.daemon.bridges.opcua import OpcUaBridge
from dualkd.daemon.bridges.opcua.fields import CAMERA, LINE, RESULT
from dualkd.daemon.bridges.opcua.space import NAMESPACE, STATES
from dualkd.daemon.bridges.opcua.states import AutomaticState, State, VisionState, state_of
from dualkd.daemon.client import Result
from dualkd.daemon.messages import BundleRef, CameraStatus, RecipeRef, StatusHeader
from headers import camera_status, result_header, status_header
from opcua_peer import Peer, run, until
from running import free_port

READY = State("Operational", "Ready")


class SlowOrders(Orders):
    """A daemon that loads a recipe for as long as a test wants."""

    def __init__(self) -> None:
        super().__init__(None)
        self.loaded = asyncio.Event()

    async def recipe(self, camera: str | None, recipe: str) -> str:  # noqa: ARG002 (any)
        await self.loaded.wait()
        return "its bundle is damaged"


def line_now(faults: Mapping[str, str], fault: str = "", **status: Any) -> LineNow:
    """A line whose cameras run, with these faults."""
    header = status_header({name: camera_status() for name in faults}, **status)
    cameras = {name: CameraNow(text, header.cameras[name]) for name, text in faults.items()}
    return LineNow(fault, header, cameras)


def verdict(camera: str, seq: int, **changes: Any) -> Result:
    header = result_header(camera=camera, seq=seq, captured_utc_ns=time.time_ns(), **changes)
    return Result(f"v1/line/{camera}/result", header, None, 0)


@asynccontextmanager
async def served(orders: Orders) -> AsyncIterator[tuple[OpcUaBridge, Peer]]:
    """A bridge of the cameras `left` and `right`, and a client."""
    address = f"127.0.0.1:{free_port()}"
    config = BridgeConfig(
        line="line",
        cameras=[BridgeCamera(name="left"), BridgeCamera(name="right")],
        recipes=["default"],
        opcua=OpcUaConfig(address=address),
    )
    async with OpcUaBridge(config, orders) as bridge, Peer(f"opc.tcp://{address}/dualkd") as peer:
        yield bridge, peer


def test_a_camera_that_is_lost_takes_no_good_value_from_another() -> None:
    """Its own verdict and its kept ones are doubted, and what comes meanwhile counts once it is said to."""

    async def scenario() -> None:
        async with served(Orders(None)) as (bridge, peer):
            await peer.subscribe()
            await bridge.condition(line_now({"left": "", "right": ""}))
            for seq in range(6):
                await bridge.verdict(verdict("left", seq))
                await bridge.verdict(verdict("right", seq, verdict="FAIL", score=0.9))
            assert [await peer.value(f"Cameras.{name}.Verdict") for name in ("left", "right")] == [
                "PASS",
                "FAIL",
            ]

            await bridge.condition(line_now({"left": "the camera is lost", "right": ""}, seq=1))
            assert await peer.value("Cameras.left.Verdict") == "INVALID"
            assert await peer.status("Cameras.left.Score") == "BadOutOfService"
            assert await peer.value("Cameras.left.Fault") == "the camera is lost"
            assert await peer.value("Cameras.right.Verdict") == "FAIL"
            assert await peer.status("Cameras.right.Verdict") == "Good"
            kept = [f"ResultManagement.Results.Result{place}" for place in range(10)]
            told = {
                (await peer.value(f"{path}.Camera"), await peer.status(f"{path}.Verdict")) for path in kept
            }
            assert told == {("left", "UncertainLastUsableValue"), ("right", "Good")}
            numbers = sorted([await peer.value(f"{path}.SequenceNumber") for path in kept])
            assert numbers == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]  # the oldest made room

            await bridge.condition(line_now({"left": "", "right": ""}, seq=2))
            assert await peer.value("Cameras.left.Verdict") == "INVALID"  # nothing new, and the old is old
            await bridge.condition(line_now({"left": "the camera is lost", "right": ""}, seq=3))
            await bridge.verdict(verdict("left", 6))
            assert await peer.value("Cameras.left.Verdict") == "INVALID"
            await until(lambda: len(peer.events) == 13, "it is told all the same")
            await bridge.condition(line_now({"left": "", "right": ""}, seq=4))
            assert await peer.value("Cameras.left.Verdict") == "PASS"
            assert await peer.value("Cameras.left.SequenceNumber") == 6
            assert await peer.status("Cameras.left.Score") == "Good"

    run(scenario())


def test_the_recipes_of_cameras_that_differ_are_listed() -> None:
    def judged_by(name: str) -> CameraStatus:
        bundle = BundleRef(name=f"{name}-model", sha256=name)
        return camera_status(recipe=RecipeRef(name=name, bundle=bundle, fail=0.5, warn=None))

    def now(left: str, right: str) -> LineNow:
        header = status_header({"left": judged_by(left), "right": judged_by(right)})
        return LineNow("", header, {name: CameraNow("", camera) for name, camera in header.cameras.items()})

    async def scenario() -> None:
        async with served(Orders(None)) as (bridge, peer):
            await bridge.condition(now("cover", "cover"))
            assert await peer.value("RecipeManagement.ActiveRecipe") == "cover"
            await bridge.condition(now("cover", "bracket"))
            assert await peer.value("RecipeManagement.ActiveRecipe") == "cover, bracket"
            assert await peer.value("RecipeManagement.ActiveProduct") == "cover-model, bracket-model"
            assert await peer.value("ConfigurationManagement.ActiveConfiguration") == "cover, bracket"

    run(scenario())


def test_a_recipe_that_takes_long_holds_nobody_up() -> None:
    """The call comes back after a second; LastActivation says later what became of it; one at a time."""

    async def scenario() -> None:
        orders = SlowOrders()
        async with served(orders) as (bridge, peer):
            await bridge.condition(line_now({"left": "", "right": ""}))
            began_s = time.monotonic()
            assert await peer.call("RecipeManagement.ActivateRecipe", "", "default") == (0, "")
            assert 0.9 < time.monotonic() - began_s < 10
            assert await peer.value("RecipeManagement.LastActivation") == (
                "default for all cameras: being activated"
            )
            assert await peer.call("RecipeManagement.ActivateRecipe", "left", "default") == (
                -1,
                "another recipe is being activated; wait for LastActivation",
            )
            orders.loaded.set()
            await peer.wait(
                "RecipeManagement.LastActivation",
                lambda text: text == "default for all cameras: its bundle is damaged",
                "the outcome",
            )

    run(scenario())


def test_the_heart_beats_once_a_status_and_only_while_the_daemon_lives() -> None:
    async def scenario() -> None:
        async with served(Orders(None)) as (bridge, peer):
            assert await peer.status("Heartbeat") == "BadWaitingForInitialData"
            for seq in range(3):
                now = line_now({"left": "", "right": ""}, seq=seq)
                await bridge.condition(now)
                await bridge.condition(now)
                assert await peer.value("Heartbeat") == seq + 1
            await bridge.condition(line_now({"left": "", "right": ""}, "silent", seq=3))
            assert await peer.status("Heartbeat") == "BadNoCommunication"
            await bridge.condition(line_now({"left": "", "right": ""}, seq=4))
            assert await peer.value("Heartbeat") == 4

    run(scenario())


@pytest.mark.parametrize(
    ("now", "jobs_wait", "judged_a_job", "state"),
    [
        (LineNow("silence", None, {}), False, False, State("Preoperational")),
        (line_now({"cam": ""}, state="starting"), False, False, State("Preoperational")),
        (line_now({"cam": ""}, state="draining"), False, False, State("Halted")),
        (line_now({"cam": ""}, "it ended", state="ended", exit_status=0), False, False, State("Halted")),
        (line_now({"cam": ""}, "it ended", state="ended", exit_status=5), False, False, State("Error")),
        (line_now({"cam": ""}, "no connection"), True, False, State("Error")),
        (line_now({"cam": ""}), False, False, State("Operational", "ContinuousExecution")),
        (line_now({"cam": "no verdict yet"}), False, False, READY),
        (line_now({"cam": ""}), False, True, READY),
        (line_now({"cam": ""}), True, True, State("Operational", "SingleExecution")),
    ],
)
def test_the_daemons_state_is_a_vision_state(
    now: LineNow, jobs_wait: bool, judged_a_job: bool, state: State
) -> None:
    assert state_of(now, jobs_wait, judged_a_job) == state


@pytest.mark.parametrize(
    ("camera", "state"),
    [
        (None, State("Error")),
        (camera_status(state="lost"), State("Error")),
        (camera_status(state="opening"), State("Operational", "Initialized")),
        (camera_status(state="ended"), State("Operational", "Initialized")),
        (camera_status(paused=True), State("Operational", "Initialized")),
        (camera_status(recipe=None), State("Operational", "Initialized")),
    ],
)
def test_a_camera_that_does_not_run_is_part_of_the_state(camera: CameraStatus | None, state: State) -> None:
    header: StatusHeader = status_header({"well": camera_status()})
    cameras = {"well": CameraNow("", header.cameras["well"]), "other": CameraNow("fault", camera)}
    assert state_of(LineNow("", header, cameras), False, False) == state


def test_the_documentation_names_everything_that_is_shown() -> None:
    """BRIDGES.md: every field, every state with its number, every method."""
    text = (Path(__file__).parents[2] / "BRIDGES.md").read_text()
    section = text[text.index("## OPC UA") :]
    names = [field.name.rpartition(".")[2] for fields in (RESULT, CAMERA, LINE) for field in fields]
    for name in [*names, "Fault", "Line", "Recipes", "LastActivation", "Trigger", "ActivateRecipe"]:
        assert re.search(rf"[`.]{name}`", section), name
    for state in get_args(VisionState):
        assert f"| {state} | {STATES[state]} |" in section
    for state in get_args(AutomaticState):
        assert f"| Operational: {state} | {STATES[state]} |" in section
    assert NAMESPACE in section
