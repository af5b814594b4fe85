"""The students and the detector around them: what is built, what is dropped, what attention computes."""

from __future__ import annotations

import pytest
import torch
from dualkd.train.config import DataConfig, InputConfig, LocalConfig, SemanticConfig, TrainConfig
from dualkd.train.detector import Detector, infer
from dualkd.train.model import LinearAttention


def config(students: str = "both") -> TrainConfig:
    return TrainConfig(
        run="unused",
        data=DataConfig(root="unused"),
        students=students,  # type: ignore[arg-type]
        input=InputConfig(height=42, width=56),
        local=LocalConfig(blocks=[0, 1, 2], prototypes=0, depth=2),
        semantic=SemanticConfig(blocks=[1, 3], grid=2, depth=2, width=48, heads=3, side=28),
    )


@pytest.mark.parametrize(
    ("students", "names"),
    [
        ("both", ["d_local", "d_semantic", "anomaly_map"]),
        ("local", ["d_local", "anomaly_map"]),
        ("semantic", ["d_semantic"]),
    ],
)
def test_a_student_switched_off_is_not_built(students: str, names: list[str]) -> None:
    """Neither its outputs nor its parameters, nor teacher blocks that only it reads."""
    detector = Detector(config(students)).eval()
    outputs = infer(detector, torch.zeros(2, 42, 56, 3, dtype=torch.uint8))
    assert list(outputs) == names
    parts = {key.split(".")[0].removesuffix("_metric") for key in detector.student_state()}
    assert parts == ({"local", "semantic"} if students == "both" else {students})
    assert len(detector.teacher.network.blocks) == (3 if students == "local" else 4)
    if "anomaly_map" in outputs:
        assert outputs["anomaly_map"].shape == (2, 3, 4)


def test_linear_attention_equals_its_definition() -> None:
    """phi(q) phi(k)^T v, normalised over keys, with phi = elu + 1; computed without the N x N matrix."""
    torch.manual_seed(0)
    attention = LinearAttention(12, heads=3)
    tokens = torch.randn(2, 7, 12)
    query, key, value = attention.qkv(tokens).view(2, 7, 3, 3, 4).permute(2, 0, 3, 1, 4)
    weights = (torch.nn.functional.elu(query) + 1) @ (torch.nn.functional.elu(key) + 1).transpose(-2, -1)
    weights = weights / weights.sum(-1, keepdim=True)
    expected = attention.proj((weights @ value).transpose(1, 2).reshape(2, 7, 12))
    torch.testing.assert_close(attention(tokens), expected)
