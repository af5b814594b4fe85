"""How far pictures like this one usually are: what a distance is to be measured against.

Good parts differ in how well they can be foretold: a patterned shirt lies farther from what was expected than a
plain one, a board than a flange. Measured with one yardstick, the plain defects of an easy kind hide below the
good parts of a hard kind. So a distance d is divided by what is usual in its place, with no label of any kind:

    d' = d / u^strength,    log u = mean over the nearest good pictures of log d.

This is the idea of the local outlier factor (Breunig et al., SIGMOD 2000); nearest is meant in the principal
directions of the teacher's tokens, and a strength below 1 takes back a part of what few neighbours say by chance.
Knows vectors and distances; not what they are of.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

PLACES = 1024  # good pictures that are remembered; fewer are repeated, so that the share below holds
NEAREST = 64  # of them make what is usual: a sixteenth
RANK = 64  # directions in which pictures are compared


class UsualDistance(nn.Module):
    """`places` (PLACES, RANK) are good pictures, `usual_logs` (PLACES,) the logarithms of their distances."""

    centre: Tensor
    directions: Tensor
    places: Tensor
    usual_logs: Tensor

    def __init__(self, dimensions: int, strength: float) -> None:
        """`dimensions`: of the vector that describes a picture; `strength`: 0 to 1, 0 changes nothing."""
        super().__init__()
        self.strength = strength
        self.register_buffer("centre", torch.zeros(dimensions))
        self.register_buffer("directions", torch.zeros(dimensions, RANK))
        self.register_buffer("places", torch.zeros(PLACES, RANK))
        self.register_buffer("usual_logs", torch.zeros(PLACES))

    def forward(self, pictures: Tensor, distances: Tensor) -> Tensor:
        """What describes B pictures (B, dimensions) and their distances (B,) -> distances (B,)."""
        codes = (pictures - self.centre) @ self.directions
        # the squared length of the codes is the same for all places
        farness = self.places.square().sum(1) - 2 * codes @ self.places.t()  # (B, PLACES)
        nearest = farness.topk(NEAREST, dim=1, largest=False).indices
        return distances * torch.exp(-self.strength * self.usual_logs[nearest].mean(1))

    @torch.no_grad()
    def fit(self, pictures: Tensor, distances: Tensor) -> None:
        """Fit to M good pictures (M, dimensions) and the distances (M,) that they have as unseen ones."""
        drawn = torch.linspace(0, len(pictures) - 1, PLACES).round().long()
        self.centre.copy_(pictures.mean(0))
        centred = (pictures - self.centre)[sorted(set(drawn.tolist()))].double()
        squares, rows = torch.linalg.eigh(centred @ centred.t())  # smallest first
        rank = min(RANK, int((squares > 1e-9 * squares[-1]).sum()))
        self.directions.zero_()
        self.directions[:, :rank] = ((centred.t() @ rows) / squares.clamp(min=1e-30).sqrt()).flip(1)[:, :rank]
        self.places.copy_((pictures[drawn] - self.centre) @ self.directions)
        self.usual_logs.copy_(distances[drawn].clamp(min=1e-12).log())
