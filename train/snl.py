"""Structural distillation (SNL): how far the student's tokens are from the teacher's as a structure.

Stands in for the local student's plain distance under `method: snl`. Knows the losses and their weights; the
module that goes with them is in residual_aggregation.py. Shapes: B frames, G groups of teacher blocks, N
patches, D the width of a token; everything is computed in float32, mixed precision or not.

Source: Deng and Li, arXiv 2402.17091, of which only the abstract could be had. It names the four pieces; the
formulas are OUR reading:

    spatial  mean over positions of 1 - cos(t, s), a token of D channels at each position
    channel  mean over channels of 1 - cos(t, s), a map of N positions for each channel
    intra    mean over pairs of positions of (cos(t_i, t_j) - cos(s_i, s_j))^2, inside the frame
    inter    mean over the other frames and positions of (cos(t_n, t'_n) - cos(s_n, s'_n))^2, where ' is
             the token at the same position of another frame of the batch

The squared difference of cosines is that of pair-wise distillation (Liu et al., CVPR 2019). Between frames
only equal positions are compared: every token takes part, nothing is drawn, and it costs N B^2 similarities.
The batch is what goes through the student together: with micro-batches, each of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from dualkd.train.anomaly_map import cosine_distance
from dualkd.train.config import SnlConfig
from torch import Tensor


def structural_loss(teacher: Tensor, student: Tensor, weights: SnlConfig) -> Tensor:
    """The weighted sum of the four pieces: (B, G, N, D) twice -> (B,). A weight of 0 costs nothing.

    The inter-affinity of a frame depends on the other frames: give it frames that are normal, or frames that
    are not, and never a mixture.
    """
    pieces = (
        (weights.spatial, spatial_loss),
        (weights.channel, channel_loss),
        (weights.intra, intra_affinity_loss),
        (weights.inter, inter_affinity_loss),
    )
    with torch.autocast(teacher.device.type, enabled=False):
        teacher, student = teacher.float(), student.float()
        return torch.stack([weight * piece(teacher, student) for weight, piece in pieces if weight]).sum(0)


def spatial_loss(teacher: Tensor, student: Tensor) -> Tensor:
    """Cosine distance along channels, mean over positions: (B, G, N, D) twice -> (B,)."""
    return cosine_distance(teacher, student).mean((1, 2))


def channel_loss(teacher: Tensor, student: Tensor) -> Tensor:
    """Cosine distance along positions, mean over channels: (B, G, N, D) twice -> (B,)."""
    return cosine_distance(teacher.transpose(2, 3), student.transpose(2, 3)).mean((1, 2))


def intra_affinity_loss(teacher: Tensor, student: Tensor) -> Tensor:
    """Squared difference of a frame's token similarities, mean over pairs: (B, G, N, D) twice -> (B,)."""
    return (_similarities(teacher) - _similarities(student)).square().mean((1, 2, 3))


def inter_affinity_loss(teacher: Tensor, student: Tensor) -> Tensor:
    """The same between frames, at equal positions: (B, G, N, D) twice -> (B,); 0 for a frame alone."""
    across = [_similarities(tokens.permute(1, 2, 0, 3)) for tokens in (teacher, student)]  # (G, N, B, B)
    difference = (across[0] - across[1]).square().mean((0, 1))  # (B, B), 0 on the diagonal
    return difference.sum(1) / max(1, len(difference) - 1)


def _similarities(tokens: Tensor) -> Tensor:
    """Cosines between all pairs along the last but one axis: (..., M, D) -> (..., M, M)."""
    units = F.normalize(tokens, dim=-1)
    return units @ units.transpose(-2, -1)
