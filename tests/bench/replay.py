"""Replay a film through the real daemon and a real subscriber: start-up, frames a second, stages, memory.

python tests/bench/replay.py BUNDLE FILM [--threads N] [--batch N]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dualkd.daemon.client import Result
from dualkd.daemon.messages import StageTimes
from running import DaemonProcess, short_folder


def resident_mib(pid: int) -> float:
    """Resident memory of a process now."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("film", type=Path)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    cameras = [{"name": "film", "source": str(options.film.resolve()), "pace": "max"}]
    results: list[Result] = []
    memory: list[float] = []
    with short_folder() as folder:
        process = DaemonProcess(
            folder,
            options.bundle.resolve(),
            cameras,
            engine={"threads": options.threads},
            batch={"size": options.batch},
            publisher={"when_full": "block"},
        )
        started = time.monotonic()
        with process as daemon, daemon.subscriber() as subscriber:
            for result in subscriber:
                if not results:
                    first_verdict_s = time.monotonic() - started
                results.append(result)
                if len(results) % 50 == 0:
                    memory.append(resident_mib(daemon.process.pid))
            lost, status = subscriber.lost, daemon.wait()
    spans = [result.header.captured_mono_ns / 1e9 + result.header.stage_ms.total / 1e3 for result in results]
    print(
        f"exit status {status}; {len(results)} messages, {lost} lost; first verdict {first_verdict_s:.2f} s after start"
    )
    print(f"{(len(results) - 1) / (spans[-1] - spans[0]):.2f} frames a second")
    print("| stage | median ms | p99 ms |\n|---|---:|---:|")
    for name in StageTimes.__struct_fields__:
        values = np.array([getattr(result.header.stage_ms, name) for result in results])
        print(f"| {name} | {np.median(values):.2f} | {np.percentile(values, 99):.2f} |")
    early, late = (
        np.median(memory[: max(1, len(memory) // 4)]),
        np.median(memory[-max(1, len(memory) // 4) :]),
    )
    print(
        f"resident memory: {early:.1f} MiB in the first quarter, {late:.1f} MiB in the last, peak {max(memory):.1f} MiB"
    )


if __name__ == "__main__":
    main()
