"""The central residual aggregation module: tokens rebuilt from learned centres and a frame's residuals.

The narrow place of the local student under `method: snl`. Knows tokens only; neither the teacher nor the
losses. That learned centres aggregate residuals so that the student's features stay in a compact normal
space is Deng and Li's (SNL, arXiv 2402.17091; only its abstract could be had); the formulas are OUR reading,
in the manner of NetVLAD (Arandjelovic et al., CVPR 2016). With tokens x_i and centres c_k of zero mean and
unit variance:

    a_ik = softmax_k(cos(x_i, c_k) / t)                             how far token i belongs to centre k
    V_k  = sum_i a_ik (x_i - c_k) / (sum_i a_ik + e)                what this frame has at centre k beyond it
    y_i  = sum_k a_ik (c_k + W V_k)                                 what the decoder gets

so a token reaches the decoder only as its choice among what the whole frame has at each centre. A token that
has a centre for itself comes through in that centre's residual, as far as W, learned on good parts, lets it:
keep centres few against tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

TEMPERATURE = 0.1  # t, of the softmax over cosine similarities
LEAST_MASS = 1e-2  # e, in tokens: at a centre that the frame does not use the residual is nothing, not 0 / 0


class ResidualAggregation(nn.Module):
    """`centres` (K, D) and the map W of the residuals, both learned with the student.

    Every value inside is a mean of normalised tokens or a share of them, so half precision holds it whatever
    the scale of what comes in; the largest sum is the number of tokens.
    """

    def __init__(self, count: int, width: int) -> None:
        """`count`: K, the number of centres; `width`: D of the tokens."""
        super().__init__()
        self.centres = nn.Parameter(torch.randn(count, width))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.residual = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.residual.weight)  # at first tokens are mixtures of centres alone
        self.scale = width**-0.5

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        tokens, centres = self.norm(tokens), self.norm(self.centres)
        cosines = (tokens * self.scale) @ (centres * self.scale).t()  # (B, N, K)
        assigned = (cosines / TEMPERATURE).softmax(-1)
        share = assigned / (assigned.sum(1, keepdim=True) + LEAST_MASS)  # of a centre's tokens
        used = share.sum(1).unsqueeze(-1)  # (B, K, 1), just below 1
        residuals = share.transpose(1, 2) @ tokens - used * centres  # (B, K, D)
        aggregated: Tensor = assigned @ (centres + self.residual(residuals))
        return aggregated
