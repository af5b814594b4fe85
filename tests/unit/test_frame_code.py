"""The code of whole frames: what it completes, and what it cannot."""

from __future__ import annotations

import torch
from dualkd.train.anomaly_map import cosine_distance
from dualkd.train.frame_code import FrameCode, missed
from torch import Tensor

TOKENS, WIDTH = 12, 16


def frames(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """A teacher's tokens (count, 2, TOKENS, WIDTH), and what is known of them: frames differ in three ways more."""
    ways = torch.randn(3, 1, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    known = torch.full((count, 2, TOKENS, WIDTH), 3.0)
    amounts = torch.randn(count, 3, generator=generator)
    grain = 0.03 * torch.randn(known.shape, generator=generator)
    return known + 0.3 * torch.einsum("bk,kgnd->bgnd", amounts, ways) + grain, known


def fitted(count: int, rank: int) -> FrameCode:
    code = FrameCode(rank, TOKENS, WIDTH)
    code.fit(missed(*frames(count, seed=1)))
    return code


def test_what_good_frames_differ_in_as_wholes_is_known() -> None:
    """On frames it was not fitted on, whatever the length of the tokens."""
    teacher, known = frames(20, seed=2)
    completed = fitted(60, rank=3)(teacher, known)
    assert cosine_distance(teacher, completed).mean() < 0.1 * cosine_distance(teacher, known).mean()


def test_something_small_and_new_stays_unknown_where_it_is() -> None:
    """A code of few numbers a frame cannot carry what one token says."""
    teacher, known = frames(1, seed=3)
    teacher[:, :, 7] = torch.randn(WIDTH, generator=torch.Generator().manual_seed(4))
    distances = cosine_distance(teacher, fitted(60, rank=3)(teacher, known))[0].mean(0)
    assert distances[7] > 0.8 * cosine_distance(teacher, known)[0, :, 7].mean()
    assert distances[7] > 10 * distances[torch.arange(TOKENS) != 7].max()


def test_halves_of_two_good_frames_are_no_good_frame() -> None:
    """Each token is as often seen, but not with these neighbours: all of a frame is one vector."""
    teacher, known = frames(2, seed=5)
    code = fitted(60, rank=3)
    mixed = torch.cat([teacher[:1, :, :6], teacher[1:, :, 6:]], 2)
    good = cosine_distance(teacher, code(teacher, known)).mean()
    assert cosine_distance(mixed, code(mixed, known[:1])).mean() > 5 * good


def test_more_directions_than_frames_leave_the_rest_unused() -> None:
    """Nothing is made up: a handful of frames has a handful of directions, all orthonormal."""
    directions = fitted(4, rank=9).directions
    expected = torch.diag(torch.tensor([1.0] * 4 + [0.0] * 5))
    torch.testing.assert_close(directions @ directions.t(), expected, rtol=0, atol=1e-4)


def test_before_it_is_fitted_nothing_is_added() -> None:
    """What is known stays as it is."""
    teacher, known = frames(2, seed=6)
    torch.testing.assert_close(FrameCode(5, TOKENS, WIDTH)(teacher, known), known)
