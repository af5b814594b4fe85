"""The losses: each student's distance to the teacher, and what a Noisy-OR makes of the two.

Pure tensor functions; which of them a step minimises is in objective.py.

With p = 1 - exp(-a L) for each student, the Noisy-OR probability that a frame is anomalous is

    P = 1 - (1 - p_local)(1 - p_semantic) = 1 - exp(-a L_local) exp(-b L_semantic),

so on a good frame the negative log-likelihood of "normal" is

    -log(1 - P) = a L_local + b L_semantic:

with this link and good frames alone, the joint objective is exactly a weighted sum of the two losses.

On a frame that is known to be anomalous it is -log P instead. With the hazard h = a L_local + b L_semantic

    -log P = -log(1 - exp(-h)),    d(-log P) / dh_local = d(-log P) / dh_semantic = -1 / (exp(h) - 1),

where h_local = a L_local and h_semantic = b L_semantic. The pull on one student thus depends on the hazard of
both: it is strong while neither sees the anomaly, and fades as soon as either does. The student that sees it
relieves the other, which is what shares the blame between them and makes the training joint.
"""

from __future__ import annotations

import math

import torch
from dualkd.train.anomaly_map import cosine_distance
from torch import Tensor

EASY_GRADIENT = 0.1  # what is left of the gradient of an easy token
LEAST_HAZARD = 1e-12  # float32 resolves cosines to 1e-7; the gradient, at most 1e12, can still be squared


def damp_easy_tokens(teacher: Tensor, student: Tensor, easy_share: float) -> Tensor:
    """The student's tokens with the same values and less gradient where it is right: (B, G, N, D) -> the same.

    The `easy_share` of tokens with the smallest distance (over the batch, by group) keep a tenth of their
    gradient, so that training goes on where the student is still wrong (Dinomaly's hard mining).
    """
    if easy_share == 0:
        return student
    with torch.no_grad():
        distances = cosine_distance(teacher, student)  # (B, G, N)
        limit = distances.transpose(0, 1).flatten(1).quantile(easy_share, dim=1)  # (G,)
        keep = torch.where(distances < limit[:, None], EASY_GRADIENT, 1.0)[..., None]
    return student * keep + (student * (1 - keep)).detach()


def local_loss(teacher: Tensor, student: Tensor) -> Tensor:
    """Mean over groups of 1 - cos(vec(F_T), vec(F_S)): (B, G, N, D) twice -> (B,)."""
    return cosine_distance(teacher.flatten(2), student.flatten(2)).mean(1)


def semantic_loss(teacher: Tensor, student: Tensor) -> Tensor:
    """Mean over blocks of 1 - cos, (B, K, T, D) twice -> (B,); a block's cells together weigh as its whole."""
    distances = cosine_distance(teacher, student)  # (B, K, T)
    wholes, cells = distances[..., 0].mean(1), distances[..., 1:].flatten(1)
    return wholes if not cells.shape[1] else (wholes + cells.mean(1)) / 2


def noisy_or_loss(hazards: list[Tensor]) -> Tensor:
    """-log(1 - P) of good frames from each student's hazard a L, (B,) each -> scalar."""
    return torch.stack(hazards).sum(0).mean()


def noisy_or_anomaly_loss(hazards: list[Tensor]) -> Tensor:
    """-log P of anomalous frames from each student's hazard a L, (B,) each -> scalar.

    log(1 - exp(-h)) is taken as in Maechler, "Accurately computing log(1 - exp(-|a|))" (2012). A hazard below
    LEAST_HAZARD, which rounding can even make negative, counts as that and keeps that one's gradient.
    """
    hazard = torch.stack(hazards).sum(0)
    hazard = hazard.detach().clamp(min=LEAST_HAZARD) + (hazard - hazard.detach())
    is_small = hazard < math.log(2)
    small = -torch.log(-torch.expm1(-hazard))
    large = -torch.log1p(-torch.exp(-torch.where(is_small, 1.0, hazard)))  # not finite at the small ones
    return torch.where(is_small, small, large).mean()
