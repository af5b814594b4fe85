"""A memory of what good tokens look like: prototypes that a token can be rebuilt from.

The local student's narrowest place. Every token is replaced by a soft choice among K prototypes, so what
comes out is made of good parts only, and an anomaly cannot be passed through. Learned centres with soft
assignment stand in SNL (Deng and Li, arXiv 2402.17091); that they are k-means centres, and that they are not
trained further, is ours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEMPERATURE = 0.02  # of the softmax over cosine similarities
FIT_ITERATIONS = 5
FIRST_SHARE = (
    8  # one in so many of the tokens that k-means begins with is drawn evenly, the others far from these
)
FIT_TOKENS_EACH = (
    16  # k-means sees about this many tokens a prototype, and with too few makes fewer prototypes;
)
FIT_TOKENS_LEAST = 24_000  # in all it sees no fewer than these


class Prototypes(nn.Module):
    """K prototypes; `keys` (K, D) are unit vectors, `values` (G, K, D) what each group's tokens look like there."""

    keys: Tensor
    values: Tensor

    def __init__(self, count: int, groups: int, width: int) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(count, width))
        self.register_buffer("values", torch.zeros(groups, count, width))

    def forward(self, patch_tokens: Tensor) -> Tensor:
        """(B, G, N, D) -> the same shape, every token a mixture of prototypes."""
        similarity = F.normalize(patch_tokens.mean(1), dim=-1) @ self.keys.t()  # (B, N, K)
        weights = (similarity / TEMPERATURE).softmax(-1)
        return (weights.to(self.values.dtype).unsqueeze(1) @ self.values).to(patch_tokens.dtype)

    @property
    def tokens_needed(self) -> int:
        """How many tokens fit() makes good use of."""
        return max(FIT_TOKENS_LEAST, FIT_TOKENS_EACH * len(self.keys))

    @torch.no_grad()
    def fit(self, tokens: Tensor, generator: torch.Generator) -> None:
        """Set keys and values by spherical k-means over teacher tokens (M, G, D) of good images.

        It begins with a few tokens and with others drawn in proportion to the square of their cosine distance to
        the nearest of these, a steeper k-means++ (Arthur and Vassilvitskii, 2007) in two rounds: else what is
        seldom seen, such as a part at the edge of the frame or one product of many, gets no prototype of its own
        and counts as strange.
        A prototype of two or three tokens would be those tokens learned by heart, so from a handful of images
        come fewer prototypes than there is room for, and fill it by standing there several times.
        """
        units = F.normalize(tokens.mean(1), dim=-1)
        count = min(len(self.keys), max(1, len(units) // FIT_TOKENS_EACH))
        first = units[torch.randperm(len(units), generator=generator)[: -(-count // FIRST_SHARE)]]
        weight = (1 - _nearest(units, first)[0]).clamp(min=1e-6).square()
        rank = weight / torch.empty_like(weight).exponential_(
            generator=generator
        )  # draws without replacement
        keys = torch.cat([first, units[rank.topk(count - len(first)).indices]])
        for _ in range(FIT_ITERATIONS):
            keys = F.normalize(_cluster_means(units[:, None], _nearest(units, keys)[1], count)[0], dim=-1)
        values = _cluster_means(tokens, _nearest(units, keys)[1], count)
        repeats = -(-len(self.keys) // count)
        self.keys.copy_(keys.repeat(repeats, 1)[: len(self.keys)])
        self.values.copy_(values.repeat(1, repeats, 1)[:, : len(self.keys)])


def _nearest(units: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Of each of (M, D) the cosine to the nearest of (K, D), and which it is: (M,) twice."""
    parts = [(part @ keys.t()).max(1) for part in torch.split(units, 8192)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def _cluster_means(tokens: Tensor, cluster: Tensor, count: int) -> Tensor:
    """Means of (M, G, D) over clusters -> (G, count, D); an empty cluster gets the mean of all."""
    size = torch.bincount(cluster, minlength=count).to(tokens)
    sums = torch.zeros(count, *tokens.shape[1:]).index_add_(0, cluster, tokens)
    means = torch.where(size[:, None, None] > 0, sums / size.clamp(min=1)[:, None, None], tokens.mean(0))
    return means.transpose(0, 1)
