"""From a frame's capture to a PLC's register, beside the subscriber's socket; and bridges that hang or are flooded.

    python tests/bench/bridge_latency.py [--seconds 30] [--rate 25]

The real daemon with the small bundle of tests/fakes.py (no weights) on a stream of pictures, the real bridge,
and in processes of their own a subscriber and pymodbus's client. First the daemon's verdicts without a bridge,
with one, with one that is stopped (SIGSTOP), and with one that four clients flood; then how soon a verdict is at
the subscriber and in the register, for the same frames. The client polls as fast as it can, and sees a change at
the end of the first read that began after it: half a poll's time on average, and the way back, count against the
register, so the table says what a poll takes. Ends with 1 if the register comes more than 10 ms after the socket
(medians), or if a phase has 5 % fewer verdicts than the first.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import fakes
from bridging import BridgeProcess
from dualkd.daemon.client import Subscriber
from dualkd.daemon.messages import ResultHeader
from plc import Plc
from pymodbus.client import ModbusTcpClient
from running import DaemonProcess, free_port, short_folder, wait_until
from stream_server import StreamServer

LATER_MS = 10.0
FEWER = 0.05
FRAME_ID = 100 + 14
READ_CAMERA = bytes.fromhex("0001 0000 0006 01 04 0064 0064")
ANSWER_BYTES = 9 + 2 * 100
AT_ONCE = 50

Row = tuple[int, ...]


def listen(endpoint: str, until_s: float) -> Iterator[Row]:
    """Frames as a subscriber gets them: number, when captured, when it came."""
    with Subscriber(endpoint) as subscriber:
        while time.monotonic() < until_s:
            header = subscriber.receive(10).header
            now_ns = time.monotonic_ns()
            if isinstance(header, ResultHeader) and not header.retained and header.frame_id is not None:
                yield header.frame_id, header.captured_mono_ns, now_ns


def poll(port: str, until_s: float) -> Iterator[Row]:
    """Frames as a PLC sees them: number, when the read that showed it began and ended."""
    client = ModbusTcpClient("127.0.0.1", port=int(port))
    client.connect()
    shown = None
    while time.monotonic() < until_s:
        began_ns = time.monotonic_ns()
        high, low = client.read_input_registers(FRAME_ID, count=2).registers
        now_ns = time.monotonic_ns()
        frame = high << 16 | low
        if frame != shown and shown is not None:
            yield frame, began_ns, now_ns
        shown = frame
    client.close()


def flood(port: str, until_s: float) -> Iterator[Row]:
    """Ask over four connections, with many requests on each at once, and read every answer: how many came."""
    answers = 0
    clients = [socket.create_connection(("127.0.0.1", int(port))) for _ in range(4)]
    while time.monotonic() < until_s:
        for client in clients:
            client.sendall(READ_CAMERA * AT_ONCE)
        for client in clients:
            client.recv(ANSWER_BYTES * AT_ONCE, socket.MSG_WAITALL)
        answers += AT_ONCE * len(clients)
    yield (answers,)


DOES = {"listen": listen, "poll": poll, "flood": flood}


@contextmanager
def spawned(what: str, where: str, seconds: float) -> Iterator[list[Row]]:
    """One of the above in a process of its own; what it yields is there at the end."""
    command = [sys.executable, __file__, "--do", what, where, "--seconds", str(seconds)]
    rows: list[Row] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield rows
        assert process.stdout is not None
        rows.extend(tuple(int(number) for number in line.split()) for line in process.stdout)


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def median_ms(values_ns: Iterable[int]) -> float:
    return statistics.median(values_ns) / 1e6


def measure_latency(daemon: DaemonProcess, port: int, seconds: float) -> bool:
    """Whether the register is quick enough behind the socket; printed."""
    with spawned("listen", daemon.results, seconds) as heard, spawned("poll", str(port), seconds) as polled:
        pass
    seen = {frame: (began_ns, ended_ns) for frame, began_ns, ended_ns in polled}
    both = [(captured, came, *seen[frame]) for frame, captured, came in heard if frame in seen]
    socket_ms = median_ms(came - captured for captured, came, _, _ in both)
    register_ms = median_ms(ended - captured for captured, _, _, ended in both)
    later_ms = median_ms(ended - came for _, came, _, ended in both)
    print(f"\nmedian ms of {len(both)} frames\n")
    print("| capture to subscriber's socket | capture to register, as polled | socket to register | a poll |")
    print("|---:|---:|---:|---:|")
    poll_ms = median_ms(ended - began for _, _, began, ended in both)
    print(f"| {socket_ms:.2f} | {register_ms:.2f} | {later_ms:.2f} | {poll_ms:.2f} |")
    return register_ms - socket_ms <= LATER_MS


def measure_rate(daemon: DaemonProcess, bridge: BridgeProcess | None, phase: str, seconds: float) -> float:
    """The verdicts a second of a phase; printed with what else it took."""
    dropped = sum(daemon.status().cameras["cam"].dropped.values())
    used_s = cpu_s(bridge.process.pid) if bridge else 0.0
    with spawned("listen", daemon.results, seconds) as heard:
        pass
    dropped = sum(daemon.status().cameras["cam"].dropped.values()) - dropped
    used = f"{(cpu_s(bridge.process.pid) - used_s) / seconds:.0%}" if bridge else ""
    rate = len(heard) / seconds
    came_ms = median_ms(came - captured for _, captured, came in heard)
    print(f"| {phase} | {rate:.2f} | {dropped} | {came_ms:.2f} | {used} |", flush=True)
    return rate


def main() -> int:
    parser = argparse.ArgumentParser(description="how much later a verdict is in a Modbus register")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement")
    parser.add_argument("--rate", type=float, default=25.0, help="pictures a second")
    parser.add_argument("--do", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.do:
        what, where = arguments.do
        for row in list(DOES[what](where, time.monotonic() + arguments.seconds)):  # a full pipe would stop it
            print(*row)
        return 0
    with ExitStack() as stack:
        folder = stack.enter_context(short_folder())
        server = stack.enter_context(StreamServer(rate=arguments.rate))
        bundle = fakes.write_bundle(folder / "bundle")
        camera = {"name": "cam", "source": server.url}
        publisher = {"wait_for_subscribers": 0}
        daemon = stack.enter_context(DaemonProcess(folder, bundle, [camera], publisher=publisher))
        wait_until(lambda: Path(daemon.control.removeprefix("ipc://")).exists(), "the daemon answers")
        wait_until(lambda: daemon.status().cameras["cam"].captured > 20, "frames come")
        phase = arguments.seconds
        print(
            "| | verdicts/s | frames dropped | ms to the subscriber | the bridge's CPU |\n|---|---:|---:|---:|---:|"
        )
        rates = [measure_rate(daemon, None, "no bridge", phase)]
        port = free_port()
        settings = {"address": f"127.0.0.1:{port}"}
        bridge = stack.enter_context(BridgeProcess("modbus", folder, daemon, modbus=settings))
        with Plc(port) as plc:
            wait_until(lambda: plc.camera()["fault"] == 0, "the bridge follows")
        rates.append(measure_rate(daemon, bridge, "a bridge", phase))
        bridge.process.send_signal(signal.SIGSTOP)
        rates.append(measure_rate(daemon, bridge, "stopped", phase))
        bridge.process.send_signal(signal.SIGCONT)
        with spawned("flood", str(port), phase) as flooded:
            rates.append(measure_rate(daemon, bridge, "flooded", phase))
        print(f"\n{flooded[0][0] / phase:,.0f} requests of the flood answered a second")
        quick = measure_latency(daemon, port, phase)
    return 0 if quick and min(rates) >= (1 - FEWER) * rates[0] else 1


if __name__ == "__main__":
    sys.exit(main())
