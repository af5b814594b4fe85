"""How far the semantic student is from the teacher, measured in units of its usual error.

The student errs on good parts too, far more along some directions of a class token than along others. A
plain cosine distance drowns the unusual error in the usual one; the Mahalanobis length of the residual does
not. This metric is ours, fitted on the training images after training; our reading of the paper names no
score beyond the distance itself.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor, nn


class SemanticMetric(nn.Module):
    """d_semantic from class tokens: the root mean square of whitened residuals, about 1 on good parts.

    `whitening` (K, D, D) holds, for each class token, the inverse square root of the residuals' covariance.
    """

    whitening: Tensor

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.register_buffer("whitening", torch.eye(width).repeat(count, 1, 1))

    def forward(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Class tokens (B, K, D) twice -> d_semantic (B,), float32."""
        residual = residuals(teacher, student).unsqueeze(2)  # (B, K, 1, D)
        whitened = (residual @ self.whitening).flatten(1)  # (B, K * D)
        return whitened.square().mean(1).sqrt()

    def fit(self, teacher: Tensor, student: Tensor) -> None:
        """Set `whitening` from the class tokens of M training images, (M, K, D) twice.

        The covariance is taken about zero, so that a constant error of the student counts as usual, and
        shrunk towards a multiple of the identity as Ledoit and Wolf (2004) find best for M images: the
        fewer there are, the more the metric is a plain distance.
        """
        errors = residuals(teacher, student).double().numpy()
        for index in range(errors.shape[1]):
            covariance, _ = ledoit_wolf(errors[:, index], assume_centered=True)
            values, vectors = np.linalg.eigh(covariance)
            self.whitening[index] = torch.from_numpy(vectors / np.sqrt(values) @ vectors.T)


def residuals(teacher: Tensor, student: Tensor) -> Tensor:
    """Differences of unit vectors (..., D); half their squared length is the cosine distance."""
    return nn.functional.normalize(teacher.float(), dim=-1) - nn.functional.normalize(student.float(), dim=-1)
