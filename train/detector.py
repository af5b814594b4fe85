"""The whole detector as one module: a uint8 frame in, distances and anomaly map out.

This is what evaluation scores with and what export turns into a graph. Thresholds and probabilities are
not in it: they belong to dualkd.daemon.decision, where an operator can move them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from dualkd.daemon.engine import RawPrediction
from dualkd.train.anomaly_map import AnomalyMap
from dualkd.train.config import Precision, TrainConfig
from dualkd.train.frames import Frames
from dualkd.train.model import LocalStudent, SemanticStudent, semantic_size
from dualkd.train.pixels import AreaResize, Normalise
from dualkd.train.semantic_metric import SemanticMetric
from dualkd.train.teacher import TeacherTokens, make_teacher
from torch import Tensor, nn
from tqdm import tqdm

ENCODE_BATCH = 8  # frames that go through the teacher together
TRAINED = ("local.", "semantic.", "semantic_metric.")


class Detector(nn.Module):
    """Teacher, students and scoring. A student that `students` switches off is not built at all."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        size = (config.input.height, config.input.width)
        uses_local, uses_semantic = config.students != "semantic", config.students != "local"
        self.teacher = make_teacher(
            config.teacher.name,
            size,
            config.local.blocks if uses_local else [],
            config.semantic.blocks if uses_semantic else [],
            config.semantic.grid,
        )
        self.normalise = Normalise(self.teacher.mean, self.teacher.std)
        self.grid, width = self.teacher.grid, self.teacher.width
        centres = config.snl.centres if config.method == "snl" else 0
        self.local = LocalStudent(config.local, math.prod(self.grid), width, centres) if uses_local else None
        self.anomaly_map = (
            AnomalyMap(self.grid, config.local.smoothing, config.local.top_share) if uses_local else None
        )
        self.semantic: SemanticStudent | None = None
        self.semantic_metric: SemanticMetric | None = None
        self.resize: nn.Module = nn.Identity()
        if uses_semantic:
            small = semantic_size(config)
            self.semantic = SemanticStudent(config.semantic, small, width)
            self.semantic_metric = SemanticMetric(
                len(config.semantic.blocks), config.semantic.grid, width, config.semantic.alignment
            )
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
            rebuilt = self.semantic(self.resize(images))
            distances.append(self.semantic_metric(tokens.global_tokens, rebuilt))
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


def predict(detector: Detector, frames: Frames, device: torch.device) -> RawPrediction:
    """Score frames uint8 (M, H, W, 3) with the trained detector, in the engine's own form."""
    return join_outputs(
        [
            infer(detector, frames[start : start + ENCODE_BATCH].to(device))
            for start in tqdm(range(0, len(frames), ENCODE_BATCH), desc="score", unit="batch", disable=None)
        ]
    )


def join_outputs(batches: Sequence[dict[str, Tensor]]) -> RawPrediction:
    """What `infer` gave of one batch or more, in the engine's own form."""
    return RawPrediction(
        *(
            torch.cat([batch[name] for batch in batches]).numpy() if name in batches[0] else None
            for name in RawPrediction._fields
        )
    )


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """Automatic mixed precision in `precision`; nothing for float32."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, getattr(torch, precision))
