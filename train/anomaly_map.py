"""Token distances to an anomaly map and to d_local.

Pure tensor functions of fixed shapes: training, evaluation and the exported graph run these same lines.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def cosine_distance(one: Tensor, other: Tensor) -> Tensor:
    """1 - cosine similarity along the last axis, in float32: (..., D), (..., D) -> (...)."""
    one, other = one.float(), other.float()
    dot = (one * other).sum(-1)
    return 1 - dot * torch.rsqrt((one * one).sum(-1) * (other * other).sum(-1) + 1e-12)


class AnomalyMap(nn.Module):
    """Teacher and student tokens to the smoothed anomaly map and the frame's local distance.

    grid: (h, w) in patches; sigma: of the Gaussian, in patches, 0 for none; top_share: d_local is the mean
    of this share of the map's largest values (at least one). Published code upsamples to pixels before it
    smooths; on the patch grid the same costs next to nothing, and the map travels on that grid anyhow.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, grid: tuple[int, int], sigma: float, top_share: float) -> None:
        super().__init__()
        self.grid = grid
        self.top_count = max(1, round(top_share * grid[0] * grid[1]))
        self.register_buffer("rows", gaussian_matrix(grid[0], sigma), persistent=False)
        self.register_buffer("columns", gaussian_matrix(grid[1], sigma).t(), persistent=False)

    def forward(self, teacher: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
        """(B, G, N, D) twice -> anomaly_map (B, h, w) and d_local (B,), both float32."""
        distances = cosine_distance(teacher, student).mean(1)  # (B, N)
        anomaly_map = self.rows @ distances.view(-1, *self.grid) @ self.columns
        return anomaly_map, anomaly_map.flatten(1).topk(self.top_count, dim=1).values.mean(1)


def gaussian_matrix(length: int, sigma: float) -> Tensor:
    """The (length, length) matrix that filters a signal with a Gaussian, mirrored at the ends."""
    if sigma == 0:
        return torch.eye(length)
    radius = min(math.ceil(3 * sigma), length - 1)
    offsets = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    source = (torch.arange(length)[:, None] + offsets).abs()  # (length, 2 * radius + 1)
    source = torch.where(source >= length, 2 * (length - 1) - source, source)
    return torch.zeros(length, length).scatter_add_(1, source, (weights / weights.sum()).expand(length, -1))
