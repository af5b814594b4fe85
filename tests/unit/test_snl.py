"""SNL: the four structural losses against their definitions, and what the aggregation lets through."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from dualkd.train.config import LocalConfig, SnlConfig
from dualkd.train.model import LocalStudent
from dualkd.train.residual_aggregation import LEAST_MASS, TEMPERATURE, ResidualAggregation
from dualkd.train.snl import (
    channel_loss,
    inter_affinity_loss,
    intra_affinity_loss,
    spatial_loss,
    structural_loss,
)
from torch import Tensor
from torch.nn.functional import cosine_similarity

Piece = Callable[[Tensor, Tensor], Tensor]
PIECES: dict[str, Piece] = {
    "spatial": spatial_loss,
    "channel": channel_loss,
    "intra": intra_affinity_loss,
    "inter": inter_affinity_loss,
}
OFF = dict.fromkeys(PIECES, 0.0)


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    """A teacher's tokens and a student's that are somewhat off, (3, 2, 5, 4) both."""
    torch.manual_seed(0)
    teacher = torch.randn(3, 2, 5, 4) + 0.5
    return teacher, teacher + 0.4 * torch.randn_like(teacher)


def cosine(one: Tensor, other: Tensor) -> float:
    return float(one @ other / (one.norm() * other.norm()))


def by_definition(name: str, teacher: Tensor, student: Tensor, frame: int) -> float:
    """The formulas of the module's docstring, one number at a time."""
    frames, groups, positions, channels = teacher.shape
    values = []
    for group in range(groups):
        t, s = teacher[frame, group], student[frame, group]
        if name == "spatial":
            values += [1 - cosine(t[n], s[n]) for n in range(positions)]
        elif name == "channel":
            values += [1 - cosine(t[:, d], s[:, d]) for d in range(channels)]
        elif name == "intra":
            values += [
                (cosine(t[i], t[j]) - cosine(s[i], s[j])) ** 2
                for i in range(positions)
                for j in range(positions)
            ]
        else:
            values += [
                (cosine(t[n], teacher[b, group, n]) - cosine(s[n], student[b, group, n])) ** 2
                for b in range(frames)
                if b != frame
                for n in range(positions)
            ]
    return sum(values) / len(values)


@pytest.mark.parametrize("name", PIECES)
def test_a_piece_equals_its_definition(name: str, pair: tuple[Tensor, Tensor]) -> None:
    """Frame by frame, group by group, pair by pair."""
    expected = [by_definition(name, *pair, frame) for frame in range(3)]
    torch.testing.assert_close(PIECES[name](*pair), torch.tensor(expected), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", PIECES)
def test_a_student_that_says_the_same_louder_is_not_blamed(name: str, pair: tuple[Tensor, Tensor]) -> None:
    """Only directions count: tokens of twice the length are at distance 0."""
    torch.testing.assert_close(PIECES[name](pair[0], 2 * pair[0]), torch.zeros(3), atol=1e-6, rtol=0)


def test_the_pieces_see_different_things(pair: tuple[Tensor, Tensor]) -> None:
    """Token lengths: the channels' maps alone. A turned feature space: tokens and maps, not the affinities."""
    teacher = pair[0]
    longer = teacher * torch.linspace(0.5, 4, 5)[:, None]
    turned = teacher @ torch.linalg.qr(torch.randn(4, 4)).Q
    seen = {
        name: (bool((piece(teacher, longer) > 1e-3).all()), bool((piece(teacher, turned) > 1e-3).all()))
        for name, piece in PIECES.items()
    }
    assert seen == {
        "spatial": (False, True),
        "channel": (True, True),
        "intra": (False, False),
        "inter": (False, False),
    }


def test_frames_that_move_apart_are_seen_by_the_inter_affinity_alone() -> None:
    """Each frame turned by its own rotation keeps its inner structure and loses that of the batch."""
    torch.manual_seed(1)
    teacher = torch.randn(3, 2, 5, 4)
    turns = torch.linalg.qr(torch.randn(3, 1, 4, 4)).Q
    torch.testing.assert_close(
        intra_affinity_loss(teacher, teacher @ turns), torch.zeros(3), atol=1e-6, rtol=0
    )
    assert (inter_affinity_loss(teacher, teacher @ turns) > 0.01).all()


def test_a_frame_alone_has_no_inter_affinity(pair: tuple[Tensor, Tensor]) -> None:
    """A batch of one is a number, not 0 / 0, and pulls at nothing."""
    student = pair[1][:1].clone().requires_grad_()
    loss = inter_affinity_loss(pair[0][:1], student)
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(0, abs=1e-10)
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-6


@pytest.mark.parametrize("name", PIECES)
def test_each_piece_can_be_switched_off_alone(name: str, pair: tuple[Tensor, Tensor]) -> None:
    """Its weight is its share of the sum; without it the other three are left."""
    everything = structural_loss(*pair, SnlConfig(spatial=1, channel=2, intra=3, inter=4))
    weights = {"spatial": 1.0, "channel": 2.0, "intra": 3.0, "inter": 4.0}
    alone = structural_loss(*pair, SnlConfig(**{**OFF, name: weights[name]}))
    without = structural_loss(*pair, SnlConfig(**{**weights, name: 0.0}))
    torch.testing.assert_close(alone, weights[name] * PIECES[name](*pair))
    torch.testing.assert_close(alone + without, everything)


def test_mixed_precision_leaves_the_losses_in_float32(pair: tuple[Tensor, Tensor]) -> None:
    """Half tokens under autocast: small differences of similarities are not rounded away."""
    teacher, student = pair[0].bfloat16(), pair[1].bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = structural_loss(teacher, student, SnlConfig())
    torch.testing.assert_close(loss, structural_loss(teacher.float(), student.float(), SnlConfig()))


def aggregation(count: int = 6, width: int = 16, *, learned: bool = True) -> ResidualAggregation:
    torch.manual_seed(2)
    module = ResidualAggregation(count, width)
    if learned:
        torch.nn.init.normal_(module.residual.weight, std=0.1)
    return module


def test_the_aggregation_equals_its_definition() -> None:
    """y_i = sum_k a_ik (c_k + W V_k), token by token and centre by centre."""
    module = aggregation()
    tokens = torch.randn(2, 9, 16) * 3 + 1
    x = F.layer_norm(tokens, (16,))
    c = F.layer_norm(module.centres, (16,))
    for frame in range(2):
        a = torch.stack([(cosine_similarity(token[None], c) / TEMPERATURE).softmax(0) for token in x[frame]])
        residuals = [
            (a[:, k, None] * (x[frame] - c[k])).sum(0) / (a[:, k].sum() + LEAST_MASS) for k in range(6)
        ]
        mapped = torch.stack([c[k] + module.residual.weight @ residuals[k] for k in range(6)])
        torch.testing.assert_close(module(tokens)[frame], a @ mapped, atol=1e-4, rtol=1e-4)


def test_an_untrained_aggregation_gives_mixtures_of_centres() -> None:
    """Nothing of a token passes but its choice: every channel stays between the centres' values."""
    module = aggregation(learned=False)
    out = module(torch.randn(2, 9, 16) * 5)
    centres = F.layer_norm(module.centres, (16,))
    assert (out >= centres.amin(0) - 1e-5).all()
    assert (out <= centres.amax(0) + 1e-5).all()


def test_a_strange_token_among_many_does_not_pass_through() -> None:
    """With residuals passed on unchanged (W the identity) good tokens come back, a lone stranger does not."""
    module = aggregation(count=4, width=32, learned=False)
    torch.nn.init.eye_(module.residual.weight)
    centres = F.layer_norm(module.centres, (32,)).detach()
    good = centres.repeat(50, 1) + 0.3 * torch.randn(200, 32)
    stranger = torch.randn(1, 32)
    rebuilt = module(torch.cat([good, stranger])[None])[0]
    similarity = cosine_similarity(rebuilt, F.layer_norm(torch.cat([good, stranger]), (32,)), dim=-1)
    assert similarity[:200].min() > 0.85
    assert similarity[200] < 0.6


def test_half_precision_holds_tokens_of_any_size() -> None:
    """Tokens near half's largest value, and a centre that no token is near: finite, and what float32 says."""
    module = aggregation(count=8, width=384).eval()
    away = F.layer_norm(module.centres, (384,)).mean(0)
    tokens = (20_000 * (torch.randn(1, 784, 384) - away)).clamp(-60_000, 60_000)
    expected = module(tokens)
    halved = module.half()(tokens.half())
    assert halved.isfinite().all()
    assert cosine_similarity(halved.float(), expected, dim=-1).min() > 0.9999


def test_an_unused_centre_has_no_residual() -> None:
    """Tokens far from a centre leave it as it is, instead of dividing nothing by nothing."""
    module = aggregation(count=2, width=16)
    with torch.no_grad():
        module.centres[1] = -module.centres[0]
    tokens = module.centres[0].detach().repeat(1, 5, 1)
    torch.testing.assert_close(
        module(tokens)[0, 0], F.layer_norm(module.centres[0], (16,)), atol=1e-4, rtol=0
    )


def test_the_aggregation_learns_with_the_student() -> None:
    """Its centres and its map get gradients, and the structural loss of a small student falls."""
    torch.manual_seed(3)
    student = LocalStudent(LocalConfig(prototypes=0, depth=2, heads=2, dropout=0.0), 12, 32, centres=8)
    kinds = torch.randn(6, 2, 32)
    teacher = kinds[torch.randint(6, (4, 12))].transpose(1, 2)  # (4, 2, 12, 32)
    optimiser = torch.optim.AdamW(student.parameters(), lr=3e-3)
    before = student.aggregation.state_dict()["centres"].clone()
    losses = []
    for _ in range(60):
        loss = structural_loss(teacher, student(teacher), SnlConfig()).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    after = student.aggregation.state_dict()
    assert (after["centres"] - before).abs().max() > 1e-2
    assert after["residual.weight"].abs().max() > 1e-2


def test_no_centres_no_module() -> None:
    """A student without centres has the weights that it always had."""
    config = LocalConfig(prototypes=0, depth=2, heads=2)
    plain, snl = LocalStudent(config, 12, 32), LocalStudent(config, 12, 32, centres=4)
    extra = snl.state_dict().keys() - plain.state_dict().keys()
    assert extra == {"aggregation.centres", "aggregation.residual.weight"}
