"""The frozen teacher: whatever network it is, the students get patch tokens on a grid and global tokens.

Knows timm's vision transformers and timm's convolutional pyramids. Does not know where weights come from, who
learns from the tokens, or what a distance between them means. Shapes: B frames, N = h * w patches, D the
width of a token, G groups of local blocks, K semantic blocks, T global tokens of each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import timm
import torch
import torch.nn.functional as F
from dualkd.configs.loader import ConfigError
from dualkd.train.pixels import AreaResize, PooledResize
from dualkd.train.weights import StateDict, WeightsError
from timm.models import is_model_in_modules
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

GROUPS = 2

# MEAN_RGB and STDDEV_RGB of TensorFlow's efficientnet_lite_builder.py, which timm rounds to 127.5 both.
MEAN_AND_STD = {"tf_efficientnet_lite0": ((127 / 255,) * 3, (128 / 255,) * 3)}


class TeacherTokens(NamedTuple):
    """What the students learn from. Either is empty along its second axis if no student asks for it."""

    patch_tokens: Tensor  # (B, G, N, D)
    global_tokens: Tensor  # (B, K, T, D); T: a block's class token, then the g x g means of its patches


class Teacher(nn.Module, ABC):
    """The protocol of all teachers: a frozen network, run up to the last block that a student reads.

    size: (height, width) in pixels of what it sees, multiples of `multiple`; grid: (h, w) of its patch
    tokens, `stride` pixels apart; width: D; mean, std: of red, green and blue, on a scale of 0 to 1, that the
    network was trained with. The global tokens of a block are its class token (of a pyramid's level, its mean)
    and, for a semantic grid of g, the means of its patches over g x g equal cells, row by row.
    """

    network: Any  # timm's networks share no class, only methods

    def __init__(
        self,
        name: str,
        network: nn.Module,
        size: tuple[int, int],
        *,
        multiple: int,
        stride: int,
        width: int,
        semantic_grid: int,
        semantic_strides: Sequence[int],
    ) -> None:
        """Raises ConfigError for a size that is no multiple of what the network needs, or a grid too fine."""
        super().__init__()
        if size[0] % multiple or size[1] % multiple:
            raise ConfigError(
                [
                    f"input: got {size[0]}x{size[1]}, height and width must be multiples of {multiple} "
                    f"for the teacher {name!r}"
                ]
            )
        self.name, self.network, self.multiple, self.width = name, network, multiple, width
        self.grid = (size[0] // stride, size[1] // stride)
        self.pools = nn.ModuleList()  # one for each semantic block, to the means of its cells
        for rows, columns in [(size[0] // step, size[1] // step) for step in semantic_strides]:
            if semantic_grid > min(rows, columns):
                raise ConfigError(
                    [f"semantic.grid: got {semantic_grid}, but a block has only {rows}x{columns} patches"]
                )
            if semantic_grid:
                self.pools.append(AreaResize(rows, columns, semantic_grid))
        known = timm.get_pretrained_cfg(name)
        self.mean, self.std = MEAN_AND_STD.get(name, (known.mean, known.std))
        self.requires_grad_(False)
        self.eval()

    @abstractmethod
    def forward(self, images: Tensor) -> TeacherTokens:
        """RGB normalised by mean and std (B, 3, H, W) -> TeacherTokens, computed in the weights' precision."""

    def _add_cells(self, wholes: list[Tensor], maps: list[Tensor]) -> list[Tensor]:
        """Of each semantic block its global tokens (B, T, D), from its whole (B, D) and its map (B, D, h, w)."""
        tokens = [whole[:, None] for whole in wholes]
        if not self.pools:
            return tokens
        return [
            torch.cat([whole, pool(level).flatten(2).transpose(1, 2)], 1)
            for whole, pool, level in zip(tokens, self.pools, maps, strict=True)
        ]

    def load(self, state: StateDict) -> None:
        """Take timm's weights, leaving out what belongs to blocks that do not run. Raises WeightsError."""
        try:
            missing, _ = self.network.load_state_dict(state, strict=False)
        except RuntimeError as error:  # a shape differs; the last line says which
            reason = str(error).splitlines()[-1].strip()
            raise WeightsError(f"the teacher's weights are not those of {self.name!r}: {reason}") from error
        if missing:
            raise WeightsError(
                f"the teacher's weights lack {len(missing)} tensors, the first is {missing[0]!r}"
            )

    def train(self, mode: bool = True) -> Teacher:  # noqa: ARG002 (nn.Module's signature)
        """Stay in evaluation mode, batch normalisation included: the teacher is frozen."""
        return super().train(False)


class VitTeacher(Teacher):
    """A vision transformer such as DINOv2. The first global token of a block is its class token.

    A group of patch tokens is the mean of its blocks, which all write into one residual stream.
    """

    def __init__(
        self,
        name: str,
        size: tuple[int, int],
        local: Sequence[int],
        semantic: Sequence[int],
        semantic_grid: int,
    ) -> None:
        """As make_teacher; blocks are the transformer's."""
        vit: VisionTransformer = timm.create_model(name, pretrained=False, num_classes=0, img_size=size)
        if semantic and not vit.has_class_token:
            raise WeightsError(f"teacher {name!r} has no class token for the semantic student to reproduce")
        read = _read(name, "blocks", len(vit.blocks), local, semantic)
        vit.blocks = vit.blocks[: read[-1] + 1]
        vit.norm = nn.Identity()
        patch = vit.patch_embed.patch_size[0]
        super().__init__(
            name,
            vit,
            size,
            multiple=patch,
            stride=patch,
            width=vit.embed_dim,
            semantic_grid=semantic_grid,
            semantic_strides=[patch] * len(semantic),
        )
        self.groups, self.class_blocks, self.read = split_groups(local), list(semantic), read

    def load(self, state: StateDict) -> None:
        """As Teacher.load; position embeddings are resampled to this input here, not in the graph."""
        super().load(checkpoint_filter_fn(dict(state), self.network))

    def forward(self, images: Tensor) -> TeacherTokens:
        levels = self.network.forward_intermediates(
            images.to(self.network.patch_embed.proj.weight.dtype),
            indices=self.read,
            return_prefix_tokens=True,
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        by_block = dict(zip(self.read, levels, strict=True))  # block -> ((B, N, D), (B, prefix, D))
        return _stack(
            [torch.stack([by_block[block][0] for block in group]).mean(0) for group in self.groups],
            self._add_cells(
                [by_block[block][1][:, 0] for block in self.class_blocks],
                [by_block[block][0].transpose(1, 2).unflatten(2, self.grid) for block in self.class_blocks],
            ),
        )


class PyramidTeacher(Teacher):
    """A convolutional network. Its blocks are the levels of its feature pyramid; a level's first global token
    is its mean.

    Local levels are averaged over 3 x 3 neighbours, as PatchCore does (Roth et al., CVPR 2022), and enlarged to
    the grid of the shallowest. Levels differ in what their channels mean and in how many they are, so each has
    its own range of the D channels and zeros elsewhere: a group, and a mean over groups, then joins its levels
    instead of mixing them. Cosine distances do not see the zeros. That the ranges do not overlap is ours.
    """

    def __init__(
        self,
        name: str,
        size: tuple[int, int],
        local: Sequence[int],
        semantic: Sequence[int],
        semantic_grid: int,
    ) -> None:
        """As make_teacher; levels are counted as timm does, from the finest."""
        network = timm.create_model(name, pretrained=False, num_classes=0)
        if not _is_pyramid(network):
            raise WeightsError(
                f"teacher {name!r} is neither a vision transformer nor a convolutional pyramid; "
                "use one such as vit_small_patch14_dinov2, wide_resnet50_2 or tf_efficientnet_lite0"
            )
        levels = network.feature_info
        read = _read(name, "levels", len(levels), local, semantic)
        finest = min(local or read)
        network.prune_intermediate_layers(read)
        super().__init__(
            name,
            network,
            size,
            multiple=levels[read[-1]]["reduction"],
            stride=levels[finest]["reduction"],
            width=max(
                sum(levels[level]["num_chs"] for level in local),
                *(levels[level]["num_chs"] for level in read),
            ),
            semantic_grid=semantic_grid,
            semantic_strides=[levels[level]["reduction"] for level in semantic],
        )
        self.groups, self.class_levels, self.read = split_groups(local), list(semantic), read
        self.resize = nn.ModuleDict()
        for level in local:
            stride = levels[level]["reduction"]
            self.resize[str(level)] = PooledResize((size[0] // stride, size[1] // stride), self.grid)

    def forward(self, images: Tensor) -> TeacherTokens:
        levels = self.network.forward_intermediates(
            images.to(next(self.network.parameters()).dtype),
            indices=self.read,
            stop_early=True,
            intermediates_only=True,
        )
        by_level = dict(zip(self.read, levels, strict=True))  # level -> (B, channels, h, w)
        patch, start = [], 0
        for group in self.groups:
            maps = torch.cat([self.resize[str(level)](by_level[level]) for level in group], 1)
            patch.append(self._widen(maps.flatten(2).transpose(1, 2), start))
            start += maps.shape[1]
        read = [by_level[level] for level in self.class_levels]
        # in float32, since a sum of halves might overflow
        means = [level.float().mean((2, 3)).to(level.dtype) for level in read]
        return _stack(patch, [self._widen(tokens, 0) for tokens in self._add_cells(means, read)])

    def _widen(self, vectors: Tensor, start: int) -> Tensor:
        """(..., C) -> (..., D): the same channels from `start` on, zeros elsewhere."""
        return F.pad(vectors, (start, self.width - start - vectors.shape[-1]))


def make_teacher(
    name: str, size: tuple[int, int], local: Sequence[int], semantic: Sequence[int], semantic_grid: int = 0
) -> Teacher:
    """The teacher that timm's network `name` can be, without weights yet.

    `size`: (height, width) in pixels; `local`, `semantic`: the zero-based blocks each student reads, at least
    one in all; `semantic_grid`: cells a side whose means go with each global token, 0 for none. Raises
    WeightsError for a network that is no teacher or lacks a block, ConfigError for the size or the grid.
    """
    if not timm.is_model(name):
        raise WeightsError(f"teacher {name!r} is not a network that timm {timm.__version__} knows")
    kind = VitTeacher if is_model_in_modules(name, "vision_transformer") else PyramidTeacher
    return kind(name, size, local, semantic, semantic_grid)


def split_groups(items: Sequence[int]) -> list[list[int]]:
    """Split blocks into GROUPS runs of nearly equal length, shallow first; no items, no groups."""
    edges = [round(index * len(items) / GROUPS) for index in range(GROUPS + 1)]
    return [list(items[start:stop]) for start, stop in pairwise(edges) if stop > start]


def _read(name: str, kind: str, count: int, local: Sequence[int], semantic: Sequence[int]) -> list[int]:
    """The blocks that any student reads, in order. Raises WeightsError if the network has fewer."""
    read = sorted({*local, *semantic})
    if read[-1] >= count:
        raise WeightsError(f"teacher {name!r} has {kind} 0..{count - 1}; there is no {kind[:-1]} {read[-1]}")
    return read


def _is_pyramid(network: Any) -> bool:
    """Whether every level that timm lists is coarser than the one before, at whatever input size."""
    levels = getattr(network, "feature_info", [])
    strides = [level["reduction"] for level in levels] if isinstance(levels, list) else []
    return (
        len(strides) > 1
        and all(coarse > fine for fine, coarse in pairwise(strides))
        and hasattr(network, "prune_intermediate_layers")
        and not network.pretrained_cfg["fixed_input_size"]
    )


def _stack(patch: list[Tensor], wholes: list[Tensor]) -> TeacherTokens:
    """Groups of patch tokens (B, N, D) and global tokens (B, T, D), either list empty, as TeacherTokens."""
    empty = (patch or wholes)[0][:, :0, None]
    return TeacherTokens(
        torch.stack(patch, 1) if patch else empty, torch.stack(wholes, 1) if wholes else empty
    )
