"""From a camera's bytes to what a network sees. Modules without parameters, part of the exported graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Normalise(nn.Module):
    """Camera frames uint8 BGR (B, H, W, 3) to RGB float (B, 3, H, W), normalised as the teacher expects."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """`mean`, `std`: of red, green and blue, on a scale of 0 to 1."""
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None] * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None] * 255, persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        rgb = frames.float().permute(0, 3, 1, 2).flip(1)  # cast first: TensorRT refuses to move uint8
        return (rgb - self.mean) / self.std


class Resample(nn.Module):
    """A linear map of (B, C, H, W) along its rows and along its columns, as two matrix products.

    Matrix products run everywhere; resampling operators differ between runtimes in their corners.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, rows: Tensor, columns: Tensor) -> None:
        """`rows` (h, H) and `columns` (w, W) make (B, C, h, w) of (B, C, H, W)."""
        super().__init__()
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns.t().contiguous(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.rows @ images @ self.columns


class AreaResize(Resample):
    """Shrink (B, C, H, W) to (B, C, side, side) by area averaging."""

    def __init__(self, height: int, width: int, side: int) -> None:
        super().__init__(area_matrix(height, side), area_matrix(width, side))


class PooledResize(Resample):
    """Average (B, C, *source) over 3 x 3 neighbours and enlarge it bilinearly to (B, C, *target)."""

    def __init__(self, source: tuple[int, int], target: tuple[int, int]) -> None:
        rows, columns = (
            bilinear_matrix(before, after) @ neighbour_matrix(before)
            for before, after in zip(source, target, strict=True)
        )
        super().__init__(rows, columns)


def area_matrix(source: int, target: int) -> Tensor:
    """The (target, source) matrix that averages `source` pixels into `target` larger ones, by area."""
    edges = torch.arange(target + 1, dtype=torch.float64) * source / target
    left, right = edges[:-1, None], edges[1:, None]
    pixel = torch.arange(source, dtype=torch.float64)
    overlap = (torch.minimum(right, pixel + 1) - torch.maximum(left, pixel)).clamp(min=0)
    return (overlap * target / source).float()


def bilinear_matrix(source: int, target: int) -> Tensor:
    """The (target, source) matrix that interpolates linearly between pixel centres, constant past the last."""
    centre = ((torch.arange(target, dtype=torch.float64) + 0.5) * source / target - 0.5).clamp(0, source - 1)
    pixel = torch.arange(source, dtype=torch.float64)
    return (1 - (centre[:, None] - pixel).abs()).clamp(min=0).float()


def neighbour_matrix(length: int) -> Tensor:
    """The (length, length) matrix that averages every entry with those of its two neighbours that exist."""
    index = torch.arange(length)
    near = ((index[:, None] - index).abs() <= 1).float()
    return near / near.sum(1, keepdim=True)
