"""The demo: render a line, train on its good parts, export, run the daemon on its film, compare with the truth.

Everything goes through the same commands that a user has. Nothing here sees the film's truth before the
verdicts are in, and a wrong verdict is shown as one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from statistics import median

import numpy as np
from dualkd.daemon.client import Result, Subscriber
from dualkd.daemon.messages import StageTimes
from dualkd.export.demo_line import PartTruth, Truth, write_film, write_training_images
from dualkd.export.demo_parts import GOOD
from dualkd.export.demo_processes import DemoError, free_ports, run_module
from dualkd.export.demo_watch import watch_line
from dualkd.train.datasets import open_dataset, read_samples
from dualkd.train.metrics import detection_metrics
from dualkd.train.report import Tile, write_sheet

TRAINING_SEED, FILM_SEED = 1, 7  # settings were chosen on films of other seeds
TRAINING_IMAGES, FILM_PARTS = 280, 60
SILENCE_S = 120.0  # longest wait for the next verdict


@dataclass(frozen=True, slots=True)
class JudgedPart:
    """A part and the frame on which it was judged worst, of those that show it whole."""

    truth: PartTruth
    frame_id: int
    worst: Result

    @property
    def failed(self) -> bool:
        return self.worst.header.verdict != "PASS"

    @property
    def right(self) -> bool:
        return self.failed == (self.truth.defect != GOOD)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 the line was judged (well or not), 1 a step failed."""
    parser = argparse.ArgumentParser(prog="python -m dualkd.export.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/demo"), help="folder for everything it makes")
    parser.add_argument(
        "--view", action="store_true", help="show the line that was made before in the browser, until Ctrl-C"
    )
    chosen = parser.parse_args(arguments)
    out: Path = chosen.out
    out.mkdir(parents=True, exist_ok=True)
    configs = Path(str(files("dualkd.configs"))) / "demo"
    started = time.monotonic()
    try:
        if chosen.view:
            watch_line(configs, out)
            return 0
        with step("1/4 rendering the line: good parts to learn from, and a film with faults in it"):
            write_training_images(out / "good", TRAINING_IMAGES, TRAINING_SEED)
            truth = write_film(out / "film.mp4", FILM_SEED, FILM_PARTS)
        with step("2/4 training on good parts only"):
            data, run = f"data.root={out / 'good'}", f"run={out / 'run'}"
            command = [
                "dualkd.train",
                str(configs / "train.yaml"),
                "--set",
                data,
                "--set",
                run,
                "--overwrite",
            ]
            run_module(*command)
        with step("3/4 exporting the bundle"):
            run_module("dualkd.export", str(out / "run"), "--out", str(out / "bundle"))
        with step("4/4 the daemon judges the film"):
            results, seconds = judge_film(configs / "daemon.yaml", out)
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    parts = judge_parts(truth, results)
    report = "\n\n".join((format_parts(parts), format_speed(results, truth, seconds)))
    (out / "report.md").write_text(report + "\n", encoding="utf-8")
    draw_parts(parts, out / "film.mp4", out / "parts.png")
    print(f"\n{report}\n\nlook at {out / 'parts.png'} (every part with its heatmap)")
    print(f"the whole demo took {time.monotonic() - started:.0f} s")
    print("\nwatch the line being judged, in the browser: make view")
    return 0


def judge_film(config: Path, out: Path) -> tuple[list[Result], float]:
    """Run the daemon as a process on the film and subscribe to it: its results, and the seconds they took."""
    results_endpoint, scores_endpoint = (f"tcp://127.0.0.1:{port}" for port in free_ports(2))
    overrides = [
        f"recipes.default.bundle={out / 'bundle'}",
        f"cameras.0.source={out / 'film.mp4'}",
        f"publisher.results={results_endpoint}",
        f"publisher.scores={scores_endpoint}",
    ]
    command = [sys.executable, "-m", "dualkd.daemon", str(config)]
    daemon = subprocess.Popen([*command, *(word for item in overrides for word in ("--set", item))])
    try:
        with Subscriber(results_endpoint, timeout_s=SILENCE_S, until_ended=True) as subscriber:
            results = []
            for result in subscriber:
                results.append(result)
        if daemon.wait(SILENCE_S) != 0:
            raise DemoError(f"the daemon ended with status {daemon.returncode}")
    finally:
        daemon.kill()
    first, last = results[0].header, results[-1].header
    return results, (last.captured_mono_ns - first.captured_mono_ns) / 1e9 + last.stage_ms.total / 1e3


def judge_parts(truth: Truth, results: Sequence[Result]) -> list[JudgedPart]:
    """Give each part the worst of the frames that show it whole: one bad frame rejects a part."""
    by_frame = {result.header.frame_id: result for result in results}
    judged = []
    for part in truth.parts:
        seen = range(part.first_frame, part.last_frame + 1)
        frame_id = max(seen, key=lambda frame: badness(by_frame[frame]))
        judged.append(JudgedPart(part, frame_id, by_frame[frame_id]))
    return judged


def badness(result: Result) -> float:
    """The score; a frame that could not be judged is worse than any score."""
    return 2.0 if result.header.score is None else result.header.score


def format_parts(parts: Sequence[JudgedPart]) -> str:
    """Truth against verdict, a row a kind of fault, and the image AUROC over parts."""
    names = [GOOD, *sorted({part.truth.defect for part in parts} - {GOOD})]
    lines = ["| truth | parts | PASS | FAIL | wrong |", "|---|---:|---:|---:|---|"]
    for name in names:
        group = [part for part in parts if part.truth.defect == name]
        counts = Counter(part.worst.header.verdict for part in group)
        wrong = ", ".join(
            f"{p.truth.id} {p.truth.kind} ({badness(p.worst):.2f})" for p in group if not p.right
        )
        lines.append(f"| {name} | {len(group)} | {counts['PASS']} | {counts['FAIL']} | {wrong} |")
    faulty = np.array([part.truth.defect != GOOD for part in parts])
    auroc = detection_metrics(faulty, np.array([badness(part.worst) for part in parts]))["auroc"]
    lines += [
        "",
        f"image AUROC over {len(parts)} parts: {auroc:.4f} (a part's score is its worst whole frame's)",
    ]
    return "\n".join(lines)


def format_speed(results: Sequence[Result], truth: Truth, seconds: float) -> str:
    """Frames a second and the median milliseconds of each stage."""
    lost = sum(result.lost for result in results)
    stages = [
        f"{name} {median(getattr(result.header.stage_ms, name) for result in results):.1f}"
        for name in StageTimes.__struct_fields__
    ]
    return (
        f"{len(results)} messages for {truth.frame_count} frames, {lost} lost; "
        f"{len(results) / seconds:.1f} frames a second\nmedian milliseconds: {', '.join(stages)}"
    )


def draw_parts(parts: Sequence[JudgedPart], film: Path, path: Path) -> None:
    """One sheet of all parts in the frame on which they were judged, wrong verdicts first."""
    frames = open_dataset(film, "video").train
    order = sorted(parts, key=lambda part: part.frame_id)
    images = read_samples([frames[part.frame_id] for part in order])
    tiles = []
    for part, image in zip(order, images, strict=True):
        header = part.worst.header
        scale = 2 * (header.region_threshold or 0.5)
        anomaly_map = None if part.worst.anomaly_map is None else part.worst.anomaly_map / scale
        title = f"{part.truth.id} {part.truth.kind}: {part.truth.defect}"
        subtitle = f"{header.verdict} {badness(part.worst):.3f}{'' if part.right else '  WRONG'}"
        tiles.append(Tile(image, anomaly_map, None, title, subtitle, not part.right))
    sections = (
        ("Wrong verdicts", [tile for tile in tiles if tile.wrong]),
        ("Faults found", [t for t, p in zip(tiles, order, strict=True) if p.right and p.failed]),
        ("Good parts passed", [t for t, p in zip(tiles, order, strict=True) if p.right and not p.failed]),
    )
    write_sheet([(title, section) for title, section in sections if section], path)


@contextmanager
def step(title: str) -> Iterator[None]:
    """Announce a step and say how long it took."""
    print(f"\n== {title}", flush=True)
    started = time.monotonic()
    yield
    print(f"   {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
