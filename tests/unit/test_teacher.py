"""The frozen teachers: what they read, how they bring it to one shape, and which networks they refuse."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import timm
import torch
import torch.nn.functional as F
from dualkd.configs.loader import ConfigError
from dualkd.train.pixels import PooledResize
from dualkd.train.teacher import PyramidTeacher, Teacher, VitTeacher, make_teacher, split_groups
from dualkd.train.weights import WeightsError
from torch import nn

VIT, LITE = "vit_small_patch14_dinov2", "tf_efficientnet_lite0"


def pyramid(local: Sequence[int], semantic: Sequence[int] = (), size: tuple[int, int] = (64, 96)) -> Teacher:
    """A pyramid teacher whose batch normalisation, weights aside, has seen something."""
    torch.manual_seed(0)
    teacher = make_teacher(LITE, size, local, semantic)
    for module in teacher.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, std=0.5)
    return teacher


@pytest.mark.parametrize(
    ("name", "kind"), [(VIT, VitTeacher), (LITE, PyramidTeacher), ("wide_resnet50_2", PyramidTeacher)]
)
def test_timm_says_what_kind_of_teacher_a_network_is(name: str, kind: type[Teacher]) -> None:
    """A vision transformer reads blocks, a convolutional network the levels of its pyramid."""
    with torch.device("meta"):
        assert type(make_teacher(name, (224, 224), [1, 2], [2])) is kind


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("swin_tiny_patch4_window7_224", "is neither a vision transformer nor a convolutional pyramid"),
        ("mixer_s32_224", "is neither a vision transformer nor a convolutional pyramid"),
        ("vit_smal", "is not a network that timm"),
    ],
)
def test_a_network_that_is_no_teacher_is_refused_by_name(name: str, words: str) -> None:
    """Neither a fixed window, nor a single resolution, nor a name with a slip."""
    with torch.device("meta"), pytest.raises(WeightsError, match=f"{name}' {words}"):
        make_teacher(name, (224, 224), [1, 2], [])


@pytest.mark.parametrize(
    ("name", "size", "local", "multiple"),
    [(VIT, (224, 230), [1, 2], 14), (LITE, (72, 64), [2, 3], 16), (LITE, (64, 48), [3, 4], 32)],
)
def test_the_input_must_suit_the_network(
    name: str, size: tuple[int, int], local: list[int], multiple: int
) -> None:
    """A patch of the transformer, or the stride of the deepest level that is read."""
    message = f"input: got {size[0]}x{size[1]}, height and width must be multiples of {multiple} "
    with torch.device("meta"), pytest.raises(ConfigError, match=message):
        make_teacher(name, size, local, [])


@pytest.mark.parametrize(
    ("name", "words"), [(VIT, r"blocks 0\.\.11; there is no block 12"), (LITE, r"levels 0\.\.4; .* level 12")]
)
def test_a_block_that_the_network_lacks_is_named(name: str, words: str) -> None:
    """Counted from zero."""
    with torch.device("meta"), pytest.raises(WeightsError, match=words):
        make_teacher(name, (224, 224), [1, 12], [])


@pytest.mark.parametrize("name", [VIT, LITE])
def test_a_teacher_stays_frozen_in_training(name: str) -> None:
    """Neither gradients nor training mode reach it, so batch statistics do not move."""
    parent = nn.ModuleList([make_teacher(name, (224, 224), [0, 1], [])]).train()
    assert not any(module.training for module in parent[0].modules())
    assert not any(parameter.requires_grad for parameter in parent.parameters())


def test_what_lies_beyond_the_last_block_is_dropped() -> None:
    """Two levels need a fifth of the network's weights."""
    whole = sum(value.numel() for value in timm.create_model(LITE).parameters())
    assert sum(value.numel() for value in pyramid([2, 3]).parameters()) < whole / 5


def test_a_pyramids_levels_come_to_the_finest_grid_and_keep_their_own_channels() -> None:
    """Forty channels of level 2 and 112 of level 3, eight and sixteen pixels apart, side by side in 152."""
    teacher = pyramid([2, 3])
    images = torch.randn(2, 3, 64, 96)
    tokens, classes = teacher(images)
    assert (teacher.grid, teacher.width) == ((8, 12), 152)
    assert tokens.shape == (2, 2, 96, 152)
    assert classes.shape[:2] == (2, 0)
    fine, coarse = teacher.network.forward_intermediates(images, indices=[2, 3], intermediates_only=True)
    pooled = [F.avg_pool2d(level, 3, 1, 1, count_include_pad=False) for level in (fine, coarse)]
    enlarged = F.interpolate(pooled[1], (8, 12), mode="bilinear")
    torch.testing.assert_close(tokens[:, 0, :, :40], pooled[0].flatten(2).transpose(1, 2))
    torch.testing.assert_close(tokens[:, 1, :, 40:], enlarged.flatten(2).transpose(1, 2))
    assert not tokens[:, 0, :, 40:].any()
    assert not tokens[:, 1, :, :40].any()


def test_levels_of_one_group_are_joined() -> None:
    """Three levels in two groups: the first holds the channels of two levels, not their sum."""
    teacher = pyramid([1, 2, 3])
    tokens, _ = teacher(torch.randn(1, 3, 64, 96))
    assert teacher.width == 24 + 40 + 112
    used = [[bool(group[..., at].any()) for at in (0, 24, 64)] for group in tokens[0]]
    assert used == [[True, True, False], [False, False, True]]


def test_a_pyramids_global_vector_is_the_mean_of_the_level() -> None:
    """As wide as the tokens, zeros behind the level's own channels; the local grid does not matter to it."""
    teacher = pyramid([], [2, 4])
    images = torch.randn(2, 3, 64, 96)
    tokens, classes = teacher(images)
    levels = teacher.network.forward_intermediates(images, indices=[2, 4], intermediates_only=True)
    assert tokens.shape[:2] == (2, 0)
    assert classes.shape == (2, 2, 1, 320)
    torch.testing.assert_close(classes[:, 0, 0, :40], levels[0].mean((2, 3)))
    torch.testing.assert_close(classes[:, 1, 0], levels[1].mean((2, 3)))
    assert not classes[:, 0, 0, 40:].any()


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "tf_efficientnet_lite0"])
def test_cells_are_means_of_a_blocks_patches_in_their_places(name: str) -> None:
    """Row by row behind the whole; 2 x 2 cells together have the mean that one cell has."""
    images = torch.randn(1, 3, 64, 96)
    four = make_teacher(name, (64, 96), [], [2], 2).eval()
    one = make_teacher(name, (64, 96), [], [2], 1).eval()
    one.load_state_dict(four.state_dict())
    cells = four(images).global_tokens[0, 0, 1:]
    torch.testing.assert_close(cells.mean(0), one(images).global_tokens[0, 0, 1])
    changed = images.clone()
    changed[..., :16, :16] += 3
    if name.startswith("tf_"):  # a convolution sees little further; attention sees everything
        moved = (four(changed).global_tokens[0, 0, 1:] - cells).abs().amax(1)
        assert moved.argmax() == 0
        assert moved[3] < moved[0] / 10


def test_a_grid_finer_than_the_patches_is_refused() -> None:
    """It says which key, and what there is."""
    with pytest.raises(ConfigError, match=r"semantic.grid: got 5, but a block has only 4x6 patches"):
        make_teacher("vit_tiny_patch16_224", (64, 96), [], [2], 5)


def test_a_teacher_says_how_its_network_saw_pictures() -> None:
    """ImageNet's mean for DINOv2, TensorFlow's 127 and 128 for the lite network."""
    with torch.device("meta"):
        vit, lite = make_teacher(VIT, (28, 28), [0, 1], []), make_teacher(LITE, (32, 32), [2, 3], [])
    assert vit.mean == (0.485, 0.456, 0.406)
    assert [round(255 * value) for value in (*lite.mean, *lite.std)] == [127] * 3 + [128] * 3


def test_weights_of_another_network_are_refused() -> None:
    """By the first tensor that is missing, or by one whose shape differs; those beyond the last level may miss."""
    teacher = make_teacher("resnet18", (64, 64), [1, 2], [])
    state = dict(timm.create_model("resnet18").state_dict())
    teacher.load({name: value for name, value in state.items() if not name.startswith("layer4")})
    with pytest.raises(WeightsError, match=r"not those of 'resnet18': size mismatch for conv1\.weight"):
        teacher.load({**state, "conv1.weight": torch.zeros(1)})
    del state["layer1.0.conv1.weight"]
    with pytest.raises(WeightsError, match=r"lack 1 tensors, the first is 'layer1\.0\.conv1\.weight'"):
        teacher.load(state)


@pytest.mark.parametrize(("source", "target"), [((3, 5), (3, 5)), ((3, 5), (12, 10)), ((1, 4), (4, 4))])
def test_pooling_and_enlarging_is_two_matrix_products(
    source: tuple[int, int], target: tuple[int, int]
) -> None:
    """The same as torch's own operators, which do not survive every runtime."""
    maps = torch.randn(2, 3, *source)
    pooled = F.avg_pool2d(maps, 3, 1, 1, count_include_pad=False)
    torch.testing.assert_close(
        PooledResize(source, target)(maps), F.interpolate(pooled, target, mode="bilinear")
    )


@pytest.mark.parametrize(
    ("count", "groups"), [(8, [[0, 1, 2, 3], [4, 5, 6, 7]]), (3, [[0, 1], [2]]), (1, [[0]]), (0, [])]
)
def test_groups_split_blocks_shallow_first(count: int, groups: list[list[int]]) -> None:
    """Two runs of nearly equal length; no blocks, no groups."""
    assert split_groups(range(count)) == groups
