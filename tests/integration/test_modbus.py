"""A PLC's view: pymodbus's client, the real bridge and a real daemon, and each of them going away."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import fakes
import pytest
from bridging import BridgeProcess, free_port
from dualkd.daemon.bridges.modbus.map import Answer, CameraState, DaemonState, Fault, JobState, Verdict
from dualkd.daemon.bridges.modbus.registers import BITS, BLOCK
from dualkd.daemon.control_messages import Pause, Resume
from hearing import Ear
from plc import Plc, exception_code
from pymodbus.constants import ExcCodes
from running import DaemonProcess, short_folder, wait_until
from stream_server import StreamServer

TOLD_WITHIN_S = 2.0
SOFTWARE = {"mode": "software", "timeout_s": 1.0}


def live(server: StreamServer, **changes: Any) -> list[dict[str, Any]]:
    return [{"name": "cam", "source": server.url, **changes}]


def daemon_of(folder: Path, bundle: Path, cameras: list[dict[str, Any]], **changes: Any) -> DaemonProcess:
    """A daemon that waits for nobody, on a line where bridges come and go."""
    return DaemonProcess(folder, bundle, cameras, publisher={"wait_for_subscribers": 0}, **changes)


def modbus(folder: Path, daemon: DaemonProcess, port: int, **changes: Any) -> BridgeProcess:
    settings = {"address": f"127.0.0.1:{port}", **changes.pop("modbus", {})}
    return BridgeProcess("modbus", folder, daemon, modbus=settings, **changes)


def has_verdict(plc: Plc) -> Callable[[], bool]:
    return lambda: plc.camera()["verdict"] in (Verdict.PASS, Verdict.FAIL)


def assert_invalid_in_time(plc: Plc, fault: Fault) -> None:
    """The register says INVALID with the fault, within the time that is promised."""
    began_s = time.monotonic()
    wait_until(lambda: plc.camera()["verdict"] == Verdict.INVALID, "INVALID", 10 * TOLD_WITHIN_S)
    took_s = time.monotonic() - began_s
    print(f"{fault.name}: INVALID after {took_s:.2f} s")
    camera = plc.camera()
    assert camera["fault"] == fault
    assert camera["reason"]
    assert camera["score"] == camera["score_1e4"] == 0
    assert took_s < TOLD_WITHIN_S


def assert_heartbeat_stands(plc: Plc) -> None:
    before = plc.line()["heartbeat"]
    until_s = time.monotonic() + 1.0
    while time.monotonic() < until_s:
        assert plc.line()["heartbeat"] == before
    assert "alive" not in plc.line_bits()


def show(folder: Path, image: fakes.Image, name: str) -> None:
    """Put a picture into a followed folder, whole from its first moment."""
    made = folder.parent / name
    cv2.imwrite(str(made), image)
    shutil.move(made, folder / name)


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


def test_a_killed_daemon_is_invalid_within_two_seconds_and_comes_back_by_itself(
    folder: Path, bundle: Path
) -> None:
    """No old PASS, a heartbeat that stands; the daemon started again, and verdicts go on with no word to the bridge."""
    port = free_port()
    with (
        StreamServer() as server,
        daemon_of(folder, bundle, live(server)) as daemon,
        modbus(folder, daemon, port) as bridge,
        Plc(port) as plc,
    ):
        wait_until(has_verdict(plc), "a verdict")
        beat = plc.line()["heartbeat"]
        wait_until(lambda: plc.line()["heartbeat"] != beat, "the heartbeat beats")
        daemon.process.kill()
        assert_invalid_in_time(plc, Fault.DAEMON_GONE)
        assert_heartbeat_stands(plc)
        assert plc.bits() == {"invalid"}
        assert plc.line()["daemon_state"] == DaemonState.UNKNOWN
        daemon.process.wait()
        with daemon_of(folder, bundle, live(server)):
            wait_until(has_verdict(plc), "verdicts come again")
            beat = plc.line()["heartbeat"]
            wait_until(lambda: plc.line()["heartbeat"] != beat, "the heartbeat beats again")
        assert bridge.stop() == 0


def test_a_daemon_that_hangs_is_invalid_within_two_seconds(folder: Path, bundle: Path) -> None:
    """SIGSTOP: its connections stay open, but nothing comes; SIGCONT, and verdicts come again."""
    port = free_port()
    with (
        StreamServer() as server,
        daemon_of(folder, bundle, live(server)) as daemon,
        modbus(folder, daemon, port),
        Plc(port) as plc,
    ):
        wait_until(has_verdict(plc), "a verdict")
        daemon.process.send_signal(signal.SIGSTOP)
        assert_invalid_in_time(plc, Fault.DAEMON_GONE)
        assert_heartbeat_stands(plc)
        daemon.process.send_signal(signal.SIGCONT)
        wait_until(has_verdict(plc), "verdicts come again")
        assert "alive" in plc.line_bits()


def test_a_job_whose_daemon_dies_is_invalid(folder: Path, bundle: Path) -> None:
    """The handshake is completed all the same; a trigger without a daemon is refused at once."""
    port = free_port()
    with (
        StreamServer() as server,
        daemon_of(folder, bundle, live(server, trigger={"mode": "software", "timeout_s": 30.0})) as daemon,
        modbus(folder, daemon, port),
        Plc(port) as plc,
    ):
        wait_until(lambda: plc.camera()["state"] == CameraState.RUNNING, "the camera runs")
        server.freeze()
        sequence = plc.camera()["sequence"]
        assert plc.trigger(8) == 0
        wait_until(lambda: "trigger_acknowledged" in plc.bits(), "the daemon takes the job")
        daemon.process.kill()
        assert_invalid_in_time(plc, Fault.DAEMON_GONE)
        camera = plc.camera()
        assert (camera["job_number"], camera["job_state"]) == (8, JobState.READY)
        assert camera["sequence"] == sequence + 1
        plc.acknowledge()
        assert plc.trigger(9) == 0
        assert "trigger_error" in plc.bits()
        camera = plc.camera()
        assert (camera["job_number"], camera["job_error"]) == (9, Fault.DAEMON_GONE)
        assert camera["verdict"] == Verdict.INVALID


def test_a_job_that_is_never_answered_is_invalid(folder: Path, bundle: Path) -> None:
    """The daemon would wait longer than the bridge does."""
    port = free_port()
    with (
        StreamServer() as server,
        daemon_of(folder, bundle, live(server, trigger={"mode": "software", "timeout_s": 30.0})) as daemon,
        modbus(folder, daemon, port, modbus={"job_timeout_s": 0.3}),
        Plc(port) as plc,
    ):
        wait_until(lambda: plc.camera()["state"] == CameraState.RUNNING, "the camera runs")
        server.freeze()
        assert plc.trigger(8) == 0
        wait_until(lambda: "result_ready" in plc.bits(), "the bridge gives up")
        camera = plc.camera()
        assert (camera["verdict"], camera["fault"]) == (Verdict.INVALID, Fault.JOB_TIMEOUT)


def test_a_lost_and_a_paused_camera_are_told_by_their_numbers(folder: Path, bundle: Path) -> None:
    """Its stream falls silent, comes back, is paused and resumed; the daemon lives all the while."""
    port = free_port()
    with (
        StreamServer() as server,
        daemon_of(folder, bundle, live(server)) as daemon,
        modbus(folder, daemon, port),
        Plc(port) as plc,
        Ear(daemon.results) as ear,
    ):
        wait_until(has_verdict(plc), "a verdict")
        server.freeze()
        ear.result(lambda header: header.frame_id is None, "the daemon tells the loss")
        assert_invalid_in_time(plc, Fault.CAMERA_LOST)
        assert "alive" in plc.line_bits()
        assert "cameras_ok" not in plc.line_bits()
        server.thaw()
        wait_until(has_verdict(plc), "verdicts come again")
        assert daemon.ask(Pause(camera="cam")).ok
        assert_invalid_in_time(plc, Fault.CAMERA_PAUSED)
        assert plc.camera()["state"] == CameraState.PAUSED
        assert daemon.ask(Resume(camera="cam")).ok
        wait_until(has_verdict(plc), "verdicts come again")


def test_a_camera_that_is_late_is_invalid_and_a_late_bridge_shows_no_old_verdict(
    folder: Path, bundle: Path
) -> None:
    """One picture and no more; a bridge that starts afterwards gets the verdict again, and does not believe it."""
    pictures = folder / "pictures"
    pictures.mkdir()
    port, late = free_port(), free_port()
    second = folder / "second"
    second.mkdir()
    cameras = [{"name": "cam", "expected_period_s": 0.4}]
    with (
        daemon_of(folder, bundle, [{"name": "cam", "source": str(pictures), "follow": True}]) as daemon,
        modbus(folder, daemon, port, cameras=cameras),
        Plc(port) as plc,
    ):
        wait_until(lambda: plc.camera()["fault"] == Fault.NO_VERDICT, "the camera is there")
        show(pictures, fakes.picture(fakes.DARK), "0.png")
        wait_until(has_verdict(plc), "a verdict")
        assert_invalid_in_time(plc, Fault.LATE)
        with modbus(second, daemon, late), Plc(late) as latecomer:
            wait_until(lambda: latecomer.camera()["captured"] == 1, "the status is there")
            until_s = time.monotonic() + 1.5
            while time.monotonic() < until_s:
                camera = latecomer.camera()
                assert (camera["verdict"], camera["fault"]) == (Verdict.NONE, Fault.NO_VERDICT)
            show(pictures, fakes.picture(fakes.DARK), "1.png")
            wait_until(has_verdict(latecomer), "a new verdict")


def test_an_address_in_use_is_said_with_what_to_do(folder: Path, bundle: Path) -> None:
    """A second bridge at the same port ends with 6."""
    port = free_port()
    second = folder / "second"
    second.mkdir()
    daemon = daemon_of(folder, bundle, [{"name": "cam", "source": "0"}])
    with modbus(folder, daemon, port), Plc(port), modbus(second, daemon, port) as late:
        assert late.wait() == 6
    assert f"modbus.address: 127.0.0.1:{port}: somebody listens there already" in late.log
    assert "Traceback" not in late.log


def test_bad_requests_get_their_exception_and_change_nothing(folder: Path, bundle: Path) -> None:
    """Addresses that are not there or not to be written, values that mean nothing, functions that are not served."""
    port = free_port()
    daemon = daemon_of(folder, bundle, [{"name": "cam", "source": "0"}])
    with modbus(folder, daemon, port), Plc(port) as plc:
        client = plc.client
        before = plc.camera(), plc.coils(), client.read_holding_registers(0, count=125).registers
        address = ExcCodes.ILLEGAL_ADDRESS
        assert exception_code(client.read_input_registers(2 * BLOCK - 1, count=2)) == address
        assert exception_code(client.read_discrete_inputs(2 * BITS, count=1)) == address
        assert exception_code(client.write_register(BLOCK + 3, 1)) == address
        assert exception_code(client.write_registers(BLOCK, [1, 2, 0, 4])) == address
        assert exception_code(client.write_register(0, 1)) == address
        assert exception_code(client.write_register(5 * BLOCK, 1)) == address
        assert exception_code(client.write_coil(0, True)) == address
        assert exception_code(client.write_coils(BITS, [True, True, True])) == address
        assert exception_code(client.write_registers(BLOCK, [1, 2, 9])) == ExcCodes.ILLEGAL_VALUE
        function = ExcCodes.ILLEGAL_FUNCTION
        assert (
            exception_code(client.readwrite_registers(read_count=1, write_address=BLOCK, values=[1]))
            == function
        )
        assert exception_code(client.report_device_id()) == function
        after = plc.camera(), plc.coils(), client.read_holding_registers(0, count=125).registers
    assert before == after


@pytest.mark.parametrize(
    ("request_hex", "answer_hex"),
    [
        ("05 0010 1234", "85 03"),  # a coil is FF00 or 0000
        ("05 0010 FF00 00", "85 03"),  # longer than it says
        ("04 0000 0000", "84 03"),
        ("04 0000 007E", "84 03"),  # 126 registers
        ("10 0064 0002 04 0001", "90 03"),  # announces two, brings one
        ("0F 0010 0001 02 01", "8F 03"),
        ("2B 0E 01 00", "AB 01"),
        ("80", "80 01"),
        ("04 0000 0001", "04 02 0001"),
    ],
)
def test_a_malformed_request_is_answered_as_the_protocol_has_it(
    silent_bridge: int, request_hex: str, answer_hex: str
) -> None:
    """On the wire, byte by byte; the transaction and the unit come back."""
    body = bytes.fromhex(request_hex)
    with socket.create_connection(("127.0.0.1", silent_bridge), 5) as client:
        client.sendall(b"\xab\xcd\0\0" + (1 + len(body)).to_bytes(2, "big") + b"\x07" + body)
        answer = client.recv(300)
    assert answer[:2] == b"\xab\xcd"
    assert answer[6:] == b"\x07" + bytes.fromhex(answer_hex)


@pytest.fixture(scope="module")
def silent_bridge(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The port of a bridge whose daemon is not there."""
    port = free_port()
    with short_folder() as folder:
        daemon = daemon_of(folder, tmp_path_factory.mktemp("none"), [{"name": "cam", "source": "0"}])
        with modbus(folder, daemon, port), Plc(port):
            yield port


def test_several_requests_at_once_are_all_answered_in_order(silent_bridge: int) -> None:
    """A client need not wait for an answer before it asks again."""
    with socket.create_connection(("127.0.0.1", silent_bridge), 5) as client:
        requests = [
            number.to_bytes(2, "big") + bytes.fromhex("0000000601 04 0000 0001") for number in range(200)
        ]
        client.sendall(b"".join(requests))
        received = b""
        while len(received) < 200 * 11:
            received += client.recv(4096)
    assert [received[at : at + 2] for at in range(0, len(received), 11)] == [
        number.to_bytes(2, "big") for number in range(200)
    ]


FLOOD = """
import socket, sys
request = bytes.fromhex("0001 0000 0006 01 04 0064 0064")
clients = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(4)]
for client in clients:
    client.setblocking(False)
while True:
    for client in clients:
        try:
            client.send(request * 1000)
        except BlockingIOError:
            pass
"""


def test_hostile_clients_stop_neither_the_bridge_nor_the_daemon(folder: Path, bundle: Path) -> None:
    """Garbage, more connections than places, and a flood whose answers nobody reads: the PLC is served throughout."""
    port = free_port()
    noise = random.Random(0)
    with (
        StreamServer() as server,
        daemon_of(folder, bundle, live(server)) as daemon,
        modbus(folder, daemon, port) as bridge,
        Plc(port) as plc,
        subprocess.Popen([sys.executable, "-c", FLOOD, str(port)]) as flood,
    ):
        wait_until(has_verdict(plc), "a verdict")
        sequence = plc.camera()["sequence"]
        idle = []
        for _ in range(100):
            with socket.create_connection(("127.0.0.1", port), 5) as client:
                client.sendall(noise.randbytes(300))
            idle.append(socket.create_connection(("127.0.0.1", port), 5))
            assert plc.camera()["fault"] == Fault.NONE
        wait_until(lambda: plc.camera()["sequence"] > sequence + 10, "verdicts go on")
        memory_kib = int(Path(f"/proc/{bridge.process.pid}/statm").read_text().split()[1]) * 4
        handles = len(list(Path(f"/proc/{bridge.process.pid}/fd").iterdir()))
        flood.kill()
        for client in idle:
            client.close()
        assert bridge.stop() == 0
    print(f"{memory_kib / 1024:.0f} MiB, {handles} handles")
    assert memory_kib < 200 * 1024
    assert handles < 32 + 30
    assert "Traceback" not in bridge.log
    assert len(bridge.log.splitlines()) < 30


def not_answered(client: socket.socket) -> bool:
    try:
        client.sendall(bytes.fromhex("0001 0000 0006 01 04 0000 0001"))
        return client.recv(100) == b""
    except ConnectionResetError:
        return True


def test_who_is_not_in_the_allow_list_is_turned_away(folder: Path, bundle: Path) -> None:
    """By address: one loopback address may connect, another may not."""
    port = free_port()
    daemon = daemon_of(folder, bundle, [{"name": "cam", "source": "0"}])
    with (
        modbus(folder, daemon, port, modbus={"allow": ["127.0.0.2/32"]}) as bridge,
        Plc(port, source="127.0.0.2") as plc,
    ):
        with socket.create_connection(("127.0.0.1", port), 5) as stranger:
            assert not_answered(stranger)
        assert plc.line()["map_version"] == 1
    assert "127.0.0.1 was turned away: it is not in modbus.allow" in bridge.log


def test_a_bridge_that_hangs_or_dies_changes_nothing_for_the_daemon(folder: Path, bundle: Path) -> None:
    """SIGSTOP, then SIGKILL: every frame is judged, and another subscriber loses nothing."""
    port = free_port()
    with (
        StreamServer() as server,
        daemon_of(folder, bundle, live(server)) as daemon,
        modbus(folder, daemon, port) as bridge,
        Plc(port) as plc,
        Ear(daemon.results) as ear,
    ):
        wait_until(has_verdict(plc), "a verdict")
        bridge.process.send_signal(signal.SIGSTOP)
        hung = ear.judged(50)
        os.kill(bridge.process.pid, signal.SIGKILL)
        dead = ear.judged(50)
        daemon.terminate()
        ear.to_the_end()
        assert daemon.wait() == 0
    assert ear.lost == 0
    for headers in (hung, dead):
        seconds = (headers[-1].captured_mono_ns - headers[0].captured_mono_ns) / 1e9
        assert seconds < 1.5 * 49 / 25  # the camera's own pace, and air for a busy machine
