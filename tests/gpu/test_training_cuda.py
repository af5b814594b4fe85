"""What needs a CUDA GPU: the detector's agreement with the CPU, and training in mixed precision."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
from dualkd.train.config import (
    DataConfig,
    InputConfig,
    LocalConfig,
    OptimConfig,
    SemanticConfig,
    TeacherConfig,
    TrainConfig,
)
from dualkd.train.detector import Detector, infer
from dualkd.train.trainer import train
from safetensors.torch import save_file

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA GPU")

TEACHER = "vit_small_patch14_dinov2"


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    torch.manual_seed(0)
    model = timm.create_model(TEACHER, pretrained=False, num_classes=0, init_values=1.0)
    save_file(model.state_dict(), tmp_path / "random.safetensors")
    rng = np.random.default_rng(0)
    (tmp_path / "good").mkdir()
    for index in range(24):
        image = np.clip(rng.normal(90, 30, (56, 56, 3)), 0, 255).astype(np.uint8)
        cv2.imwrite(str(tmp_path / f"good/{index:02d}.png"), image)
    return TrainConfig(
        run=str(tmp_path / "run"),
        data=DataConfig(root=str(tmp_path / "good"), hold_out=0.3),
        input=InputConfig(height=56, width=56),
        teacher=TeacherConfig(weights=str(tmp_path / "random.safetensors")),
        local=LocalConfig(blocks=[1, 2], depth=2, prototypes=64),
        semantic=SemanticConfig(blocks=[2], grid=2, depth=2, width=48, heads=3),
        training=OptimConfig(steps=40, batch=8, warmup=5, device="cuda"),
    )


def test_the_gpu_says_what_the_cpu_says(config: TrainConfig) -> None:
    """The same untrained detector, the same frames, FP32 on both."""
    torch.manual_seed(1)
    detector = Detector(config).eval()
    frames = torch.randint(0, 256, (4, 56, 56, 3), dtype=torch.uint8)
    on_cpu = infer(detector, frames)
    on_gpu = infer(detector.cuda(), frames.cuda())
    for name, values in on_cpu.items():
        torch.testing.assert_close(on_gpu[name], values, rtol=2e-3, atol=2e-3)


def test_training_in_mixed_precision_learns_and_calibrates(config: TrainConfig) -> None:
    """The semantic loss falls, nothing becomes NaN, and the run is complete."""
    run = train(config)
    assert run.complete
    assert run.device == "cuda"
    assert all(np.isfinite(value) for value in run.losses.values())
    assert run.losses["semantic"] < 0.5
    assert run.calibration is not None
