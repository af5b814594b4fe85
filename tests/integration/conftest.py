"""For daemons: a folder and a bundle. A small trained run, made once a session with random teacher weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import fakes
import numpy as np
import pytest
import timm
import torch
import yaml
from dualkd.export.__main__ import main as export_main
from dualkd.train.__main__ import main as train_main
from running import short_folder
from safetensors.torch import save_file

TEACHER = "vit_small_patch14_dinov2"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for a daemon and its sockets."""
    with short_folder() as path:
        yield path


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle that judges brightness (see fakes.py). Whoever wants to damage one writes another."""
    return fakes.write_bundle(tmp_path_factory.mktemp("brightness") / "bundle")


@pytest.fixture(scope="session")
def teacher_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the real teacher's shape: enough for everything but accuracy."""
    torch.manual_seed(0)
    model = timm.create_model(TEACHER, pretrained=False, num_classes=0, init_values=1.0)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_file(model.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def good_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures of a grey ring at changing places."""
    folder = tmp_path_factory.mktemp("data") / "rings"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(40):
        image = rng.normal(60, 4, (84, 84, 3))
        centre = (42 + rng.integers(-6, 7, 2)).tolist()
        cv2.circle(image, centre, 22, (150, 160, 170), 7)
        cv2.imwrite(str(folder / f"{index:03d}.png"), np.clip(image, 0, 255).astype(np.uint8))
    return folder


@pytest.fixture(scope="session")
def small_config(tmp_path_factory: pytest.TempPathFactory, good_images: Path, teacher_weights: Path) -> Path:
    """A configuration that trains in seconds; its run folder is `run` beside it."""
    folder = tmp_path_factory.mktemp("small")
    config = {
        "run": str(folder / "run"),
        "name": "rings",
        "data": {"root": str(good_images), "hold_out": 0.5},
        "input": {"height": 56, "width": 84},
        "teacher": {"name": TEACHER, "weights": str(teacher_weights)},
        "local": {"blocks": [0, 1, 2, 3], "prototypes": 0, "depth": 2},
        "semantic": {
            "blocks": [3],
            "grid": 2,
            "depth": 1,
            "width": 48,
            "heads": 3,
            "side": 42,
            "alignment": 0.5,
        },
        "training": {"steps": 12, "batch": 4, "warmup": 2, "device": "cpu"},
        "calibration": {"false_reject_rate": 0.1},
    }
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def small_run(small_config: Path) -> Path:
    assert train_main([str(small_config)]) == 0
    return small_config.parent / "run"


@pytest.fixture(scope="session")
def small_bundle(small_run: Path) -> Path:
    bundle = small_run.parent / "bundle"
    assert export_main([str(small_run), "--out", str(bundle), "--fp16", "--onnx-only"]) == 0
    return bundle
