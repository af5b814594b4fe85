"""What of a detector is halved, and what is left whole."""

from __future__ import annotations

from compiling import Case, random_detector
from dualkd.export.half_precision import HalfLinear, halve
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
