"""Pseudo-anomalies: what is spoilt, where, and what it does to training."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from dualkd.daemon.bundle import Students
from dualkd.train.config import (
    DataConfig,
    InputConfig,
    LocalConfig,
    OptimConfig,
    PseudoConfig,
    SemanticConfig,
    TrainConfig,
)
from dualkd.train.detector import Detector
from dualkd.train.images import EncodedImages
from dualkd.train.objective import objective
from dualkd.train.pseudo import PseudoAnomalies, perlin, spoil_frames, spoil_tokens, touched_patches
from dualkd.train.teacher import TeacherTokens
from torch.nn.functional import normalize

CPU = torch.device("cpu")


@pytest.fixture
def frames() -> torch.Tensor:
    """Six noisy frames, all different."""
    return torch.randint(
        0, 256, (6, 56, 84, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def test_frames_are_spoilt_within_their_mask_only(frames: torch.Tensor) -> None:
    """Outside the mask a spoilt frame equals one of the good ones; inside it is nearly all different."""
    spoilt, masks = spoil_frames(frames, 12, seed=3)
    assert spoilt.shape == (12, 56, 84, 3)
    for image, mask in zip(spoilt, masks, strict=True):
        assert 0 < mask.float().mean() < 0.3
        same = [frame for frame in frames if frame[~mask].equal(image[~mask])]
        assert len(same) == 1
        assert (same[0][mask] != image[mask]).any(1).float().mean() > 0.8


def test_the_same_seed_spoils_the_same_frames(frames: torch.Tensor) -> None:
    """A resumed run sees what the interrupted one saw; another seed sees others."""
    first, again, other = (spoil_frames(frames, 4, seed)[0] for seed in (1, 1, 2))
    assert first.equal(again)
    assert not first.equal(other)


def test_perlin_noise_is_smooth_and_zero_at_its_lattice() -> None:
    """Gradient noise: nothing at the corners of its cells, no jumps between neighbours."""
    noise = perlin(64, 96, 4, np.random.default_rng(0))
    assert noise.shape == (64, 96)
    assert np.abs(noise[::16, ::24]).max() < 1e-12
    assert 0.2 < np.abs(noise).max() <= 1
    assert np.abs(np.diff(noise, axis=0)).max() < 0.2


def test_a_patch_is_touched_if_any_of_its_pixels_is() -> None:
    """One pixel suffices, and its patch is the one at its place."""
    mask = torch.zeros(1, 28, 42, dtype=torch.bool)
    mask[0, 27, 14] = True
    assert touched_patches(mask, (2, 3)).tolist() == [[False, False, False, False, True, False]]


def test_tokens_are_spoilt_in_part_and_global_tokens_are_a_neighbours() -> None:
    """Noise of the wanted length on about a fifth of the tokens; every frame gets another frame's whole."""
    torch.manual_seed(0)
    tokens = TeacherTokens(torch.randn(4, 2, 200, 64), torch.randn(4, 1, 1, 64))
    spoilt = spoil_tokens(tokens, torch.zeros(4, 3, 14, 14), 0.5)
    changed = (spoilt.tokens.patch_tokens != tokens.patch_tokens).any(-1)
    assert changed.equal(spoilt.touched[:, None].expand(-1, 2, -1))
    assert 0.1 < spoilt.touched.float().mean() < 0.3
    noise = (spoilt.tokens.patch_tokens - tokens.patch_tokens).norm(dim=-1)[changed]
    assert (noise / tokens.patch_tokens.norm(dim=-1)[changed]).mean() == pytest.approx(0.5, abs=0.05)
    assert spoilt.tokens.global_tokens[1:].equal(tokens.global_tokens[:-1])


def train_beside(frames: torch.Tensor, weight: float) -> dict[str, torch.Tensor]:
    """The objective's parts after twelve steps with this weight on -log P."""
    torch.manual_seed(0)
    config = TrainConfig(
        run="unused",
        data=DataConfig(root="x"),
        input=InputConfig(height=56, width=84),
        local=LocalConfig(blocks=[0, 1], prototypes=0, depth=2),
        semantic=SemanticConfig(blocks=[1], grid=2, depth=1, width=24, heads=3, side=28),
        pseudo=PseudoConfig(frames=4, batch=4, jitter=0.5, weight=weight),
        training=OptimConfig(device="cpu"),
    )
    detector = Detector(config)
    pseudo = PseudoAnomalies(config, frames, detector, CPU, 64)
    images = detector.normalise(frames)
    tokens = detector.teacher(images)
    optimiser = torch.optim.AdamW([p for p in detector.parameters() if p.requires_grad], lr=1e-3)
    detector.semantic.mean.copy_(normalize(tokens.global_tokens, dim=-1).mean(0))
    for _ in range(12):
        total, parts = objective(config, detector, tokens, images, 0.0, pseudo.draw(tokens, images))
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    return parts


def test_training_on_pseudo_anomalies_raises_their_hazard(frames: torch.Tensor) -> None:
    """-log P of spoilt frames and of spoilt tokens ends lower than where it is only looked at."""
    looked_at, trained_on = train_beside(frames, 1e-9), train_beside(frames, 1.0)
    assert set(trained_on) == {"local", "semantic", "spoilt frames", "spoilt tokens"}
    assert trained_on["spoilt frames"] < 0.8 * looked_at["spoilt frames"]
    assert trained_on["spoilt tokens"] < 0.8 * looked_at["spoilt tokens"]


@pytest.mark.parametrize(
    ("students", "method"),
    [("local", "dual"), ("semantic", "dual"), ("both", "dual"), ("local", "snl"), ("both", "snl")],
)
def test_whichever_students_there_are_learn_from_pseudo_anomalies(
    frames: torch.Tensor, students: Students, method: Literal["dual", "snl"]
) -> None:
    """A student that is not built has no tokens to spoil; the pull on the others is finite and not nothing."""
    torch.manual_seed(0)
    config = TrainConfig(
        run="unused",
        data=DataConfig(root="x"),
        students=students,
        method=method,
        input=InputConfig(height=56, width=84),
        local=LocalConfig(blocks=[0, 1], depth=2, prototypes=16),
        semantic=SemanticConfig(blocks=[1], grid=2, depth=1, width=24, heads=3, side=28),
        pseudo=PseudoConfig(frames=2, batch=2, jitter=0.5),
        training=OptimConfig(device="cpu"),
    )
    detector = Detector(config)
    images = EncodedImages(frames, detector, CPU, "float32", 64)
    images.fit_beginnings(torch.Generator().manual_seed(0))
    ((tokens, pictures),) = images.batches([torch.arange(3)])
    pseudo = PseudoAnomalies(config, frames, detector, CPU, 64)
    drawn = pseudo.draw(tokens, pictures)
    with_them, parts = objective(config, detector, tokens, pictures, 0.0, drawn)
    assert {"spoilt frames", "spoilt tokens"} < parts.keys()
    alone, _ = objective(config, detector, tokens, pictures, 0.0)
    (with_them - alone).backward()
    trained = [parameter for parameter in detector.parameters() if parameter.requires_grad]
    pulls = [parameter.grad.norm() for parameter in trained if parameter.grad is not None]
    assert torch.stack(pulls).isfinite().all()
    assert max(pulls) > 0


def test_without_pseudo_anomalies_nothing_is_drawn(frames: torch.Tensor) -> None:
    """The default: no spoilt frames, no noise, and the random state is left alone."""
    config = TrainConfig(
        run="unused", data=DataConfig(root="x"), input=InputConfig(height=56, width=84), students="local"
    )
    pseudo = PseudoAnomalies(config, frames, Detector(config), CPU, 64)
    state = torch.get_rng_state()
    assert pseudo.draw(TeacherTokens(torch.zeros(1), torch.zeros(1)), torch.zeros(1)) == {}
    assert torch.get_rng_state().equal(state)
