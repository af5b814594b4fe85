"""What a training step minimises: which loss the method chooses, and how the students are joined."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import torch
from dualkd.configs.loader import ConfigError, load
from dualkd.train.config import TrainConfig
from dualkd.train.detector import Detector
from dualkd.train.losses import local_loss, semantic_loss
from dualkd.train.objective import objective
from dualkd.train.snl import structural_loss
from dualkd.train.teacher import TeacherTokens
from torch import Tensor


def config(**changes: Any) -> TrainConfig:
    return msgspec.convert(
        {
            "run": "unused",
            "data": {"root": "unused"},
            "students": "local",
            "input": {"height": 56, "width": 84},
            "local": {"blocks": [0, 1], "prototypes": 0, "depth": 2, "dropout": 0.0, "hard_mining": 0.5},
            "semantic": {"blocks": [1], "grid": 2, "depth": 1, "width": 48, "heads": 3, "side": 56},
            "objective": {"local": 3.0, "semantic": 0.5},
            **changes,
        },
        TrainConfig,
    )


def batch(detector: Detector) -> tuple[TeacherTokens, Tensor]:
    images = detector.normalise(torch.randint(0, 256, (3, 56, 84, 3), dtype=torch.uint8))
    with torch.no_grad():
        return detector.teacher(images), images


@pytest.mark.parametrize("method", ["dual", "snl"])
def test_the_method_chooses_the_local_students_loss(method: str) -> None:
    """Plain distance or structural distillation, times its weight in the Noisy-OR."""
    torch.manual_seed(0)
    settings = config(method=method)
    detector = Detector(settings)
    tokens, images = batch(detector)
    total, parts = objective(settings, detector, tokens, images, ramp=0.0)
    assert detector.local is not None
    rebuilt = detector.local(tokens.patch_tokens)
    plain = local_loss(tokens.patch_tokens, rebuilt).mean()
    structural = structural_loss(tokens.patch_tokens, rebuilt, settings.snl).mean()
    assert plain.item() != pytest.approx(structural.item(), rel=0.01)
    expected = structural if method == "snl" else plain
    torch.testing.assert_close(parts["local"], expected.detach())
    torch.testing.assert_close(total, 3 * expected)


@pytest.mark.parametrize("method", ["dual", "snl"])
def test_both_students_are_joined_by_their_weights(method: str) -> None:
    """The semantic student and its loss are the same under either method."""
    torch.manual_seed(0)
    settings = config(method=method, students="both")
    detector = Detector(settings)
    tokens, images = batch(detector)
    total, parts = objective(settings, detector, tokens, images, ramp=1.0)
    assert detector.semantic is not None
    semantic = semantic_loss(tokens.global_tokens, detector.semantic(detector.resize(images))).mean()
    torch.testing.assert_close(parts["semantic"], semantic.detach())
    torch.testing.assert_close(total.detach(), 3 * parts["local"] + 0.5 * parts["semantic"])


@pytest.mark.parametrize("method", ["dual", "snl"])
def test_hard_mining_comes_with_the_ramp_and_changes_gradients_only(method: str) -> None:
    """At the ramp's end the value is the same and easy tokens pull less."""
    torch.manual_seed(0)
    settings = config(method=method)
    detector = Detector(settings)
    assert detector.local is not None
    tokens, images = batch(detector)
    values, pulls = [], []
    for ramp in (0.0, 1.0):
        total, _ = objective(settings, detector, tokens, images, ramp)
        gradients = torch.autograd.grad(total, list(detector.local.blocks[-1].parameters()))
        values.append(total.item())
        pulls.append(sum(gradient.norm().item() for gradient in gradients))
    assert values[1] == pytest.approx(values[0], rel=1e-5)
    assert pulls[1] < 0.9 * pulls[0]


def test_only_snl_builds_the_aggregation_and_only_with_centres() -> None:
    """dual ignores the section `snl`; `centres: 0` leaves the module out."""
    names = {
        (method, centres): [
            name
            for name in Detector(config(method=method, snl={"centres": centres})).student_state()
            if "aggregation" in name
        ]
        for method in ("dual", "snl")
        for centres in (0, 8)
    }
    assert names.pop(("snl", 8)) == ["local.aggregation.centres", "local.aggregation.residual.weight"]
    assert not any(names.values())


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["snl.spatial=0", "snl.channel=0", "snl.intra=0", "snl.inter=0"], "nothing to learn"),
        (["snl.intra=-1"], "snl.intra"),
        (["students=semantic"], "set students to local or both"),
        (["method=both"], "method"),
    ],
)
def test_settings_that_leave_snl_nothing_to_learn_are_refused(overrides: list[str], words: str) -> None:
    """One line, with the key or with what to do."""
    with pytest.raises(ConfigError, match=words):
        load("configs/train.yaml", TrainConfig, ["method=snl", *overrides])
