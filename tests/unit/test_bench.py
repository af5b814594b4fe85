"""dualkd-bench: turns of the daemon's judge beside the floor that the graph and the machine set."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import cv2
import fakes
import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from dualkd.daemon.bench.ceilings import CeilingError, Ceilings, sample_cores
from dualkd.daemon.bench.command import main
from dualkd.daemon.bench.report import Report, Spread, figures_of, floor_of, roof_of
from dualkd.daemon.bench.turns import Bench, Turn, measure
from dualkd.daemon.bundle import load_bundle, write_manifest
from dualkd.daemon.config import RecipeConfig
from dualkd.daemon.engine import Engine, EngineError, RawPrediction
from dualkd.daemon.recipes import Recipe
from dualkd.daemon.work import OperatorWork, Work

WORK = Work(
    weight_bytes=6_000_000,
    frame_bytes=1_000_000,
    operators=[
        OperatorWork(operator="MatMul", nodes=2, flop=4_000_000_000, bytes=0),
        OperatorWork(operator="Mystery", nodes=1, flop=None, bytes=500_000),
    ],
)


class RecordingEngine(fakes.SteeredEngine):
    """Notes what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[int | str] = []

    def infer(self, frames: npt.NDArray[np.uint8]) -> RawPrediction:
        self.events.append(len(frames))
        return super().infer(frames)

    def sample(self) -> Ceilings:
        self.events.append("sample")
        return Ceilings(1e9, 1e9)


class ClockedEngine(fakes.SteeredEngine):
    """On a device with a clock of its own."""

    device_ms = 0.25


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The bundle that judges brightness, with a made-up work."""
    path = fakes.write_bundle(tmp_path / "bundle")
    manifest = load_bundle(path).manifest
    graphs = [msgspec.structs.replace(graph, work=WORK) for graph in manifest.graphs]
    write_manifest(path, msgspec.structs.replace(manifest, graphs=graphs))
    return path


def recipe_of(bundle: Path, engine: Engine) -> Recipe:
    return Recipe("bench", RecipeConfig(bundle=str(bundle)), load_bundle(bundle), engine, None, None)


def test_the_floor_is_the_longer_of_products_and_bytes() -> None:
    """4 GFLOP a frame, 6 MB of weights a batch, 1 MB a frame: by hand, on two machines."""
    quick_memory = roof_of("tests", [Ceilings(1e12, 1e10)])
    floor = floor_of(WORK, 2, quick_memory)
    assert (floor.ms, floor.bound) == (pytest.approx(8.0), "matrix")  # the bytes take 0.8 ms
    slow_memory = roof_of("tests", [Ceilings(1e12, 1e8)])
    floor = floor_of(WORK, 2, slow_memory)
    assert (floor.ms, floor.bound) == (pytest.approx(80.0), "memory")


def test_a_ceiling_is_the_median_of_its_samples() -> None:
    """One lucky or unlucky sample moves its range, not the floor."""
    roof = roof_of("tests", [Ceilings(90.0, 9.0), Ceilings(100.0, 10.0), Ceilings(500.0, 1.0)])
    assert (roof.flop_s.least, roof.flop_s.median, roof.flop_s.most) == (90.0, 100.0, 500.0)
    assert (roof.bytes_s.least, roof.bytes_s.median, roof.bytes_s.most) == (1.0, 9.0, 10.0)


@pytest.mark.parametrize(("count", "told"), [(19, []), (20, ["p95"]), (99, ["p95"]), (100, ["p95", "p99"])])
def test_a_tail_is_told_only_from_enough_turns(count: int, told: list[str]) -> None:
    """The p99 of ten turns would be a guess."""
    spread = Spread.of([float(value) for value in range(count)])
    assert spread.p50 == pytest.approx((count - 1) / 2)
    assert [name for name in ("p95", "p99") if getattr(spread, name) is not None] == told


def test_batch_sizes_and_samples_take_turns(bundle: Path) -> None:
    """Drift falls on all of them: after the warm-up every round has a sample and a slice of each batch size."""
    engine = RecordingEngine()
    bench = Bench(recipe_of(bundle, engine), largest=4)
    turns, samples = measure(bench, [1, 4], 1.0, engine.sample, lambda _: None)
    order = [event for event, _ in groupby(engine.events)]
    assert order[:2] == [1, 4]
    assert order[2:] == ["sample", 1, 4] * len(samples)
    assert len(samples) > 1
    measured = engine.events[engine.events.index("sample") :]
    assert [len(turns[batch]) for batch in (1, 4)] == [measured.count(1), measured.count(4)]


def test_a_turn_is_the_whole_way_of_its_frames(bundle: Path) -> None:
    """Engine, resizing, decision and message are parts of the path."""
    turn = Bench(recipe_of(bundle, fakes.SteeredEngine()), largest=3).turn(3)
    assert turn.device is None
    parts = (turn.engine, turn.resize, turn.decide, turn.message)
    assert min(parts) > 0
    assert turn.path > turn.engine + 3 * turn.message


def test_an_engine_that_fails_is_not_timed(bundle: Path) -> None:
    """An INVALID verdict is quick, and no figure."""
    bench = Bench(recipe_of(bundle, fakes.SteeredEngine(fail_calls=[1])), largest=1)
    bench.turn(1)
    with pytest.raises(EngineError, match="steered to fail"):
        bench.turn(1)


def test_a_device_is_told_apart_from_the_host(bundle: Path) -> None:
    """With a clock on the device, the share reached is the device's."""
    turn = Bench(recipe_of(bundle, ClockedEngine()), largest=1).turn(1)
    assert turn.device == 0.25
    figures = figures_of(1, [turn], floor_of(WORK, 1, roof_of("tests", [Ceilings(8e12, 1e12)])))
    assert figures.device_ms == Spread(p50=0.25, p95=None, p99=None)
    assert figures.floor is not None
    assert figures.floor.ms == pytest.approx(0.5)
    assert figures.share == pytest.approx(2.0)


def test_throughput_counts_frames_not_batches() -> None:
    """Two batches of 4, 10 and 30 ms in the engine: 200 frames a second."""
    turns = [Turn(engine, None, engine + 1, 0.1, 0.1, 0.1) for engine in (10.0, 30.0)]
    assert figures_of(4, turns, None).frames_s == pytest.approx(200)


def test_the_cores_are_measured() -> None:
    """A core of any machine does more than a million of each a second."""
    sample = sample_cores(1)
    assert min(sample) > 1e6


def test_cores_that_cannot_be_measured_are_an_error() -> None:
    """The other process's last word is passed on."""
    with pytest.raises(CeilingError, match=r"ended with status 1 \(ValueError.*free some and run again"):
        sample_cores(0)


def test_the_command_reports_what_it_measured(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Batch sizes that the bundle takes, floors from its work and the measured ceilings; table, JSON and plot."""
    out = tmp_path / "out"
    assert main([str(bundle), "--threads", "1", "--seconds", "0.2", "--out", str(out)]) == 0
    report = msgspec.json.decode((out / "bench.json").read_bytes(), type=Report)
    assert [figures.batch for figures in report.batches] == [1, 2, 4]
    assert report.threads == 1
    assert report.bundle_sha256 == load_bundle(bundle).sha256
    assert report.work == WORK
    assert report.roof is not None
    for figures in report.batches:
        assert figures.floor == floor_of(WORK, figures.batch, report.roof)
    plot = cv2.imread(str(out / "bench.png"))
    assert plot is not None
    assert len(np.unique(plot.reshape(-1, 3), axis=0)) > 3
    printed = capsys.readouterr().out
    assert "brightness" in printed
    assert "weights none" in printed
    assert report.roof.of == "1 core, float32 products by NumPy, copies in memory"
    assert report.roof.of in printed
    assert "not in these FLOP: Mystery" in printed
    assert "| batch | turns | engine p50 ms |" in printed
    assert "device p50" not in printed


def test_a_bundle_without_its_work_has_no_floor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bundle from before the work was counted is measured all the same."""
    bundle = fakes.write_bundle(tmp_path / "bundle")
    assert main([str(bundle), "--threads", "1", "--seconds", "0.1", "--batch", "1"]) == 0
    printed = capsys.readouterr().out
    assert "no floor: the bundle does not say what work its graph is; export it again" in printed
    assert "floor ms" not in printed
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_what_cannot_be_measured_is_refused(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A batch beyond the bundle's, a graph that is not there: status 1 and why, no table."""
    assert main([str(bundle), "--batch", "1", "16"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "--batch 16" in said.err
    assert "takes 1 to 4 frames" in said.err
    assert main([str(bundle), "--precision", "fp16"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "holds no fp16 graph" in said.err


@pytest.mark.parametrize(
    "wrong",
    [
        ["--threads", "-1"],
        ["--seconds", "0"],
        ["--seconds", "nan"],
        ["--engine", "tensorrt", "--provider", "cuda"],
    ],
)
def test_a_wrong_command_line_is_status_2(bundle: Path, wrong: list[str]) -> None:
    """Nothing is measured."""
    with pytest.raises(SystemExit, match="2"):
        main([str(bundle), *wrong])
