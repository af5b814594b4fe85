"""The semantic distance in units of the student's usual error."""

from __future__ import annotations

import pytest
import torch
from dualkd.train.semantic_metric import SemanticMetric, residuals
from torch import Tensor
from torch.nn.functional import normalize

WIDTH = 16


def tokens(count: int, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Teacher and student tokens (count, 1, WIDTH) whose differences have this spread a direction."""
    torch.manual_seed(0)
    teacher = normalize(torch.ones(count, 1, WIDTH), dim=-1)
    return teacher, teacher + 0.01 * spread * torch.randn(count, 1, WIDTH)


def test_on_the_images_it_was_fitted_on_the_distance_is_about_one() -> None:
    """So a reader of d_semantic knows what is usual."""
    teacher, student = tokens(2000, torch.ones(WIDTH))
    metric = SemanticMetric(1, WIDTH)
    metric.fit(teacher, student)
    assert metric(teacher, student).square().mean().sqrt().item() == pytest.approx(1.0, abs=0.05)


def test_an_unusual_error_counts_more_than_a_larger_usual_one() -> None:
    """A direction in which the student always errs is discounted; the plain distance ranks the other way."""
    spread = torch.ones(WIDTH)
    spread[0] = 10.0
    teacher, student = tokens(2000, spread)
    metric = SemanticMetric(1, WIDTH)
    metric.fit(teacher, student)
    usual, unusual = teacher[:1].clone(), teacher[:1].clone()
    usual[..., 0] += 0.1
    unusual[..., 1] += 0.05
    assert residuals(teacher[:1], usual).norm() > residuals(teacher[:1], unusual).norm()
    assert metric(teacher[:1], unusual) > 2 * metric(teacher[:1], usual)


def test_with_few_images_the_metric_is_nearly_a_plain_distance() -> None:
    """Five images say nothing of sixteen directions: none may be trusted blindly."""
    teacher, student = tokens(5, torch.ones(WIDTH))
    metric = SemanticMetric(1, WIDTH)
    metric.fit(teacher, student)
    values = torch.linalg.eigvalsh(metric.whitening[0])
    assert values.max() / values.min() < 3
