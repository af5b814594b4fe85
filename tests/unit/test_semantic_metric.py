"""The semantic distance in units of the student's usual error."""

from __future__ import annotations

import pytest
import torch
from dualkd.train.semantic_metric import SemanticMetric, Whitening, residuals
from sklearn.covariance import ledoit_wolf
from torch import Tensor
from torch.nn.functional import normalize

WIDTH = 16


def tokens(count: int, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Teacher and student tokens (count, 1, 1, WIDTH) whose differences have this spread a direction."""
    torch.manual_seed(0)
    teacher = normalize(torch.ones(count, 1, 1, WIDTH), dim=-1)
    return teacher, teacher + 0.01 * spread * torch.randn(count, 1, 1, WIDTH)


def test_on_the_images_it_was_fitted_on_the_distance_is_about_one() -> None:
    """So a reader of d_semantic knows what is usual."""
    teacher, student = tokens(2000, torch.ones(WIDTH))
    metric = SemanticMetric(1, 0, WIDTH)
    metric.fit(teacher, student)
    assert metric(teacher, student).square().mean().sqrt().item() == pytest.approx(1.0, abs=0.05)


def test_an_unusual_error_counts_more_than_a_larger_usual_one() -> None:
    """A direction in which the student always errs is discounted; the plain distance ranks the other way."""
    spread = torch.ones(WIDTH)
    spread[0] = 10.0
    teacher, student = tokens(2000, spread)
    metric = SemanticMetric(1, 0, WIDTH)
    metric.fit(teacher, student)
    usual, unusual = teacher[:1].clone(), teacher[:1].clone()
    usual[..., 0] += 0.1
    unusual[..., 1] += 0.05
    assert residuals(teacher[:1], usual).norm() > residuals(teacher[:1], unusual).norm()
    assert metric(teacher[:1], unusual) > 2 * metric(teacher[:1], usual)


def test_with_few_images_the_metric_is_nearly_a_plain_distance() -> None:
    """Five images say nothing of sixteen directions: none may be trusted blindly."""
    teacher, student = tokens(5, torch.ones(WIDTH))
    metric = SemanticMetric(1, 0, WIDTH)
    metric.fit(teacher, student)
    precisions = torch.cat([metric.wholes[0].precision[:5], metric.wholes[0].rest[None]])
    assert precisions.max() / precisions.min() < 3


def test_the_whitening_is_the_mahalanobis_length_under_the_shrunk_covariance() -> None:
    """Against Ledoit and Wolf's estimate as scikit-learn gives it, with more images than dimensions and fewer."""
    for count in (200, 9):
        vectors = torch.randn(count, WIDTH) * torch.linspace(0.1, 3, WIDTH)
        whitening = Whitening(WIDTH)
        whitening.fit(vectors)
        covariance, _ = ledoit_wolf(vectors.double().numpy(), assume_centered=True)
        other = torch.randn(7, WIDTH)
        expected = torch.einsum(
            "bi,ij,bj->b", other.double(), torch.from_numpy(covariance).inverse(), other.double()
        )
        torch.testing.assert_close(whitening(other).double(), expected, rtol=1e-4, atol=0)


def test_cells_that_always_vary_together_are_strange_when_they_do_not() -> None:
    """All cells are one vector: each cell as often seen, but never with that neighbour, is an anomaly."""
    torch.manual_seed(0)
    teacher = normalize(torch.ones(500, 1, 5, WIDTH), dim=-1)
    shade = torch.linspace(-0.05, 0.05, 500).view(-1, 1, 1, 1) * torch.tensor([1.0, -1.0] * (WIDTH // 2))
    student = (
        teacher + shade * torch.tensor([0.0, 1, 1, 1, 1])[:, None] + 0.002 * torch.randn(500, 1, 5, WIDTH)
    )
    metric = SemanticMetric(1, 2, WIDTH)
    metric.fit(teacher, student)
    mixed = torch.cat([student[:1, :, :3], student[-1:, :, 3:]], 2)
    assert metric(teacher[:1], mixed) > 3 * metric(teacher[:2], student[[0, -1]]).max()
