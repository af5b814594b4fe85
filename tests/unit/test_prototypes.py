"""The memory of good tokens: what it rebuilds, and what it cannot pass through."""

from __future__ import annotations

import torch
from dualkd.train.prototypes import Prototypes
from torch import Tensor
from torch.nn.functional import cosine_similarity


def fitted(count: int, tokens: Tensor) -> Prototypes:
    prototypes = Prototypes(count, tokens.shape[1], tokens.shape[2])
    prototypes.fit(tokens, torch.Generator().manual_seed(0))
    return prototypes


def clusters(centres: int, each: int) -> tuple[Tensor, Tensor]:
    """(tokens (M, 2, 32), centres (centres, 2, 32)) around well separated centres."""
    torch.manual_seed(1)
    middle = torch.randn(centres, 2, 32)
    return (middle[:, None] + 0.02 * torch.randn(centres, each, 2, 32)).flatten(0, 1), middle


def test_good_tokens_are_rebuilt_in_each_group() -> None:
    """Tokens near a centre come out as that centre, in the shallow and in the deep group."""
    tokens, middle = clusters(6, 100)
    rebuilt = fitted(48, tokens)(middle.transpose(0, 1)[None])  # (1, 2, 6, 32)
    similarity = cosine_similarity(rebuilt[0].transpose(0, 1), middle, dim=-1)
    assert similarity.min() > 0.99


def test_a_token_unlike_any_good_one_does_not_pass_through() -> None:
    """What comes out is still made of good tokens, so the distance to what went in is large."""
    tokens, _ = clusters(6, 100)
    prototypes = fitted(48, tokens)
    stranger = torch.randn(1, 2, 1, 32, generator=torch.Generator().manual_seed(9))
    rebuilt = prototypes(stranger)
    assert cosine_similarity(rebuilt, stranger, dim=-1).max() < 0.7
    low, high = prototypes.values.amin(1), prototypes.values.amax(1)  # a mixture stays inside
    assert ((rebuilt[0, :, 0] >= low - 1e-5) & (rebuilt[0, :, 0] <= high + 1e-5)).all()


def test_few_tokens_make_few_prototypes_that_fill_the_memory() -> None:
    """A handful of images leaves no empty prototypes that match anything, and is not learned by heart."""
    tokens, middle = clusters(3, 80)
    prototypes = fitted(64, tokens)
    torch.testing.assert_close(prototypes.keys.norm(dim=1), torch.ones(64))
    assert len(prototypes.keys.unique(dim=0)) == 15  # of 240 tokens
    assert cosine_similarity(prototypes(middle.transpose(0, 1)[None])[0, 0], middle[:, 0], dim=-1).min() > 0.9


def test_what_is_seldom_seen_has_prototypes_too() -> None:
    """Of thirty kinds of token that are each a three-hundredth, nearly all are rebuilt from their own kind."""
    tokens, middle = clusters(33, 300)
    seldom = tokens.unflatten(0, (33, 300))[:30, :3].flatten(0, 1)
    rebuilt = fitted(64, torch.cat([seldom, tokens[9000:]]))(middle[:30].transpose(0, 1)[None])
    assert (cosine_similarity(rebuilt[0, 0], middle[:30, 0], dim=-1) > 0.99).sum() >= 25
