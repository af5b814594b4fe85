"""Distances measured against those of similar good parts."""

from __future__ import annotations

import pytest
import torch
from dualkd.train.semantic_metric import SemanticMetric
from dualkd.train.usual_distance import UsualDistance
from torch import Tensor
from torch.nn.functional import normalize

WIDTH = 16


def two_kinds(count: int) -> tuple[Tensor, Tensor]:
    """Pictures (2 * count, WIDTH) of two kinds, and distances: the second kind's are usually ten times as large."""
    torch.manual_seed(1)
    kinds = torch.eye(WIDTH)[:2].repeat_interleave(count, 0)
    spread = torch.exp(0.1 * torch.randn(2 * count))
    return kinds + 0.02 * torch.randn(2 * count, WIDTH), torch.tensor([0.1, 1.0]).repeat_interleave(
        count
    ) * spread


def test_kinds_that_are_hard_by_nature_get_the_same_yardstick_as_easy_ones() -> None:
    """Twice what is usual for its kind counts alike in both, though one is then far below the other's good parts."""
    pictures, distances = two_kinds(300)
    usual = UsualDistance(WIDTH, 1.0)
    usual.fit(pictures, distances)
    easy, hard = usual(pictures[[0, -1]], torch.tensor([0.2, 2.0])).tolist()
    assert easy == pytest.approx(hard, rel=0.1)
    assert usual(pictures, distances).median().item() == pytest.approx(1.0, rel=0.05)


def test_a_strength_below_one_takes_the_difference_back_in_part() -> None:
    """In the logarithm: at one half a kind ten times as far is left the root of ten."""
    pictures, distances = two_kinds(300)
    usual = UsualDistance(WIDTH, 0.5)
    usual.fit(pictures, distances)
    easy, hard = usual(pictures[[0, -1]], torch.tensor([0.1, 1.0])).tolist()
    assert hard / easy == pytest.approx(10**0.5, rel=0.1)


@pytest.mark.parametrize("count", [1, 3, 40])
def test_a_handful_of_pictures_is_enough_to_fit(count: int) -> None:
    """Fewer than there are places and directions: every distance stays a number."""
    pictures, distances = two_kinds(count)
    usual = UsualDistance(WIDTH, 0.75)
    usual.fit(pictures[-count:], distances[-count:])
    assert usual(pictures, distances).isfinite().all()
    assert (usual.directions.norm(dim=0) < 1 + 1e-4).all()


def test_what_is_usual_is_measured_on_images_that_the_metric_was_not_fitted_to() -> None:
    """With few images in many directions the metric is far kinder to its own; unseen ones still come to about one."""
    torch.manual_seed(2)
    teacher = normalize(torch.ones(400, 1, 1, 512), dim=-1)
    student = teacher + 0.01 * torch.randn(400, 1, 1, 512)
    metric = SemanticMetric(1, 0, 512, alignment=1.0)
    metric.fit(teacher[:200], student[:200])
    assert metric(teacher[200:], student[200:]).mean().item() == pytest.approx(1.0, abs=0.1)
