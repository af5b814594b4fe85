"""dualkd-bridge mqtt between a real daemon and a real broker: what is heard, what is retained, who may do what."""

from __future__ import annotations

import asyncio
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bridging import BridgeProcess
from certificates import Authority
from dualkd.daemon.bridges.config import BridgeConfig
from dualkd.daemon.bridges.feed import CameraNow, LineNow, Orders
from dualkd.daemon.bridges.mqtt import MqttBridge
from dualkd.daemon.client import Result
from headers import result_header
from hearing import Ear
from mqtt_peers import Broker, MqttClient
from paho.mqtt.enums import MQTTProtocolVersion
from running import DaemonProcess, short_folder, wait_until
from stream_server import StreamServer

BASE = "dualkd/test"
STATUS, STATE, RESULT, REPLY = f"{BASE}/status", f"{BASE}/cam/state", f"{BASE}/cam/result", f"{BASE}/reply"
TOLD_WITHIN_S = 2.0


@pytest.fixture
def broker() -> Iterator[Broker]:
    with short_folder() as folder, Broker(folder) as running:
        yield running


@pytest.fixture
def daemon(folder: Path, bundle: Path) -> Iterator[DaemonProcess]:
    """A daemon that judges a stream's pictures."""
    with StreamServer() as server, line_of(folder, bundle, server) as running:
        yield running


def line_of(folder: Path, bundle: Path, server: StreamServer, **camera: Any) -> DaemonProcess:
    return DaemonProcess(
        folder,
        bundle,
        [{"name": "cam", "source": server.url, **camera}],
        publisher={"wait_for_subscribers": 0},
    )


@contextmanager
def bridge_to(broker: Broker, daemon: DaemonProcess, **settings: Any) -> Iterator[BridgeProcess]:
    """One that serves, or has ended."""
    folder = daemon.config_path.parent
    with BridgeProcess("mqtt", folder, daemon, mqtt={"address": broker.address, **settings}) as bridge:
        wait_until(lambda: "INFO line: " in bridge.log or bridge.process.poll() is not None, "it serves")
        yield bridge


def is_online(status: Any) -> bool:
    return bool(status["state"] == "online")


def is_ok(state: Any) -> bool:
    return bool(state["state"] == "ok")


def anything(_payload: Any) -> bool:
    return True


def told_after(seconds: float, what: str) -> None:
    print(f"{what}: told after {seconds:.2f} s")
    assert seconds < TOLD_WITHIN_S


def no_verdict_after(client: MqttClient, said_s: float) -> None:
    """Nothing of before a fault follows it."""
    late = [heard.payload["seq"] for heard in client.of(RESULT) if heard.at_s > said_s]
    assert late == []


@pytest.mark.parametrize("protocol", ["mqtt5", "mqtt3.1.1"])
def test_each_verdict_is_told_once_as_the_daemon_said_it(
    protocol: str, broker: Broker, daemon: DaemonProcess
) -> None:
    """What MQTT carries is the header of the wire, field by field, with no gap; none of it is retained."""
    version = MQTTProtocolVersion.MQTTv5 if protocol == "mqtt5" else MQTTProtocolVersion.MQTTv311
    with (
        MqttClient(broker, f"{BASE}/#", protocol=version) as client,
        bridge_to(broker, daemon, protocol=protocol),
        Ear(daemon.results) as ear,
    ):
        client.wait_for(STATUS, is_online, "the line is online")
        client.wait_for(STATE, is_ok, "the camera is ok")
        told = {
            header.seq: msgspec.json.decode(msgspec.json.encode(header))
            for header in ear.judged(30)
            if not header.retained
        }
        last = max(told)
        client.wait_for(RESULT, lambda header: header["seq"] >= last, "the last of them")
        heard = {one.payload["seq"]: one.payload for one in client.of(RESULT)}
        numbers = [one.payload["seq"] for one in client.of(RESULT)]
    common = told.keys() & heard.keys()
    assert len(common) > 20
    assert all(heard[seq] == told[seq] for seq in common)
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert client.of(STATE)[-1].payload["status"]["recipe"]["name"] == "default"


def test_a_late_client_gets_status_and_state_but_no_old_verdict(
    broker: Broker, daemon: DaemonProcess
) -> None:
    """Retained are what is true now; verdicts are news or nothing."""
    with MqttClient(broker) as early, bridge_to(broker, daemon) as bridge:
        early.wait_for(RESULT, anything, "verdicts come")
        with MqttClient(broker, f"{BASE}/#") as late:
            assert late.wait_for(STATUS, is_online, "the status").retained
            assert late.wait_for(STATE, is_ok, "the state").retained
            late.wait_for(RESULT, anything, "a new verdict")
            assert {heard.topic for heard in late.heard if heard.retained} == {STATUS, STATE}
        assert bridge.stop() == 0


def test_a_bridge_that_ends_leaves_nothing_well_behind(broker: Broker, daemon: DaemonProcess) -> None:
    """SIGTERM: the line has lost its bridge, and the camera is at fault."""
    with MqttClient(broker) as client, bridge_to(broker, daemon) as bridge:
        client.wait_for(STATE, is_ok, "the camera is ok")
        assert bridge.stop() == 0
        with MqttClient(broker, f"{BASE}/#") as late:
            status = late.wait_for(STATUS, anything, "the status").payload
            state = late.wait_for(STATE, anything, "the state").payload
    assert (status["state"], status["reason"]) == ("bridge_gone", "the bridge was ended")
    assert (state["state"], state["fault"]) == ("fault", "the bridge was ended")


def test_of_a_bridge_that_is_killed_the_broker_says_so(broker: Broker, daemon: DaemonProcess) -> None:
    """At once by its will; and what it said of cameras is forgotten."""
    with MqttClient(broker) as client, bridge_to(broker, daemon) as bridge:
        client.wait_for(STATE, is_ok, "the camera is ok")
        killed_s = time.monotonic()
        bridge.process.kill()
        gone = client.wait_for(STATUS, lambda status: status["state"] == "bridge_gone", "the will", killed_s)
        told_after(gone.at_s - killed_s, "bridge killed")
        assert gone.payload["utc_ns"] is None

        def forgotten() -> bool:
            with MqttClient(broker, f"{BASE}/#") as late:
                late.wait_for(STATUS, anything, "the status")
                return {heard.topic for heard in late.heard} == {STATUS}

        wait_until(forgotten, "the camera's state is forgotten")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_daemon_that_is_gone_is_told_and_comes_back(
    number: signal.Signals, broker: Broker, daemon: DaemonProcess
) -> None:
    """Dead or hanging: line and camera say so, no verdict follows, and all is well again by itself."""
    with MqttClient(broker) as client, bridge_to(broker, daemon):
        client.wait_for(RESULT, anything, "verdicts come")
        stopped_s = time.monotonic()
        daemon.process.send_signal(number)
        gone = client.wait_for(STATUS, lambda status: status["state"] == "daemon_gone", "the line", stopped_s)
        state = client.wait_for(STATE, lambda state: not is_ok(state), "the camera", stopped_s)
        told_after(max(gone.at_s, state.at_s) - stopped_s, f"daemon gets {number.name}")
        assert gone.payload["reason"]
        repeated_s = client.wait_for(STATUS, anything, "it is said again", gone.at_s).at_s
        no_verdict_after(client, gone.at_s)
        if number == signal.SIGSTOP:
            daemon.process.send_signal(signal.SIGCONT)
            check_comes_back(client, repeated_s)
        else:
            daemon.process.wait()
            with daemon:
                check_comes_back(client, repeated_s)


def test_last_words_of_a_daemon_that_is_gone_are_not_told(broker: Broker) -> None:
    """What was on its way when it died is no verdict of now; the first after it is back is, and comes after that."""
    config = msgspec.convert(
        {"line": "test", "cameras": [{"name": "cam"}], "mqtt": {"address": broker.address}}, BridgeConfig
    )
    gone, back = (LineNow(fault, None, {"cam": CameraNow(fault, None)}) for fault in ("gone", ""))

    async def hear(client: MqttClient) -> None:
        async with MqttBridge(config, Orders(None)) as bridge:
            await bridge.condition(gone)
            await asyncio.to_thread(client.wait_for, STATUS, anything, "the line is gone")
            for number, now in enumerate((gone, gone, back)):
                await bridge.verdict(Result("", result_header(seq=number), None, 0))
                await bridge.condition(now)
            await asyncio.to_thread(
                client.wait_for, RESULT, anything, "the verdict of the daemon that is back"
            )

    with MqttClient(broker) as client:
        asyncio.run(hear(client))
        ended = client.wait_for(STATUS, lambda status: status["state"] == "bridge_gone", "the end")
        assert [heard.payload["seq"] for heard in client.of(RESULT)] == [2]
        online = client.wait_for(STATUS, is_online, "the line is back")
        assert online.at_s <= client.of(RESULT)[0].at_s
    assert ended.payload["lost"] == 2


def check_comes_back(client: MqttClient, since_s: float) -> None:
    client.wait_for(STATUS, is_online, "the line is back", since_s)
    back_s = client.wait_for(STATE, is_ok, "the camera is back", since_s).at_s
    client.wait_for(RESULT, anything, "verdicts again", back_s)


def test_a_camera_that_is_lost_is_told_of_a_line_that_lives(
    broker: Broker, folder: Path, bundle: Path
) -> None:
    """Its stream falls silent: the camera is at fault, the line stays online."""
    with (
        StreamServer() as server,
        line_of(folder, bundle, server) as daemon,
        MqttClient(broker) as client,
        bridge_to(broker, daemon),
    ):
        client.wait_for(STATE, is_ok, "the camera is ok")
        server.freeze()
        lost = client.wait_for(STATE, lambda state: "no frame for 1.5 s" in state["fault"], "the loss")
        assert client.of(STATUS)[-1].payload["state"] == "online"
        invalid = client.of(RESULT)[-1].payload
        assert (invalid["verdict"], invalid["frame_id"]) == ("INVALID", None)
        server.thaw()
        client.wait_for(STATE, is_ok, "the camera is back", lost.at_s)


def test_a_broker_that_dies_is_found_again_and_told_what_was_lost(
    broker: Broker, daemon: DaemonProcess
) -> None:
    """It is away for longer than verdicts are held: none that is older comes, and their number is said."""
    hold_s = 0.5
    with bridge_to(broker, daemon, hold_s=hold_s) as bridge, Ear(daemon.results) as ear:
        with MqttClient(broker) as client:
            client.wait_for(RESULT, anything, "verdicts come")
            broker.kill()
            away_ns = ear.judged()[0].captured_mono_ns
            ear.result(lambda header: header.captured_mono_ns > away_ns + 3e9, "a broker away for 3 s")
            started_ns = time.time_ns()
            broker.start()
            since_s = time.monotonic()
            client.wait_for(STATUS, lambda status: status["lost"] > 20, "the number of the lost", since_s)
            client.wait_for(RESULT, anything, "verdicts again", since_s)
            oldest = min(one.payload["captured_utc_ns"] for one in client.of(RESULT) if one.at_s > since_s)
        assert oldest > started_ns - hold_s * 1e9
        wait_until(lambda: "messages lost so far" in bridge.log, "the log says so")
        lines = [line for line in bridge.log.splitlines() if "broker 127.0.0.1" in line]
    assert len(lines) <= 5, lines  # connected, lost, nobody there, connected
    assert "nobody listens there" in bridge.log


def test_a_broker_that_comes_later_is_waited_for(broker: Broker, daemon: DaemonProcess) -> None:
    """The bridge starts without one, and says once that nobody is there."""
    broker.kill()
    with bridge_to(broker, daemon) as bridge:
        wait_until(lambda: "nobody listens there" in bridge.log, "the log says so")
        broker.start()
        with MqttClient(broker) as client:
            client.wait_for(STATE, is_ok, "the camera is ok")
            client.wait_for(RESULT, anything, "verdicts come")
    assert bridge.log.count("nobody listens there") == 1


def test_a_broker_that_hangs_is_noticed_and_found_again(broker: Broker, daemon: DaemonProcess) -> None:
    """It is SIGSTOPped, with its connections open: after keepalive_s it counts as lost; the bridge's memory stays."""
    with bridge_to(broker, daemon, keepalive_s=1, hold_s=0.5) as bridge:
        with MqttClient(broker) as client:
            client.wait_for(RESULT, anything, "verdicts come")
        broker.freeze()
        wait_until(lambda: "the connection was lost" in bridge.log, "the log says so")
        broker.thaw()
        with MqttClient(broker) as client:
            status = client.wait_for(STATUS, lambda status: is_online(status) and status["lost"] > 0, "back")
            client.wait_for(RESULT, anything, "verdicts again", status.at_s)


def test_only_the_right_password_gets_in(folder: Path, daemon: DaemonProcess) -> None:
    """A wrong one is named in one line, and tried again; the bridge does not end."""
    passwords = folder / "passwords"
    passwords.touch(mode=0o600)
    subprocess.run(["mosquitto_passwd", "-b", str(passwords), "line", "right"], check=True)
    broker = Broker(folder, "allow_anonymous false", f"password_file {passwords}")
    secret = folder / "secret"
    secret.touch(mode=0o600)
    secret.write_text("wrong\n")
    access = {"user": "line", "password_file": str(secret)}
    with broker:
        with bridge_to(broker, daemon, **access) as bridge:
            wait_until(lambda: "refuses this bridge: " in bridge.log, "the refusal is named")
            assert "mqtt.password_file" in bridge.log
            assert bridge.stop() == 0
        secret.write_text("right\n")
        with (
            bridge_to(broker, daemon, **access) as bridge,
            MqttClient(broker, user="line", password="right") as client,
        ):
            client.wait_for(RESULT, anything, "verdicts come")
            assert "right" not in bridge.log
        secret.chmod(0o644)
        with bridge_to(broker, daemon, **access) as bridge:
            assert bridge.wait() == 2
            assert "others can read this secret" in bridge.log


def test_tls_wants_the_right_authority_on_both_sides(folder: Path, daemon: DaemonProcess) -> None:
    """Our own authority is accepted; another one, no certificate and no TLS at all are refused by name."""
    ours, other = Authority(folder, "ours"), Authority(folder, "other")
    certificate, key = ours.issue("broker")
    settings = [
        f"cafile {ours.ca}", f"certfile {certificate}", f"keyfile {key}", "require_certificate true",
        "allow_anonymous true",
    ]  # fmt: skip
    own = dict(zip(("certificate", "key"), map(str, ours.issue("bridge")), strict=True))
    context = ssl.create_default_context(cafile=str(ours.ca))
    context.load_cert_chain(*ours.issue("client"))
    with Broker(folder, *settings) as broker:
        for tls, said in (
            ({"ca": str(other.ca), **own}, "TLS failed: its certificate is not accepted: "),
            ({"ca": str(ours.ca)}, "does it want a certificate (mqtt.tls.certificate)?"),
            (None, "does it want TLS (mqtt.tls)?"),
        ):
            with bridge_to(broker, daemon, tls=tls) as bridge:
                wait_until(lambda said=said, bridge=bridge: said in bridge.log, said)  # type: ignore[misc]
                assert bridge.stop() == 0
        with (
            bridge_to(broker, daemon, tls={"ca": str(ours.ca), **own}),
            MqttClient(broker, tls=context) as client,
        ):
            client.wait_for(STATE, is_ok, "the camera is ok")
            first = client.wait_for(RESULT, anything, "verdicts come")
            client.wait_for(RESULT, lambda header: header["seq"] > first.payload["seq"] + 50, "50 more")


def test_what_a_broker_does_not_take_is_named(folder: Path, daemon: DaemonProcess) -> None:
    """Its access rules let the bridge publish status and state but no verdict."""
    rules = folder / "rules"
    rules.write_text(f"topic write {STATUS}\ntopic write {STATE}\ntopic read #\n")
    with (
        Broker(folder, "allow_anonymous true", f"acl_file {rules}") as broker,
        bridge_to(broker, daemon) as bridge,
        MqttClient(broker) as client,
    ):
        client.wait_for(STATUS, is_online, "the line is online")
        wait_until(lambda: f"does not take {RESULT}: Not authorized" in bridge.log, "the refusal is named")
        client.wait_for(STATUS, lambda status: status["lost"] > 0, "what was refused is lost")
        assert client.of(RESULT) == []


def test_commands_trigger_and_choose_recipes_and_are_answered(folder: Path, bundle: Path) -> None:
    """The reply comes where it is wanted, and the verdict carries the job."""
    with (
        StreamServer() as server,
        line_of(folder, bundle, server, trigger={"mode": "software", "timeout_s": 5.0}) as daemon,
        Broker(folder) as broker,
        bridge_to(broker, daemon, commands=True),
        MqttClient(broker) as client,
    ):
        client.wait_for(STATUS, is_online, "the line is online")
        wait_until(lambda: daemon.status().cameras["cam"].state == "running", "the camera runs")
        client.publish(f"{BASE}/command/trigger", {"id": "1", "camera": "cam", "job_id": "part-7"})
        assert reply_to(client, "1") == {
            "schema": 1,
            "id": "1",
            "ok": True,
            "message": "done",
            "status": None,
        }
        client.wait_for(RESULT, lambda header: header["job_id"] == "part-7", "the job's verdict")

        client.publish(
            f"{BASE}/command/recipe",
            {"id": "2", "recipe": "default"},
            response="plc/answers",
            correlation=b"\x07",
        )
        answer = client.wait_for("plc/answers", lambda reply: reply["id"] == "2", "the answer")
        assert (answer.payload["ok"], answer.correlation) == (True, b"\x07")


@pytest.mark.parametrize(
    ("topic", "payload", "message"),
    [
        (
            "trigger",
            {"id": "1", "camera": "cam", "job_id": "j"},
            "camera cam judges every frame (trigger.mode: free)",
        ),
        (
            "trigger",
            {"id": "1", "camera": "other", "job_id": "j"},
            "this bridge has no camera 'other'; it has: cam",
        ),
        (
            "recipe",
            {"id": "1", "recipe": "secret"},
            "recipe 'secret' may not be chosen here; these may: default",
        ),
        ("recipe", {"id": "1"}, "not a command: Object missing required field `recipe`"),
        (
            "recipe",
            {"id": "1", "recipe": "default", "x": 1},
            "not a command: Object contains unknown field `x`",
        ),
        ("trigger", b"\xff{", "not a command: JSON is malformed"),
        ("trigger", b" " * 20_000, "not a command: it has 20000 bytes, more than 16384"),
    ],
)
def test_a_command_that_cannot_be_carried_out_is_answered_why(
    topic: str, payload: Any, message: str, commanded: MqttClient
) -> None:
    """Whether the daemon refuses, the bridge does, or it is none."""
    before_s = time.monotonic()
    commanded.publish(f"{BASE}/command/{topic}", payload)
    reply = commanded.wait_for(REPLY, anything, "the reply", before_s).payload
    assert not reply["ok"]
    assert message in reply["message"]


@pytest.fixture(scope="module")
def commanded(bundle: Path) -> Iterator[MqttClient]:
    """A client of a line that takes commands."""
    with (
        short_folder() as folder,
        StreamServer() as server,
        line_of(folder, bundle, server) as daemon,
        Broker(folder) as broker,
        bridge_to(broker, daemon, commands=True),
        MqttClient(broker) as client,
    ):
        client.wait_for(STATE, is_ok, "the camera is ok")
        yield client


@pytest.mark.parametrize("wanted", [STATUS, RESULT, "dualkd/other/status", "$SYS/x"])
def test_nobody_has_the_bridge_speak_in_its_own_name(wanted: str, commanded: MqttClient) -> None:
    """A response topic among the bridges' own, or the broker's, is refused, and nothing is done."""
    before_s = time.monotonic()
    commanded.publish(f"{BASE}/command/recipe", {"recipe": "default"}, response=wanted)
    reply = commanded.wait_for(REPLY, anything, "the reply", before_s).payload
    assert reply["message"].startswith(f"{wanted!r} is no topic to reply to")
    assert all("ok" not in heard.payload for heard in commanded.of(wanted))


def test_old_commands_and_uninvited_ones_do_nothing(broker: Broker, daemon: DaemonProcess) -> None:
    """One that was retained is ignored; where `commands` is false none is even heard."""
    recipe = {"id": "9", "recipe": "default"}
    with MqttClient(broker) as client:
        client.publish(f"{BASE}/command/recipe", recipe, retain=True)
        with bridge_to(broker, daemon, commands=True) as bridge:
            wait_until(lambda: "ignored: it was retained" in bridge.log, "the log says so")
            client.publish(f"{BASE}/command/recipe", recipe)
            assert reply_to(client, "9")["ok"]
            assert bridge.stop() == 0
        with bridge_to(broker, daemon):
            client.wait_for(STATE, is_ok, "the camera is ok", time.monotonic())
            since_s = time.monotonic()
            client.publish(f"{BASE}/command/recipe", recipe)
            client.wait_for(
                STATUS, lambda status: status["utc_ns"] > time.time_ns() - 1e9, "time passes", since_s + 3
            )
    assert len(client.of(REPLY)) == 1


def reply_to(client: MqttClient, request_id: str) -> Any:
    return client.wait_for(
        REPLY, lambda reply: reply["id"] == request_id, f"the reply to {request_id}"
    ).payload


def test_a_bridge_with_no_route_ends_when_told(folder: Path, daemon: DaemonProcess) -> None:
    """An address that answers nothing holds up neither the loop nor SIGTERM."""
    with BridgeProcess("mqtt", folder, daemon, mqtt={"address": "192.0.2.1:1883"}) as bridge:
        wait_until(lambda: "is another host and mqtt.tls is null" in bridge.log, "the warning")
        began_s = time.monotonic()
        assert bridge.stop() == 0
        assert time.monotonic() - began_s < 3.0
