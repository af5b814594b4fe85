"""How far the semantic student is from the teacher, measured in units of its usual error.

The student errs on good parts too, far more along some directions than along others. A plain cosine distance
drowns the unusual error in the usual one; the Mahalanobis length of the residual does not. All cells of a
block's grid are one vector, so that what usually goes together may vary together, and a piece in the wrong
place may not. This metric is ours, fitted on the training images after training; our reading of the paper
names no score beyond the distance itself. What is usual for pictures like this one (usual_distance.py) is taken
out at the end.
"""

from __future__ import annotations

import torch
from dualkd.train.usual_distance import UsualDistance
from torch import Tensor, nn

RANK = 384  # directions of a vector that have a variance of their own; all others share one


class SemanticMetric(nn.Module):
    """d_semantic from global tokens: the root mean square of whitened residuals, about 1 on good parts."""

    def __init__(self, blocks: int, grid: int, width: int, alignment: float = 0.0) -> None:
        """`alignment`: how far a distance is measured against those of similar good parts, 0 to 1."""
        super().__init__()
        self.wholes = nn.ModuleList(Whitening(width) for _ in range(blocks))
        self.grids = nn.ModuleList(Whitening(grid**2 * width) for _ in range(blocks if grid else 0))
        self.usual = UsualDistance(blocks * (1 + grid**2) * width, alignment) if alignment else None

    def forward(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Global tokens (B, K, T, D) twice -> d_semantic (B,), float32."""
        distances = self._distances(residuals(teacher, student))
        if self.usual is None:
            return distances
        aligned: Tensor = self.usual(unit(teacher).flatten(1), distances)
        return aligned

    def fit(self, teacher: Tensor, student: Tensor) -> None:
        """Fit to the global tokens of M training images, (M, K, T, D) twice.

        What is usual is measured on each half of the images by what the other half taught, since the metric is
        kinder to the images that it was fitted to.
        """
        residual = residuals(teacher, student)
        if self.usual is not None and len(residual) > 1:
            usual = torch.empty(len(residual))
            for half in range(2):
                self._fit_whitenings(residual[1 - half :: 2])
                usual[half::2] = self._distances(residual[half::2])
            self.usual.fit(unit(teacher).flatten(1), usual)
        self._fit_whitenings(residual)

    def _distances(self, residual: Tensor) -> Tensor:
        """(M, K, T, D) -> (M,)."""
        vectors = list(self._vectors(residual))
        squares = torch.stack([whitening(vector) for whitening, vector in vectors]).sum(0)
        return (squares / sum(vector.shape[-1] for _, vector in vectors)).sqrt()

    def _fit_whitenings(self, residual: Tensor) -> None:
        for whitening, vector in self._vectors(residual):
            whitening.fit(vector)

    def _vectors(self, residual: Tensor) -> list[tuple[Whitening, Tensor]]:
        """Each whitening with its vectors (B, dimensions)."""
        pairs = [(module, residual[:, index, 0]) for index, module in enumerate(self.wholes)]
        pairs += [(module, residual[:, index, 1:].flatten(1)) for index, module in enumerate(self.grids)]
        return pairs  # type: ignore[return-value]


class Whitening(nn.Module):
    """The Mahalanobis length about zero under a covariance of at most RANK free directions.

    `directions` (dimensions, rank) are orthonormal, `precision` (rank,) the inverse variances along them, and
    `rest` the inverse variance that all other directions share (Tipping and Bishop's probabilistic PCA, 1999).
    """

    directions: Tensor
    precision: Tensor
    rest: Tensor

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        rank = min(dimensions, RANK)
        self.register_buffer("directions", torch.zeros(dimensions, rank))
        self.register_buffer("precision", torch.ones(rank))
        self.register_buffer("rest", torch.ones(()))

    def forward(self, vectors: Tensor) -> Tensor:
        """(B, dimensions) -> squared length (B,)."""
        along = vectors @ self.directions
        beside = vectors - along @ self.directions.t()
        return along.square() @ self.precision + self.rest * beside.square().sum(-1)

    def fit(self, vectors: Tensor) -> None:
        """Fit to (M, dimensions) residuals of good parts.

        The covariance is taken about zero, so that a constant error of the student counts as usual, and
        shrunk towards a multiple of the identity as Ledoit and Wolf (2004) find best for M images: the fewer
        there are, the more the metric is a plain distance.
        """
        vectors = vectors.double()
        count, dimensions = vectors.shape
        lengths = vectors.square().sum(1)
        even = (lengths.mean() / dimensions).clamp(min=1e-12)  # variance of a direction, were all alike
        if count < dimensions:  # the smaller of the two matrices has all that is needed
            squares, left_vectors = torch.linalg.eigh(vectors @ vectors.t())
            rows = (vectors.t() @ left_vectors) / squares.clamp(min=1e-30).sqrt()
        else:
            squares, rows = torch.linalg.eigh(vectors.t() @ vectors)
        variances, rows = squares.clamp(min=0).flip(0) / count, rows.flip(1)  # largest first
        total = variances.square().sum()
        noise = (lengths.square().mean() - total) / count
        shrinkage = (noise / (total - dimensions * even**2).clamp(min=1e-30)).clamp(1e-6, 1)
        rank = min(self.directions.shape[1], int((variances > 1e-9 * variances[0]).sum()))
        self.directions.zero_()
        self.directions[:, :rank] = rows[:, :rank]
        self.precision.fill_(1.0)
        self.precision[:rank] = 1 / ((1 - shrinkage) * variances[:rank] + shrinkage * even)
        if rank == dimensions:
            self.rest.zero_()
        else:
            left = variances[rank:].sum() / (dimensions - rank)
            self.rest.copy_(1 / ((1 - shrinkage) * left + shrinkage * even))


def residuals(teacher: Tensor, student: Tensor) -> Tensor:
    """Differences of unit vectors (..., D); half their squared length is the cosine distance."""
    return unit(teacher) - unit(student)


def unit(tokens: Tensor) -> Tensor:
    """Tokens (..., D) at length 1, in float32."""
    return nn.functional.normalize(tokens.float(), dim=-1)
