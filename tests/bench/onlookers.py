"""Who looks on costs the line nothing: verdicts a second and latency, alone and with all sorts of onlookers.

    python tests/bench/onlookers.py [--seconds 8] [--rounds 2]

One daemon, two cameras: films of 1920 x 1080 at 15 frames a second each that do not wait (overload: newest), and the
tests' small graph, so that what is measured is the daemon. In turn, in one run: nobody; dualkd-view without a
browser; with a page that takes in all it can; the same view stopped (SIGSTOP) in mid-conversation; twenty
subscribers that come and go without reading; requests to the control socket as fast as they are answered, and
nonsense. Latency is from capture to sending.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))
import aiohttp
import fakes
import numpy as np
import yaml
import zmq
from dualkd.daemon import control_messages as requests
from dualkd.daemon.client import Result, Subscriber, SubscriberTimeoutError
from dualkd.daemon.control_messages import encode_request
from running import DaemonProcess, Program, short_folder, wait_until

RATE, FRAMES = 15.0, 60
URL = "http://127.0.0.1:8579"


class Row(NamedTuple):
    verdicts: float  # a second
    dropped: int
    median_ms: float
    p99_ms: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    rows: dict[str, list[Row]] = {}
    with short_folder() as folder:
        bundle = fakes.write_bundle(folder / "bundle")
        film = write_film(folder / "film.avi")
        cameras = [
            {"name": name, "source": str(film), "loop": True, "overload": "newest"} for name in ("one", "two")
        ]
        with (
            DaemonProcess(folder, bundle, cameras, publisher={"wait_for_subscribers": 0}) as daemon,
            Subscriber(daemon.scores) as subscriber,
        ):
            situations: dict[str, Callable[[], AbstractContextManager[object]]] = {
                "nobody": nobody,
                "view, no browser": lambda: view(daemon, folder),
                "view and a page": lambda: watched(daemon, folder),
                "view and a page, both stopped": lambda: stopped(daemon, folder),
                "20 subscribers that come and go": lambda: crowd(daemon),
                "control flooded": lambda: flood(daemon),
            }
            for _ in range(options.rounds):
                for name, situation in situations.items():
                    with situation():
                        rows.setdefault(name, []).append(measure(daemon, subscriber, options.seconds))
    print("| onlookers | verdicts /s | dropped | latency ms | p99 ms |\n|---|---:|---:|---:|---:|")
    for name, measured in rows.items():
        rate, dropped, median_ms, p99_ms = np.mean(measured, axis=0)
        print(f"| {name} | {rate:.2f} | {dropped:.0f} | {median_ms:.1f} | {p99_ms:.1f} |")


def write_film(path: Path) -> Path:
    rng = np.random.default_rng(0)
    texture = rng.integers(20, 80, (1080, 1920, 3), np.uint8)
    images = (fakes.with_square(texture, 20 * index, 400, 100) for index in range(FRAMES))
    return fakes.write_video(path, images, fps=RATE)


def measure(daemon: DaemonProcess, subscriber: Subscriber, seconds: float) -> Row:
    """The verdicts of the next seconds, after one that does not count."""
    for result in results(subscriber, 1.0):
        del result
    dropped = total_dropped(daemon)
    began_s = time.monotonic()
    latencies = [result.header.stage_ms.total for result in results(subscriber, seconds)]
    rate = len(latencies) / (time.monotonic() - began_s)
    return Row(
        rate,
        total_dropped(daemon) - dropped,
        float(np.median(latencies)),
        float(np.percentile(latencies, 99)),
    )


def results(subscriber: Subscriber, seconds: float) -> Iterator[Result]:
    until_s = time.monotonic() + seconds
    while (left_s := until_s - time.monotonic()) > 0:
        try:
            received = subscriber.receive(left_s)
        except SubscriberTimeoutError:
            return
        if isinstance(received, Result) and not received.header.retained:
            yield received


def total_dropped(daemon: DaemonProcess) -> int:
    return sum(sum(camera.dropped.values()) for camera in daemon.status().cameras.values())


@contextmanager
def nobody() -> Iterator[None]:
    yield


@contextmanager
def view(daemon: DaemonProcess, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    config = {
        "line": "test",
        "scores": daemon.scores,
        "preview": daemon.preview,
        "control": daemon.control,
        "address": URL.removeprefix("http://"),
    }
    path = folder / "view.yaml"
    path.write_text(yaml.safe_dump(config))
    with Program(folder / "view.log", "dualkd.daemon.view.command", str(path)) as program:
        wait_until(lambda: "the view of line" in program.log, "the view")
        yield program.process


@contextmanager
def watched(daemon: DaemonProcess, folder: Path) -> Iterator[tuple[int, int]]:
    """A page as a process of its own; yields the numbers of the view's and of the page's process."""
    with view(daemon, folder) as process:
        page = os.fork()
        if page == 0:
            try:
                asyncio.run(take_in_all())
            finally:
                os._exit(0)
        try:
            yield process.pid, page
        finally:
            os.kill(page, signal.SIGKILL)
            os.waitpid(page, 0)


@contextmanager
def stopped(daemon: DaemonProcess, folder: Path) -> Iterator[None]:
    with watched(daemon, folder) as processes:
        time.sleep(1.0)
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        yield
        for pid in processes:
            os.kill(pid, signal.SIGCONT)


async def take_in_all() -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{URL}/live", headers={"Origin": URL}) as socket,
    ):
        async for message in socket:
            await socket.send_str("p" if message.type is aiohttp.WSMsgType.BINARY else "u")


@contextmanager
def crowd(daemon: DaemonProcess) -> Iterator[None]:
    """In a process of its own: connects twenty sockets to all that is published, reads nothing, closes, again."""
    with beside(lambda: come_and_go([daemon.results, daemon.scores, daemon.preview])):
        yield


def come_and_go(endpoints: list[str]) -> None:
    while True:
        context = zmq.Context()
        for number in range(20):
            socket = context.socket(zmq.SUB)
            socket.connect(endpoints[number % len(endpoints)])
            socket.subscribe("")
        time.sleep(0.5)
        context.destroy(linger=0)


@contextmanager
def flood(daemon: DaemonProcess) -> Iterator[None]:
    with beside(lambda: ask_for_ever(daemon.control)):
        yield


def ask_for_ever(endpoint: str) -> None:
    socket = zmq.Context().socket(zmq.DEALER)
    socket.connect(endpoint)
    while True:
        socket.send(encode_request(requests.Status()))
        socket.send(b"\x00nonsense" * 100)
        for _ in range(2):
            socket.recv_multipart()


@contextmanager
def beside(work: Callable[[], None]) -> Iterator[None]:
    """Run `work` in a process of its own meanwhile."""
    process = os.fork()
    if process == 0:
        try:
            work()
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


if __name__ == "__main__":
    main()
