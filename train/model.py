"""The two unlike students of the frozen teacher.

Knows the two networks and nothing of images on disk, losses or scores. Shapes: B frames, N = h * w
patches, D the width of the teacher's tokens, G groups of teacher blocks, K semantic blocks, T global tokens of each.

Sources: the two students and what each is for are Park, Seo and Kim's (arXiv 2509.24448); the local
student's bottleneck, linear attention and grouping follow Guo et al., Dinomaly (CVPR 2025).
"""

from __future__ import annotations

import torch
from dualkd.configs.loader import ConfigError
from dualkd.train.config import PATCH_PX, LocalConfig, SemanticConfig, TrainConfig
from dualkd.train.frame_code import FrameCode
from dualkd.train.pixels import AreaResize
from dualkd.train.prototypes import Prototypes
from dualkd.train.residual_aggregation import ResidualAggregation
from dualkd.train.teacher import GROUPS, split_groups
from timm.layers import Mlp
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


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
        query, key, value = qkv  # (B, heads, N, d)
        query, key = nn.functional.elu(query) + 1, nn.functional.elu(key) + 1
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
    shallow teacher groups. With prototypes the decoder corrects, group by group, what the prototypes say and
    the code of the whole frame completes.
    With centres (SNL) a residual aggregation stands between the narrow place and the decoder.
    """

    def __init__(self, config: LocalConfig, tokens: int, width: int, centres: int = 0) -> None:
        """`tokens`: N of a frame; `width`: D of each; `centres`: of the residual aggregation, 0 for none."""
        super().__init__()
        if width % config.heads:
            raise ConfigError([f"local.heads: got {config.heads}, must divide the teacher's width {width}"])
        self.prototypes = Prototypes(config.prototypes, GROUPS, width) if config.prototypes else None
        self.code = FrameCode(config.code, tokens, width) if config.prototypes and config.code else None
        self.blocks = nn.ModuleList(DecoderBlock(width, config.heads) for _ in range(config.depth))
        if self.prototypes is None:
            self.bottleneck = nn.Sequential(
                nn.Dropout(config.dropout), Mlp(width, 4 * width, drop=config.dropout)
            )
        else:
            self.bottleneck = nn.Sequential(nn.LayerNorm(width, eps=1e-6), nn.Dropout(config.dropout))
            self.corrections = nn.ModuleList(Correction(width, width) for _ in range(GROUPS))
        self.aggregation = ResidualAggregation(centres, width) if centres else nn.Identity()
        self.groups = split_groups(range(config.depth))

    def forward(self, patch_tokens: Tensor) -> Tensor:
        """Teacher's (B, G, N, D) -> their reconstruction, the same shape."""
        if self.prototypes is None:
            levels = self._decode(self.bottleneck(patch_tokens.mean(1)))[::-1]
            return torch.stack([torch.stack([levels[i] for i in group]).mean(0) for group in self.groups], 1)
        known = self.prototypes(patch_tokens)  # (B, G, N, D)
        if self.code is not None:
            known = self.code(patch_tokens, known)
        decoded = self._decode(self.bottleneck(known.mean(1)))[-1]
        return torch.stack(
            [correct(known[:, group], decoded) for group, correct in enumerate(self.corrections)], 1
        )

    def _decode(self, tokens: Tensor) -> list[Tensor]:
        tokens, levels = self.aggregation(tokens), []
        for block in self.blocks:
            tokens = block(tokens)
            levels.append(tokens)
        return levels


class Correction(nn.Module):
    """What a student adds to what is known beforehand: nothing at first, in proportion to the token's length."""

    def __init__(self, width: int, known_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.linear = nn.Linear(width, known_width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, known: Tensor, features: Tensor) -> Tensor:
        """(..., known_width), (..., width) -> (..., known_width)."""
        scale = known.square().mean(-1, keepdim=True).sqrt()
        corrected: Tensor = known + scale * self.linear(self.norm(features))
        return corrected


class SemanticStudent(nn.Module):
    """Encoder-encoder: a ViT from scratch that sees the image and reproduces the teacher's global tokens.

    It never sees the teacher's tokens, so it cannot learn the identity; on an unfamiliar whole it errs. What
    it learns is what this picture adds to the mean of the good parts.
    """

    mean: Tensor  # (K, T, D), of the teacher's unit tokens on good parts; training starts from it

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
        # evenly, to the last
        self.read = [round((index + 1) * config.depth / count) - 1 for index in range(count)]
        self.grid = (size[0] // PATCH_PX, size[1] // PATCH_PX)
        if config.grid > min(self.grid):
            rows, columns = self.grid
            raise ConfigError(
                [f"semantic.grid: got {config.grid}, but the student sees only {rows}x{columns} patches"]
            )
        self.pool = AreaResize(*self.grid, config.grid) if config.grid else None
        self.whole = nn.ModuleList(Correction(config.width, width) for _ in range(count))
        self.cells = nn.ModuleList(
            Correction(config.width, width) for _ in range(count if config.grid else 0)
        )
        self.register_buffer("mean", torch.zeros(count, 1 + config.grid**2, width))

    def forward(self, images: Tensor) -> Tensor:
        """Normalised RGB (B, 3, h, w) -> (B, K, T, D), in the precision of the weights."""
        images = images.to(self.vit.patch_embed.proj.weight.dtype)
        levels = self.vit.forward_intermediates(
            images, indices=self.read, return_prefix_tokens=True, output_fmt="NCHW", intermediates_only=True
        )
        tokens = []
        for index, (maps, prefix) in enumerate(levels):
            known = self.mean[index]
            parts = [self.whole[index](known[:1], prefix[:, :1])]
            if self.pool is not None:
                parts.append(self.cells[index](known[1:], self.pool(maps).flatten(2).transpose(1, 2)))
            tokens.append(torch.cat(parts, 1))
        return torch.stack(tokens, 1)


def semantic_size(config: TrainConfig) -> tuple[int, int]:
    """The (height, width) in pixels that the semantic student sees."""
    side = config.semantic.side
    return (config.input.height, config.input.width) if side is None else (side, side)
