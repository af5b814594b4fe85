"""What one training step minimises: each student's distance to the teacher, joined by a Noisy-OR.

Knows the configuration, the students and the losses; knows no optimiser, no data and no device.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from dualkd.train.config import TrainConfig
from dualkd.train.detector import Detector
from dualkd.train.losses import (
    damp_easy_tokens,
    local_loss,
    noisy_or_anomaly_loss,
    noisy_or_loss,
    semantic_loss,
)
from dualkd.train.pseudo import Spoilt
from dualkd.train.snl import structural_loss
from dualkd.train.teacher import TeacherTokens
from torch import Tensor


def objective(
    config: TrainConfig,
    detector: Detector,
    tokens: TeacherTokens,
    images: Tensor,
    ramp: float,
    spoilt: Mapping[str, Spoilt] = MappingProxyType({}),
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch of good frames (scalar) and, by name, its parts for the log (scalars, detached).

    tokens: the teacher's, of the normalised `images` (B, 3, H, W); ramp: 0 to 1, how much of the hard mining
    is in force; spoilt: pseudo-anomalous frames by what was spoilt, for each of which pseudo.weight * -log P
    is added.
    """
    hazards: list[Tensor] = []
    parts: dict[str, Tensor] = {}
    if detector.local is not None:
        patches = tokens.patch_tokens
        rebuilt = damp_easy_tokens(patches, detector.local(patches), ramp * config.local.hard_mining)
        snl = config.method == "snl"
        loss = structural_loss(patches, rebuilt, config.snl) if snl else local_loss(patches, rebuilt)
        hazards.append(config.objective.local * loss)
        parts["local"] = loss.mean().detach()
    if detector.semantic is not None:
        rebuilt = detector.semantic(detector.resize(images))
        loss = semantic_loss(tokens.global_tokens, rebuilt)
        hazards.append(config.objective.semantic * loss)
        parts["semantic"] = loss.mean().detach()
    total = noisy_or_loss(hazards)
    for name, frames in spoilt.items():
        missed = noisy_or_anomaly_loss(_hazards(config, detector, frames))
        total = total + config.pseudo.weight * missed
        parts[f"spoilt {name}"] = missed.detach()
    return total, parts


def _hazards(config: TrainConfig, detector: Detector, spoilt: Spoilt) -> list[Tensor]:
    """Each student's hazard a L of pseudo-anomalous frames, (B,) each; the local one where they are touched.

    Of the local student it is the plain distance under either method: structural distillation compares whole
    frames, of which most is good.
    """
    hazards: list[Tensor] = []
    if detector.local is not None:
        patches = spoilt.tokens.patch_tokens
        touched = spoilt.touched[:, None, :, None]
        hazards.append(
            config.objective.local * local_loss(patches * touched, detector.local(patches) * touched)
        )
    if detector.semantic is not None:
        rebuilt = detector.semantic(detector.resize(spoilt.images))
        hazards.append(config.objective.semantic * semantic_loss(spoilt.tokens.global_tokens, rebuilt))
    return hazards
