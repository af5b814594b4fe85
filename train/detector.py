"""The whole detector as one module: a uint8 frame in, distances and anomaly map out.

This is what evaluation scores with and what export turns into a graph. Thresholds and probabilities are
not in it: they belong to dualkd.daemon.decision, where an operator can move them.
"""

from __future__ import annotations

import torch
from dualkd.train.anomaly_map import AnomalyMap
from dualkd.train.config import PATCH_PX, TrainConfig
from dualkd.train.model import LocalStudent, SemanticStudent, Teacher, TeacherTokens, semantic_size
from dualkd.train.pixels import AreaResize, Normalise
from dualkd.train.semantic_metric import SemanticMetric
from torch import Tensor, nn

TRAINED = ("local.", "semantic.", "semantic_metric.")


class Detector(nn.Module):
    """Teacher, students and scoring. A student that `students` switches off is not built at all."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        size = (config.input.height, config.input.width)
        self.grid = (size[0] // PATCH_PX, size[1] // PATCH_PX)
        uses_local, uses_semantic = config.students != "semantic", config.students != "local"
        self.normalise = Normalise()
        self.teacher = Teacher(
            config.teacher.name,
            size,
            config.local.blocks if uses_local else [],
            config.semantic.blocks if uses_semantic else [],
        )
        width = self.teacher.vit.embed_dim
        self.local = LocalStudent(config.local, width) if uses_local else None
        self.anomaly_map = (
            AnomalyMap(self.grid, config.local.smoothing, config.local.top_share) if uses_local else None
        )
        self.semantic: SemanticStudent | None = None
        self.semantic_metric: SemanticMetric | None = None
        self.resize: nn.Module = nn.Identity()
        if uses_semantic:
            small = semantic_size(config)
            self.semantic = SemanticStudent(config.semantic, small, width)
            self.semantic_metric = SemanticMetric(len(config.semantic.blocks), width)
            if small != size:
                self.resize = AreaResize(*size, small[0])

    @property
    def output_names(self) -> list[str]:
        """Names of forward's outputs, in order."""
        local, semantic = self.local is not None, self.semantic is not None
        return ["d_local"] * local + ["d_semantic"] * semantic + ["anomaly_map"] * local

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        """uint8 BGR (B, H, W, 3) -> d_local (B,), d_semantic (B,), anomaly_map (B, h, w), as far as built."""
        images = self.normalise(frame)
        return self.score(self.teacher(images), images)

    def score(self, tokens: TeacherTokens, images: Tensor) -> tuple[Tensor, ...]:
        """The same from teacher tokens and normalised images (B, 3, H, W)."""
        distances, maps = [], []
        if self.local is not None and self.anomaly_map is not None:
            anomaly_map, d_local = self.anomaly_map(tokens.patch_tokens, self.local(tokens.patch_tokens))
            distances.append(d_local)
            maps.append(anomaly_map)
        if self.semantic is not None and self.semantic_metric is not None:
            classes = self.semantic(self.resize(images))
            distances.append(self.semantic_metric(tokens.class_tokens, classes))
        return (*distances, *maps)

    def student_state(self) -> dict[str, Tensor]:
        """The trained parameters only; the teacher's are known by their sha256."""
        return {name: value for name, value in self.state_dict().items() if name.startswith(TRAINED)}

    def load_student_state(self, state: dict[str, Tensor]) -> None:
        """Take what student_state gave. Raises RuntimeError from torch if names or shapes differ."""
        missing, unexpected = self.load_state_dict(state, strict=False)
        missing = [name for name in missing if name.startswith(TRAINED)]
        if missing or unexpected:
            raise RuntimeError(
                f"the students' weights do not fit this configuration: {missing[:1] or unexpected[:1]}"
            )


def infer(detector: Detector, frames: Tensor) -> dict[str, Tensor]:
    """Run frames without gradients; named outputs on the CPU."""
    with torch.inference_mode():
        outputs = detector(frames)
    return {name: value.cpu() for name, value in zip(detector.output_names, outputs, strict=True)}
