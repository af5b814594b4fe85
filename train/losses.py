"""The training objective: each student's distance to the teacher, joined by a Noisy-OR.

With p = 1 - exp(-a L) for each student, the Noisy-OR probability that a frame is anomalous is

    P = 1 - (1 - p_local)(1 - p_semantic) = 1 - exp(-a L_local) exp(-b L_semantic),

so on a good frame the negative log-likelihood of "normal" is

    -log(1 - P) = a L_local + b L_semantic:

with this link and good frames alone, the joint objective is exactly a weighted sum of the two losses.
"""

from __future__ import annotations

import torch
from dualkd.train.anomaly_map import cosine_distance
from torch import Tensor

EASY_GRADIENT = 0.1  # what is left of the gradient of an easy token


def local_loss(teacher: Tensor, student: Tensor, easy_share: float) -> Tensor:
    """Mean over groups of 1 - cos(vec(F_T), vec(F_S)), easy tokens damped: (B, G, N, D) twice -> (B,).

    The `easy_share` of tokens with the smallest distance (over the batch, by group) keep a tenth of their
    gradient, so that training goes on where the student is still wrong (Dinomaly's hard mining).
    """
    if easy_share > 0:
        with torch.no_grad():
            distances = cosine_distance(teacher, student)  # (B, G, N)
            limit = distances.transpose(0, 1).flatten(1).quantile(easy_share, dim=1)  # (G,)
            keep = torch.where(distances < limit[:, None], EASY_GRADIENT, 1.0)[..., None]
        student = student * keep + (student * (1 - keep)).detach()  # same value, damped gradient
    return cosine_distance(teacher.flatten(2), student.flatten(2)).mean(1)


def semantic_loss(teacher: Tensor, student: Tensor) -> Tensor:
    """Mean over class tokens of 1 - cos, (B, K, D) twice -> (B,)."""
    return cosine_distance(teacher, student).mean(1)


def noisy_or_loss(weighted: list[Tensor]) -> Tensor:
    """-log(1 - P) of good frames from each student's weighted loss a L, (B,) each -> scalar."""
    return torch.stack(weighted).sum(0).mean()
