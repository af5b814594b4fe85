"""The objective: the Noisy-OR's identity, and what hard mining may and may not change."""

from __future__ import annotations

import pytest
import torch
from dualkd.train.anomaly_map import cosine_distance
from dualkd.train.losses import EASY_GRADIENT, local_loss, noisy_or_loss, semantic_loss


def test_on_good_frames_the_noisy_or_is_the_weighted_sum() -> None:
    """-log(1 - P) with p = 1 - exp(-a L) equals a L_local + b L_semantic, as derived in the module."""
    local, semantic = torch.tensor([0.3, 0.05]), torch.tensor([0.01, 0.4])
    p_local, p_semantic = 1 - torch.exp(-2 * local), 1 - torch.exp(-0.5 * semantic)
    expected = -torch.log((1 - p_local) * (1 - p_semantic)).mean()
    assert noisy_or_loss([2 * local, 0.5 * semantic]).item() == pytest.approx(expected.item(), rel=1e-5)


def test_hard_mining_damps_the_gradient_of_easy_tokens_only() -> None:
    """The loss keeps its value; tokens that are already right pull a tenth as hard."""
    torch.manual_seed(0)
    teacher = torch.randn(2, 2, 50, 8)
    student = (teacher + 0.3 * torch.randn_like(teacher)).requires_grad_()
    distances = cosine_distance(teacher, student.detach())
    plain = local_loss(teacher, student, 0.0)
    (plain_gradient,) = torch.autograd.grad(plain.sum(), student)
    mined = local_loss(teacher, student, 0.8)
    (mined_gradient,) = torch.autograd.grad(mined.sum(), student)
    torch.testing.assert_close(mined, plain)
    ratio = mined_gradient.norm(dim=-1) / plain_gradient.norm(dim=-1)  # (B, G, N)
    for group in range(2):
        hardest = distances[:, group].flatten().argsort(descending=True)
        of_group = ratio[:, group].flatten()[hardest]
        torch.testing.assert_close(of_group[:20], torch.ones(20))
        torch.testing.assert_close(of_group[20:], torch.full((80,), EASY_GRADIENT))


def test_semantic_loss_is_the_mean_over_class_tokens() -> None:
    """One of two class tokens orthogonal gives a half."""
    teacher = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    student = torch.tensor([[[5.0, 0.0], [0.0, 2.0]]])
    assert semantic_loss(teacher, student).item() == pytest.approx(0.5, abs=1e-6)
