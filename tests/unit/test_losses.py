"""The objective: the Noisy-OR's identities on good and on anomalous frames, and what hard mining may change."""

from __future__ import annotations

import math

import pytest
import torch
from dualkd.train.anomaly_map import cosine_distance
from dualkd.train.losses import (
    EASY_GRADIENT,
    LEAST_HAZARD,
    damp_easy_tokens,
    local_loss,
    noisy_or_anomaly_loss,
    noisy_or_loss,
    semantic_loss,
)


def test_on_good_frames_the_noisy_or_is_the_weighted_sum() -> None:
    """-log(1 - P) with p = 1 - exp(-a L) equals a L_local + b L_semantic, as derived in the module."""
    local, semantic = torch.tensor([0.3, 0.05]), torch.tensor([0.01, 0.4])
    p_local, p_semantic = 1 - torch.exp(-2 * local), 1 - torch.exp(-0.5 * semantic)
    expected = -torch.log((1 - p_local) * (1 - p_semantic)).mean()
    assert noisy_or_loss([2 * local, 0.5 * semantic]).item() == pytest.approx(expected.item(), rel=1e-5)


def test_on_anomalous_frames_it_is_minus_log_of_the_noisy_or() -> None:
    """-log P of the P that the two probabilities give."""
    local, semantic = torch.tensor([0.3, 0.05]), torch.tensor([0.01, 0.4])
    p_local, p_semantic = 1 - torch.exp(-2 * local), 1 - torch.exp(-0.5 * semantic)
    expected = -torch.log(1 - (1 - p_local) * (1 - p_semantic)).mean()
    assert noisy_or_anomaly_loss([2 * local, 0.5 * semantic]).item() == pytest.approx(
        expected.item(), rel=1e-5
    )


@pytest.mark.parametrize(
    "hazard", [2e-12, 1e-9, 1e-7, 1e-4, 0.1, math.log(2), 0.7, 1.0, 5.0, 17.0, 30.0, 80.0]
)
def test_no_hazard_is_too_small_or_too_large(hazard: float) -> None:
    """Value and gradient in float32 have double precision's leading digits, over 40 orders of magnitude."""
    tiny = torch.tensor([hazard], requires_grad=True)
    exact = tiny.detach().double()
    loss = noisy_or_anomaly_loss([tiny])
    loss.backward()  # type: ignore[no-untyped-call]
    small = exact < 1
    value = -torch.log(-torch.expm1(-exact)) if small else -torch.log1p(-torch.exp(-exact))
    assert loss.item() == pytest.approx(value.item(), rel=1e-5)
    assert tiny.grad is not None
    assert tiny.grad.item() == pytest.approx(-1 / math.expm1(exact.item()), rel=1e-5)


@pytest.mark.parametrize("hazard", [0.0, -3e-7, -1e-3, 1e-30, 1e4, 1e30])
def test_beyond_what_float32_holds_the_loss_stays_usable(hazard: float) -> None:
    """No NaN and no infinity; what is not seen at all still pulls, what is seen for sure does not."""
    frame = torch.tensor([hazard], requires_grad=True)
    loss = noisy_or_anomaly_loss([frame])
    loss.backward()  # type: ignore[no-untyped-call]
    assert frame.grad is not None
    if hazard < 1:
        assert loss.item() == pytest.approx(-math.log(LEAST_HAZARD), rel=1e-5)
        assert frame.grad.item() == pytest.approx(-1 / LEAST_HAZARD, rel=1e-5)
    else:
        assert (loss.item(), frame.grad.item()) == (0, 0)


def test_the_gradient_is_that_of_finite_differences() -> None:
    """On both sides of log 2, where the formula changes, and through the sum of two students."""
    local = torch.tensor([1e-3, 0.2, 0.5, 3.0], dtype=torch.float64, requires_grad=True)
    semantic = torch.tensor([2e-3, 0.4, 0.3, 1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: noisy_or_anomaly_loss([a, b]), (local, semantic), eps=1e-7)


def test_the_student_that_sees_an_anomaly_relieves_the_other() -> None:
    """Both are pulled alike, by -1 / (e^h - 1) of the sum of both hazards: the shared blame."""
    local = torch.tensor([0.01], requires_grad=True)
    pulls = []
    for seen_by_the_other in (0.01, 1.0, 10.0):
        semantic = torch.tensor([seen_by_the_other], requires_grad=True)
        loss = noisy_or_anomaly_loss([local, semantic])
        on_local, on_semantic = torch.autograd.grad(loss, (local, semantic))
        assert on_local.item() == on_semantic.item()
        pulls.append(-on_local.item())
    assert pulls == pytest.approx(
        [1 / math.expm1(0.02), 1 / math.expm1(1.01), 1 / math.expm1(10.01)], rel=1e-4
    )


def test_hard_mining_damps_the_gradient_of_easy_tokens_only() -> None:
    """The loss keeps its value; tokens that are already right pull a tenth as hard."""
    torch.manual_seed(0)
    teacher = torch.randn(2, 2, 50, 8)
    student = (teacher + 0.3 * torch.randn_like(teacher)).requires_grad_()
    distances = cosine_distance(teacher, student.detach())
    plain = local_loss(teacher, student)
    (plain_gradient,) = torch.autograd.grad(plain.sum(), student)
    mined = local_loss(teacher, damp_easy_tokens(teacher, student, 0.8))
    (mined_gradient,) = torch.autograd.grad(mined.sum(), student)
    torch.testing.assert_close(mined, plain)
    ratio = mined_gradient.norm(dim=-1) / plain_gradient.norm(dim=-1)  # (B, G, N)
    for group in range(2):
        hardest = distances[:, group].flatten().argsort(descending=True)
        of_group = ratio[:, group].flatten()[hardest]
        torch.testing.assert_close(of_group[:20], torch.ones(20))
        torch.testing.assert_close(of_group[20:], torch.full((80,), EASY_GRADIENT))


def test_without_hard_mining_the_tokens_are_left_alone() -> None:
    """A share of 0 is no mining, whatever the distances."""
    student = torch.randn(1, 2, 3, 4)
    assert damp_easy_tokens(torch.randn(1, 2, 3, 4), student, 0.0) is student


def test_local_loss_is_the_mean_over_groups_of_whole_maps() -> None:
    """One of two groups orthogonal gives a half; long tokens weigh more, as in one long vector."""
    teacher = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]], [[3.0, 0.0], [4.0, 0.0]]]])  # (1, 2, 2, 2)
    student = torch.tensor([[[[0.0, 1.0], [0.0, 2.0]], [[3.0, 0.0], [0.0, 4.0]]]])
    assert local_loss(teacher, student).item() == pytest.approx((1 + (1 - 9 / 25)) / 2, abs=1e-6)


def test_semantic_loss_is_the_mean_over_class_tokens() -> None:
    """One of two class tokens orthogonal gives a half."""
    teacher = torch.tensor([[[[1.0, 0.0]], [[1.0, 0.0]]]])
    student = torch.tensor([[[[5.0, 0.0]], [[0.0, 2.0]]]])
    assert semantic_loss(teacher, student).item() == pytest.approx(0.5, abs=1e-6)


def test_the_cells_of_a_grid_together_weigh_as_much_as_the_class_token() -> None:
    """However fine the grid is, what is true of the whole is not forgotten."""
    teacher = torch.tensor([1.0, 0.0]).repeat(1, 1, 5, 1)
    student = teacher.clone()
    student[:, :, 1] = torch.tensor([0.0, 1.0])  # one cell of four
    assert semantic_loss(teacher, student).item() == pytest.approx(0.125, abs=1e-6)
