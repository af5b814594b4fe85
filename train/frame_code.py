"""What good frames differ in as wholes: a short code of a frame's layout that completes the prototypes.

Prototypes rebuild token by token, and miss a little of every good one: the light of this frame, the shift of
this part, the grain of this tile. Such things change many tokens at once and in few ways; a defect does not. So
what prototypes miss on good frames, all positions of a frame being one vector, lies near a subspace of few
dimensions. With unit tokens t of the teacher and s of the prototypes, e the mean over groups of t - s as one
vector of N * D, and V the `rank` principal directions of e on good frames,

    s' = s + V^T V e,

so that a frame comes through in `rank` numbers and no anomaly does. A code of low rank that nothing abnormal
passes is ShortcutBreaker's idea; that it is a principal subspace of whole frames, fitted before training and
not trained further, is ours. Knows tokens only.
"""

from __future__ import annotations

import torch
from dualkd.train.semantic_metric import residuals
from torch import Tensor, nn

FIT_COLUMNS = 16_384  # of the frames' vectors, held in double precision at a time


class FrameCode(nn.Module):
    """`directions` (rank, N * D) are orthonormal, or zero where there were too few frames to know as many."""

    directions: Tensor

    def __init__(self, rank: int, tokens: int, width: int) -> None:
        """`tokens`: N of a frame; `width`: D of each."""
        super().__init__()
        self.register_buffer("directions", torch.zeros(rank, tokens * width))

    def forward(self, patch_tokens: Tensor, known: Tensor) -> Tensor:
        """The teacher's tokens and what is known of them, (B, G, N, D) twice -> the same, completed."""
        error = missed(patch_tokens, known).to(self.directions.dtype)
        code = error.flatten(1) @ self.directions.t()  # (B, rank)
        layout = (code @ self.directions).to(known.dtype).view(-1, 1, *known.shape[2:])
        length = (known.square().mean(-1, keepdim=True) * known.shape[-1]).sqrt()
        return known + length * layout

    @torch.no_grad()
    def fit(self, vectors: Tensor) -> None:
        """Fit to what is missed on M good frames, (M, N, D), of any precision.

        About zero, so that what is missed on every frame is known as well. The Gram matrix of the frames is far
        smaller than the covariance, and has all that is needed.
        """
        columns = torch.split(vectors.flatten(1), FIT_COLUMNS, dim=1)
        gram = torch.zeros(len(vectors), len(vectors), dtype=torch.double)
        for part in columns:
            gram += part.double() @ part.double().t()
        squares, frames = torch.linalg.eigh(gram)  # smallest first
        rank = min(len(self.directions), int((squares > 1e-9 * squares[-1]).sum()))
        weights = (frames / squares.clamp(min=1e-30).sqrt()).flip(1)[:, :rank].t().float()
        self.directions.zero_()
        self.directions[:rank] = torch.cat([weights @ part.float() for part in columns], 1)


def missed(patch_tokens: Tensor, known: Tensor) -> Tensor:
    """Mean over groups of the differences of unit tokens, (B, G, N, D) twice -> (B, N, D), float32."""
    return residuals(patch_tokens, known).mean(1)
