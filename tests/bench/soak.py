"""Long life: many frames through the real daemon with everything switched on, and what it holds meanwhile.

    python tests/bench/soak.py [--frames 200000] [--cameras 4] [--rate 150]

Films of small pictures, judged by the small bundle of tests/fakes.py, so that the daemon and not the model is
what runs. Meanwhile a subscriber counts every message, the archive keeps every FAIL and each 50th PASS within a
budget that it reaches early, metrics are scraped, and the recipe and its thresholds change every second.
Prints resident memory, handles, threads and processes after the first 10,000 frames and at the end; ends with 1
if memory grew by more than 2 %, if handles did not stay equal, or if a frame is not accounted for.
"""

from __future__ import annotations

import argparse
import itertools
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))
import fakes
import numpy as np
from dualkd.daemon import control_messages as requests
from dualkd.daemon.client import Controller
from dualkd.daemon.messages import StatusHeader
from running import DaemonProcess, short_folder
from tqdm import tqdm

SETTLED = 10_000
GROWTH = 0.02


class Held(NamedTuple):
    """What a process holds itself, its capture processes not counted."""

    resident_mib: float
    handles: int
    threads: int
    children: int


def held(pid: int) -> Held:
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
    )
    return Held(
        resident_mib=int(status["VmRSS"].split()[0]) / 1024,
        handles=len(list(Path(f"/proc/{pid}/fd").iterdir())),
        threads=int(status["Threads"]),
        children=sum(len(path.read_text().split()) for path in Path(f"/proc/{pid}/task").glob("*/children")),
    )


def pictures(count: int) -> Iterator[fakes.Image]:
    """Dark ones, and one in a hundred bright: a FAIL. With grain, so that the archive's budget is soon reached."""
    grain = np.random.default_rng(0).integers(-20, 20, (48, 64, 3))
    dark, bright = ((level + grain).astype(np.uint8) for level in (fakes.DARK, fakes.BRIGHT))
    return (bright if number % 100 == 99 else dark for number in range(count))


def disturb(control: str, metrics: str, stop: threading.Event) -> None:
    """Ask, change and scrape, one after the other, until told to stop."""
    wishes: Iterator[requests.AnyRequest] = itertools.cycle(
        [
            requests.Status(),
            requests.Recipe(recipe="other"),
            requests.SetThreshold(recipe="other", fail=0.6, warn=0.4),
            requests.Snapshot(camera="cam0"),
            requests.Recipe(recipe="default"),
            requests.SetThreshold(recipe="other", fail="calibrated", warn="off"),
        ]
    )
    with Controller(control) as controller:
        while not stop.wait(0.2):
            controller.ask(next(wishes), timeout_s=30)
            with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=30) as page:
                page.read()


def open_accounts(status: StatusHeader, frames: int) -> list[str]:
    """A line for every camera whose frames are not all accounted for."""
    wrong = []
    for name, camera in status.cameras.items():
        ended = camera.passed + camera.failed + camera.invalid + sum(camera.dropped.values())
        if not camera.captured == ended == frames:
            wrong.append(f"camera {name}: {frames} frames in, {camera.captured} captured, {ended} ended")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=200_000, help="of all cameras together")
    parser.add_argument("--cameras", type=int, default=4)
    parser.add_argument("--rate", type=float, default=150.0, help="frames a second of each")
    options = parser.parse_args()
    each = options.frames // options.cameras
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        metrics = f"127.0.0.1:{free.getsockname()[1]}"
    measured: dict[int, Held] = {}
    every = options.frames // 10
    with short_folder() as folder:
        bundle, other = (fakes.write_bundle(folder / name, max_batch=8) for name in ("bundle", "other"))
        film = fakes.write_video(folder / "film.avi", pictures(each), fps=options.rate)
        daemon = DaemonProcess(
            folder,
            bundle,
            [{"name": f"cam{n}", "source": str(film)} for n in range(options.cameras)],
            recipes={"default": {"bundle": str(bundle)}, "other": {"bundle": str(other)}},
            publisher={"when_full": "block"},
            archive={"folder": str(folder / "archive"), "every_nth_pass": 50, "max_mib": 1, "queue": 64},
            metrics={"address": metrics},
        )
        stop = threading.Event()
        disturber = threading.Thread(target=disturb, args=(daemon.control, metrics, stop))
        received, began_s = 0, time.monotonic()
        with daemon, daemon.subscriber() as subscriber, tqdm(total=options.frames, unit="frame") as bar:
            for _ in subscriber:
                received += 1
                bar.update()
                if received == 1:
                    disturber.start()
                if received % every == SETTLED % every and received >= SETTLED:
                    measured[received] = held(daemon.process.pid)
                if received == options.frames - SETTLED // 2:
                    stop.set()
            seconds = time.monotonic() - began_s
            lost, status, ended = subscriber.lost, subscriber.status, daemon.wait()
    disturber.join()
    early, late = measured[SETTLED], list(measured.values())[-1]
    print(
        f"{received} messages in {seconds:.0f} s, {received / seconds:.0f} a second, {lost} lost, exit status {ended}"
    )
    print("| frames | resident MiB | handles | threads | processes |\n|---:|---:|---:|---:|---:|")
    for when, what in measured.items():
        print(f"| {when} | {what.resident_mib:.1f} | {what.handles} | {what.threads} | {what.children} |")
    growth = late.resident_mib / early.resident_mib - 1
    print(f"memory grew by {growth:.2%}")
    wrong = ["no status came"] if status is None else open_accounts(status, each)
    wrong += [f"{lost} messages lost"] * bool(lost) + [f"exit status {ended}"] * bool(ended)
    wrong += [f"memory grew by more than {GROWTH:.0%}"] * (growth > GROWTH)
    wrong += ["handles are not equal"] * (early.handles != late.handles)
    print("\n".join(wrong) or "all accounts are closed")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
