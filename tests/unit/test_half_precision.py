"""What of a detector is halved, and what is left whole."""

from __future__ import annotations

import torch
from compiling import Case, random_detector
from dualkd.export.half_precision import HalfAttention, HalfLinear, halve
from dualkd.train.detector import Detector
from torch import float32, nn, randint, uint8


def test_a_convolutional_teacher_is_left_whole() -> None:
    """Rounded, it is another network; the student that reads it has halves all the same."""
    case = Case("dual", "local", "tf_efficientnet_lite0", 64, 1)
    detector = random_detector(case, local_blocks=[2, 4], semantic_blocks=[3])
    halve(detector, randint(0, 256, (2, 64, 64, 3), dtype=uint8), "fp16")
    assert {tensor.dtype for tensor in detector.teacher.parameters()} == {float32}
    assert detector.local is not None
    kinds = {type(part) for part in detector.local.modules() if isinstance(part, (nn.Linear, HalfLinear))}
    assert kinds == {HalfLinear}


def small_vit() -> Detector:
    torch.manual_seed(0)
    return random_detector(
        Case("dual", "both", "vit_small_patch14_dinov2", 56, 1), local_blocks=[0, 1], semantic_blocks=[1]
    )


def test_what_all_keys_share_costs_no_digits() -> None:
    """Scores of hundreds, as DINOv2's, would be rounded to 0.25; what all keys share changes no softmax."""
    detector, frames = small_vit(), randint(0, 256, (2, 56, 56, 3), dtype=uint8)
    blocks = detector.teacher.network.blocks
    tokens = torch.randn(2, 17, blocks[0].attn.qkv.in_features)
    with torch.no_grad():
        for block in blocks:
            block.attn.qkv.weight.mul_(5)  # attention that looks at few tokens
            query, key, _ = block.attn.qkv.bias.chunk(3)
            query.add_(3.0)
            key.add_(30.0)
    expected = blocks[0].attn(tokens)
    halve(detector, frames, "fp16")
    half = blocks[0].attn
    assert isinstance(half, HalfAttention)
    assert half.qkv.bias.chunk(3)[1].abs().mean() < 3
    assert (half(tokens) - expected).abs().max() < 2e-3 * expected.abs().max()


def test_scales_of_queries_and_keys_are_exact_in_half_precision() -> None:
    detector = small_vit()
    halve(detector, randint(0, 256, (2, 56, 56, 3), dtype=uint8), "fp16")
    scales = [part.scale for part in detector.modules() if isinstance(part, HalfAttention)]
    assert len(scales) > 2
    assert set(scales) == {0.25**2}


def test_attention_that_normalises_its_keys_keeps_them() -> None:
    """Keys moved before a norm would be other keys."""
    detector, frames = small_vit(), randint(0, 256, (2, 56, 56, 3), dtype=uint8)
    attention = detector.teacher.network.blocks[0].attn
    attention.q_norm, attention.k_norm = nn.LayerNorm(64), nn.LayerNorm(64)
    expected = detector(frames)
    halve(detector, frames, "fp16")
    assert detector.teacher.network.blocks[0].attn is attention
    assert isinstance(detector.teacher.network.blocks[1].attn, HalfAttention)
    for found, wanted in zip(detector(frames), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-3)
