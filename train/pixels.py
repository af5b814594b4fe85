"""From a camera's bytes to what a network sees. Modules without parameters, part of the exported graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalise(nn.Module):
    """Camera frames uint8 BGR (B, H, W, 3) to ImageNet-normalised RGB float (B, 3, H, W)."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None] * 255, persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None] * 255, persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        rgb = frames.float().permute(0, 3, 1, 2).flip(1)  # cast first: TensorRT refuses to move uint8
        return (rgb - self.mean) / self.std


class AreaResize(nn.Module):
    """Shrink (B, C, H, W) to (B, C, side, side) by area averaging, as two matrix products.

    Matrix products run everywhere; resampling operators differ between runtimes in their corners.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, height: int, width: int, side: int) -> None:
        super().__init__()
        self.register_buffer("rows", area_matrix(height, side), persistent=False)
        self.register_buffer("columns", area_matrix(width, side).t(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.rows @ images @ self.columns


def area_matrix(source: int, target: int) -> Tensor:
    """The (target, source) matrix that averages `source` pixels into `target` larger ones, by area."""
    edges = torch.arange(target + 1, dtype=torch.float64) * source / target
    left, right = edges[:-1, None], edges[1:, None]
    pixel = torch.arange(source, dtype=torch.float64)
    overlap = (torch.minimum(right, pixel + 1) - torch.maximum(left, pixel)).clamp(min=0)
    return (overlap * target / source).float()
