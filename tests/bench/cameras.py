"""Several cameras on one engine: frames judged a second, and what the daemon costs beside the engine.

    python tests/bench/cameras.py BUNDLE [--cameras 1 2 4 8] [--rate 2.0] [--seconds 20] [--threads 0]

Every camera is a film of 640 x 480 at `--rate` frames a second that does not wait (overload: newest), so frames
judged a second grow with the cameras until the engine is full, and what is too much is dropped and counted. The
daemon's own cost is the time between the first frame taken and the last verdict sent in which the engine did not
run, where the engine was full: a share of the engine's time.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))
import cv2
import fakes
import numpy as np
from running import DaemonProcess, short_folder

WIDTH, HEIGHT = 640, 480


class Row(NamedTuple):
    cameras: int
    offered: float  # frames a second
    judged: float
    dropped: int
    engine_ms: float  # a frame, median
    busy: float  # share of the time in which the engine ran
    latency_ms: float  # capture to sending, median


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--cameras", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--rate", type=float, default=2.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    print(
        "| cameras | offered /s | judged /s | dropped | engine ms a frame | engine busy | own cost | latency ms |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    for cameras in options.cameras:
        row = measure(options.bundle.resolve(), cameras, options.rate, options.seconds, options.threads)
        cost = f"{1 / row.busy - 1:.1%}" if row.dropped else "-"
        print(
            f"| {row.cameras} | {row.offered:.1f} | {row.judged:.2f} | {row.dropped} | {row.engine_ms:.1f} "
            f"| {row.busy:.1%} | {cost} | {row.latency_ms:.0f} |",
            flush=True,
        )


def measure(bundle: Path, cameras: int, rate: float, seconds: float, threads: int) -> Row:
    """Run the daemon over `cameras` films and read its messages."""
    noise = np.random.default_rng(0)
    with short_folder() as folder:
        picture = cv2.resize(noise.integers(0, 255, (30, 40, 3), np.uint8), (WIDTH, HEIGHT))
        film = fakes.write_video(folder / "film.avi", [picture] * round(rate * seconds), fps=rate)
        daemon = DaemonProcess(
            folder,
            bundle,
            [{"name": f"cam{n}", "source": str(film), "overload": "newest"} for n in range(cameras)],
            engine={"threads": threads},
        )
        with daemon, daemon.subscriber() as subscriber:
            headers = [result.header for result in subscriber]
            status = subscriber.status
            if daemon.wait() != 0 or status is None:
                sys.exit(f"the daemon ended with {daemon.process.returncode}:\n{daemon.log}")
    sent_ms = [header.captured_mono_ns / 1e6 + header.stage_ms.total for header in headers]
    engine_ms = [header.stage_ms.infer / header.batch for header in headers]
    span_ms = sent_ms[-1] - sent_ms[0] + headers[0].stage_ms.infer
    return Row(
        cameras=cameras,
        offered=cameras * rate,
        judged=len(headers) / span_ms * 1e3,
        dropped=sum(sum(camera.dropped.values()) for camera in status.cameras.values()),
        engine_ms=float(np.median(engine_ms)),
        busy=sum(engine_ms) / span_ms,
        latency_ms=float(np.median([header.stage_ms.total for header in headers])),
    )


if __name__ == "__main__":
    main()
