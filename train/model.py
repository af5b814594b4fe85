"""The frozen teacher and its two unlike students.

Knows the three networks and nothing of images on disk, losses or scores. Shapes: B frames, N = h * w
patches, D the width of the teacher's tokens, G groups of teacher blocks, K class tokens.

Sources: the two students and what each is for are Park, Seo and Kim's (arXiv 2509.24448); the local
student's bottleneck, linear attention and grouping follow Guo et al., Dinomaly (CVPR 2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import timm
import torch
from dualkd.configs.loader import ConfigError
from dualkd.train.config import PATCH_PX, LocalConfig, SemanticConfig, TrainConfig
from dualkd.train.prototypes import Prototypes
from dualkd.train.weights import StateDict, WeightsError
from timm.layers import Mlp
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

GROUPS = 2


class TeacherTokens(NamedTuple):
    """What the students learn from. Either is empty along its second axis if no student asks for it."""

    patch_tokens: Tensor  # (B, G, N, D), each group the mean of its blocks
    class_tokens: Tensor  # (B, K, D)


class Teacher(nn.Module):
    """A frozen DINOv2 ViT, run up to the last block that a student reads."""

    def __init__(
        self, name: str, size: tuple[int, int], local: Sequence[int], semantic: Sequence[int]
    ) -> None:
        """`size`: (height, width) in pixels; `local`, `semantic`: the zero-based blocks each student reads."""
        super().__init__()
        try:
            self.vit: VisionTransformer = timm.create_model(
                name, pretrained=False, num_classes=0, img_size=size
            )
        except (RuntimeError, TypeError) as error:  # an unknown name, or a network that is no ViT
            raise WeightsError(
                f"teacher {name!r} is not a vision transformer that timm knows: {error}"
            ) from error
        if self.vit.patch_embed.patch_size != (PATCH_PX, PATCH_PX):
            raise WeightsError(
                f"teacher {name!r} has patches of {self.vit.patch_embed.patch_size}, needs {PATCH_PX}"
            )
        depth = len(self.vit.blocks)
        too_deep = [block for block in (*local, *semantic) if block >= depth]
        if too_deep:
            raise WeightsError(f"teacher {name!r} has blocks 0..{depth - 1}; there is no block {too_deep[0]}")
        self.groups = split_groups(local)
        self.class_blocks = list(semantic)
        self.read = sorted({*local, *semantic})
        self.vit.blocks = self.vit.blocks[: self.read[-1] + 1]
        self.vit.norm = nn.Identity()
        self.requires_grad_(False)
        self.eval()

    def load(self, state: StateDict) -> None:
        """Take timm's weights; position embeddings are resampled to this input here, not in the graph."""
        fitted = checkpoint_filter_fn(dict(state), self.vit)
        missing, _ = self.vit.load_state_dict(fitted, strict=False)
        if missing:
            raise WeightsError(
                f"the teacher's weights lack {len(missing)} tensors, the first is {missing[0]!r}"
            )

    def train(self, mode: bool = True) -> Teacher:  # noqa: ARG002 (nn.Module's signature)
        """Stay in evaluation mode: the teacher is frozen."""
        return super().train(False)

    def forward(self, images: Tensor) -> TeacherTokens:
        """Normalised RGB (B, 3, H, W) -> TeacherTokens, in the precision of the weights."""
        images = images.to(self.vit.patch_embed.proj.weight.dtype)
        levels = self.vit.forward_intermediates(
            images,
            indices=self.read,
            return_prefix_tokens=True,
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        by_block = dict(zip(self.read, levels, strict=True))  # block -> ((B, N, D), (B, prefix, D))
        empty = levels[0][0][:, :0]
        patch = [torch.stack([by_block[block][0] for block in group]).mean(0) for group in self.groups]
        classes = [by_block[block][1][:, 0] for block in self.class_blocks]
        return TeacherTokens(
            torch.stack(patch, 1) if patch else empty, torch.stack(classes, 1) if classes else empty
        )


class LinearAttention(nn.Module):
    """Multi-head attention with the kernel elu + 1 in place of softmax; cost linear in N.

    It cannot concentrate on one token, so the decoder cannot copy an anomaly through (Dinomaly).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, width = tokens.shape
        qkv = self.qkv(tokens).view(batch, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = (
            nn.functional.elu(qkv[0]) + 1,
            nn.functional.elu(qkv[1]) + 1,
            qkv[2],
        )  # (B, heads, N, d)
        key = key / count  # keeps the sums over N small enough for half precision
        context = key.transpose(-2, -1) @ value  # (B, heads, d, d)
        norm = query @ key.sum(-2, keepdim=True).transpose(-2, -1)  # (B, heads, N, 1)
        attended = (query @ context) / norm
        projected: Tensor = self.proj(attended.transpose(1, 2).reshape(batch, count, width))
        return projected


class DecoderBlock(nn.Module):
    """A pre-norm transformer block with linear attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = LinearAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        tokens = tokens + self.mlp(self.norm2(tokens))
        return tokens


class LocalStudent(nn.Module):
    """Encoder-decoder: rebuilds the teacher's patch tokens through a narrow or noisy place.

    Trained on good parts it rebuilds good tokens only; where it fails, something small is wrong. Without
    prototypes the narrow place is a bottleneck MLP with dropout (Dinomaly), and deep decoder blocks rebuild
    shallow teacher groups. With prototypes the decoder corrects, group by group, what the prototypes say.
    """

    def __init__(self, config: LocalConfig, width: int) -> None:
        super().__init__()
        if width % config.heads:
            raise ConfigError([f"local.heads: got {config.heads}, must divide the teacher's width {width}"])
        self.prototypes = Prototypes(config.prototypes, GROUPS, width) if config.prototypes else None
        self.blocks = nn.ModuleList(DecoderBlock(width, config.heads) for _ in range(config.depth))
        if self.prototypes is None:
            self.bottleneck = nn.Sequential(
                nn.Dropout(config.dropout), Mlp(width, 4 * width, drop=config.dropout)
            )
        else:
            self.bottleneck = nn.Sequential(nn.LayerNorm(width, eps=1e-6), nn.Dropout(config.dropout))
            self.corrections = nn.ModuleList(Correction(width) for _ in range(GROUPS))
        self.groups = split_groups(range(config.depth))

    def forward(self, patch_tokens: Tensor) -> Tensor:
        """Teacher's (B, G, N, D) -> their reconstruction, the same shape."""
        if self.prototypes is None:
            levels = self._decode(self.bottleneck(patch_tokens.mean(1)))[::-1]
            return torch.stack([torch.stack([levels[i] for i in group]).mean(0) for group in self.groups], 1)
        known = self.prototypes(patch_tokens)  # (B, G, N, D)
        decoded = self._decode(self.bottleneck(known.mean(1)))[-1]
        return torch.stack(
            [correct(known[:, group], decoded) for group, correct in enumerate(self.corrections)], 1
        )

    def _decode(self, tokens: Tensor) -> list[Tensor]:
        levels = []
        for block in self.blocks:
            tokens = block(tokens)
            levels.append(tokens)
        return levels


class Correction(nn.Module):
    """What the decoder adds to a group's prototypes: nothing at first, in proportion to the token's length."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.linear = nn.Linear(width, width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, known: Tensor, decoded: Tensor) -> Tensor:
        """(B, N, D) twice -> (B, N, D)."""
        scale = known.square().mean(-1, keepdim=True).sqrt()
        corrected: Tensor = known + scale * self.linear(self.norm(decoded))
        return corrected


class SemanticStudent(nn.Module):
    """Encoder-encoder: a ViT from scratch that sees the image and reproduces the teacher's class tokens.

    It never sees the teacher's tokens, so it cannot learn the identity; on an unfamiliar whole it errs.
    """

    def __init__(self, config: SemanticConfig, size: tuple[int, int], width: int) -> None:
        """`size`: the (height, width) in pixels it sees; `width`: D of the teacher's tokens."""
        super().__init__()
        self.vit = VisionTransformer(
            img_size=size,
            patch_size=PATCH_PX,
            embed_dim=config.width,
            depth=config.depth,
            num_heads=config.heads,
            num_classes=0,
        )
        self.vit.norm = nn.Identity()
        count = len(config.blocks)
        self.read = [
            round((index + 1) * config.depth / count) - 1 for index in range(count)
        ]  # evenly, to the last
        self.heads = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(config.width, eps=1e-6), nn.Linear(config.width, width))
            for _ in range(count)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Normalised RGB (B, 3, h, w) -> (B, K, D), in the precision of the weights."""
        images = images.to(self.vit.patch_embed.proj.weight.dtype)
        levels = self.vit.forward_intermediates(
            images, indices=self.read, return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
        )
        return torch.stack(
            [head(prefix[:, 0]) for head, (_, prefix) in zip(self.heads, levels, strict=True)], 1
        )


def split_groups(items: Sequence[int]) -> list[list[int]]:
    """Split blocks into GROUPS runs of nearly equal length, shallow first; no items, no groups."""
    edges = [round(index * len(items) / GROUPS) for index in range(GROUPS + 1)]
    return [list(items[start:stop]) for start, stop in pairwise(edges) if stop > start]


def semantic_size(config: TrainConfig) -> tuple[int, int]:
    """The (height, width) in pixels that the semantic student sees."""
    side = config.semantic.side
    return (config.input.height, config.input.width) if side is None else (side, side)
