"""`method: snl` goes the same way as any other: the same trainer, export, daemon's engine and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from dualkd.daemon.bundle import Precision, load_bundle
from dualkd.daemon.engine_onnx import OnnxEngine
from dualkd.export.__main__ import main as export_main
from dualkd.train.__main__ import main as train_main
from dualkd.train.checkpoint import load_detector, read_run
from dualkd.train.detector import infer


@pytest.fixture(scope="module", params=["students=both", "local.prototypes=64"])
def bundle(
    request: pytest.FixtureRequest, small_config: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The bundle of a small SNL run, with the bottleneck and both students, or with prototypes; run beside it."""
    folder = tmp_path_factory.mktemp("snl")
    settings = ["method=snl", "snl.centres=8", f"run={folder / 'run'}", request.param]
    assert train_main([str(small_config), *(word for one in settings for word in ("--set", one))]) == 0
    command = [str(folder / "run"), "--out", str(folder / "bundle"), "--fp16", "--onnx-only"]
    assert export_main(command) == 0
    return folder / "bundle"


def test_a_bundle_made_by_snl_says_what_the_trained_model_says(bundle: Path) -> None:
    """On frames it has never seen, through the daemon's engine, in both precisions."""
    detector, run = load_detector(bundle.parent / "run")
    assert run.config.method == load_bundle(bundle).manifest.method == "snl"
    assert "local.aggregation.centres" in detector.student_state()
    frames = np.random.default_rng(5).integers(0, 256, (4, 56, 84, 3), dtype=np.uint8)
    expected = infer(detector, torch.from_numpy(frames))
    assert set(expected) == {"d_local", "d_semantic", "anomaly_map"}
    for precision in get_args(Precision):
        with OnnxEngine.of(load_bundle(bundle), precision=precision) as engine:
            got = engine.infer(frames)
        relative, absolute = (0.0, 1e-4) if precision == "fp32" else (2e-3, 0.0)
        for name, values in expected.items():
            np.testing.assert_allclose(getattr(got, name), values.numpy(), relative, absolute)


def test_snl_learns_and_is_held_to_the_same_gate(bundle: Path) -> None:
    """The run is complete and calibrated, its loss fell, and the export was compared with it."""
    run = read_run(bundle.parent / "run")
    assert run.complete
    assert run.calibration is not None
    assert run.losses["local"] < 2.0  # four pieces start near 2.5
    parity = load_bundle(bundle).manifest.parity
    assert parity.verdict_flips == 0
    assert parity.max_difference_local is not None
    assert parity.max_difference_local <= 1e-4
