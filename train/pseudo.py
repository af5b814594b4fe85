"""Pseudo-anomalies: good frames made bad on purpose, so that training sees what the students must not follow.

In image space a piece is pasted in from elsewhere (cut-paste, Li et al., CVPR 2021) or a texture is blended in
under a Perlin-noise mask (Zavrtanik et al., DRAEM, ICCV 2021); the texture comes from other good frames, so no
outside data is needed. In feature space tokens are jittered, or frames swap their class tokens. Knows frames
and tokens; knows no student and no loss.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import torch
from dualkd.daemon.frames import Image
from dualkd.train.teacher import TeacherTokens
from torch import Tensor

Mask = npt.NDArray[np.bool_]

PASTE_AREA = (0.005, 0.12)  # of the frame
PASTE_ASPECT = (0.25, 4.0)
TEXTURE_OPACITY = (0.4, 1.0)
TEXTURE_SHARE = (0.004, 0.15)  # of the frame under the Perlin mask
PERLIN_CELLS = (2, 4, 8, 16)
JITTER_SHARE = 0.2  # of a frame's tokens


def make_pseudo_frames(frames: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """`count` spoilt copies of good frames uint8 BGR (M, H, W, 3): their pixels alike, and masks (count, H, W).

    Half are cut-paste, half texture; the same seed gives the same frames.
    """
    rng = np.random.default_rng(seed)
    good = frames.numpy()
    spoilt, masks = [], []
    for index in range(count):
        frame, donor = good[rng.integers(len(good))], good[rng.integers(len(good))]
        image, mask = (cut_paste if index % 2 else blend_texture)(frame, donor, rng)
        spoilt.append(image)
        masks.append(mask)
    return torch.from_numpy(np.stack(spoilt)), torch.from_numpy(np.stack(masks))


def cut_paste(frame: Image, donor: Image, rng: np.random.Generator) -> tuple[Image, Mask]:
    """Paste a rectangle of `donor`, its brightness changed, at another place of `frame` (both (H, W, 3))."""
    height, width = frame.shape[:2]
    area = height * width * np.exp(rng.uniform(*np.log(PASTE_AREA)))
    aspect = np.exp(rng.uniform(*np.log(PASTE_ASPECT)))
    h = int(np.clip(np.sqrt(area / aspect), 2, height // 2))
    w = int(np.clip(np.sqrt(area * aspect), 2, width // 2))
    top, bottom = rng.integers(0, height - h, 2)
    left, right = rng.integers(0, width - w, 2)
    piece = donor[bottom : bottom + h, right : right + w].astype(np.float32)
    image, mask = frame.copy(), np.zeros((height, width), bool)
    image[top : top + h, left : left + w] = np.clip(piece * rng.uniform(0.7, 1.3), 0, 255).astype(np.uint8)
    mask[top : top + h, left : left + w] = True
    return image, mask


def blend_texture(frame: Image, donor: Image, rng: np.random.Generator) -> tuple[Image, Mask]:
    """Blend `donor`, turned and with its colours changed, into `frame` where Perlin noise is highest."""
    height, width = frame.shape[:2]
    noise = perlin(height, width, int(rng.choice(PERLIN_CELLS)), rng)
    mask = noise > np.quantile(noise, 1 - np.exp(rng.uniform(*np.log(TEXTURE_SHARE))))
    texture = cv2.resize(np.rot90(donor, int(rng.integers(1, 4))), (width, height)).astype(np.float32)
    texture = np.clip(texture * rng.uniform(0.5, 1.5, 3) + rng.uniform(-40, 40), 0, 255)
    opacity = rng.uniform(*TEXTURE_OPACITY) * mask[..., None]
    return np.asarray(frame * (1 - opacity) + texture * opacity, np.uint8), np.asarray(mask)


def perlin(height: int, width: int, cells: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """One octave of Perlin's gradient noise (1985) with `cells` cells a side, (height, width), about 0."""
    angles = rng.uniform(0, 2 * np.pi, (cells + 1, cells + 1))
    y, x = np.linspace(0, cells, height, endpoint=False), np.linspace(0, cells, width, endpoint=False)
    row, column = y.astype(int)[:, None], x.astype(int)[None]
    dy, dx = (y % 1)[:, None], (x % 1)[None]

    def corner(down: int, right: int) -> npt.NDArray[np.float64]:
        angle = angles[row + down, column + right]
        return np.asarray(np.sin(angle) * (dy - down) + np.cos(angle) * (dx - right))

    fade_y, fade_x = dy**3 * (dy * (6 * dy - 15) + 10), dx**3 * (dx * (6 * dx - 15) + 10)
    top = corner(0, 0) * (1 - fade_x) + corner(0, 1) * fade_x
    bottom = corner(1, 0) * (1 - fade_x) + corner(1, 1) * fade_x
    return np.asarray(top * (1 - fade_y) + bottom * fade_y)


def patch_mask(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Which patches a pixel mask (B, H, W) spoils: (B, h * w) bool, True where any pixel of the patch is."""
    cells = torch.nn.functional.adaptive_max_pool2d(masks[:, None].float(), grid)
    return cells.flatten(1) > 0


def jitter_tokens(
    tokens: TeacherTokens, strength: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Noise on a fifth of each frame's patch tokens: (B, G, N, D) anew, and which (B, N) were touched.

    strength: length of the noise as a share of the token's own length.
    """
    patches = tokens.patch_tokens
    batch, _, count, width = patches.shape
    touched = torch.rand(batch, count, generator=generator) < JITTER_SHARE
    noise = torch.randn(patches.shape, generator=generator).to(patches) * (strength / width**0.5)
    scaled = noise * patches.norm(dim=-1, keepdim=True) * touched.to(patches)[:, None, :, None]
    return patches + scaled, touched.to(patches.device)
