"""Pseudo-anomalies: good frames made bad on purpose, so that training sees what the students must not follow.

In image space a piece is pasted in from elsewhere (cut-paste, Li et al., CVPR 2021) or a texture is blended in
under a Perlin-noise mask (Zavrtanik et al., DRAEM, ICCV 2021); the texture comes from other good frames, so no
outside data is needed. In feature space some patch tokens are jittered, and frames take each other's global
tokens. Knows frames and tokens; knows no student's loss.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from dualkd.daemon.frames import Image
from dualkd.train.config import TrainConfig
from dualkd.train.detector import Detector
from dualkd.train.frames import Frames
from dualkd.train.images import EncodedImages
from dualkd.train.teacher import TeacherTokens
from torch import Tensor

Mask = npt.NDArray[np.bool_]

PASTE_AREA = (0.005, 0.12)  # of the frame
PASTE_ASPECT = (0.25, 4.0)
TEXTURE_OPACITY = (0.4, 1.0)
TEXTURE_SHARE = (0.004, 0.15)  # of the frame under the Perlin mask
PERLIN_CELLS = (2, 4, 8, 16)
JITTER_SHARE = 0.2  # of a frame's tokens


class Spoilt(NamedTuple):
    """Pseudo-anomalous frames: what the teacher says of them, the pictures, and which patches are touched."""

    tokens: TeacherTokens
    images: Tensor  # normalised (B, 3, H, W)
    touched: Tensor  # (B, N) bool


class PseudoAnomalies:
    """The pseudo-anomalies that go with a training run: a fixed set of spoilt frames, and tokens spoilt anew."""

    def __init__(
        self, config: TrainConfig, frames: Frames, detector: Detector, device: torch.device, cache_mib: int
    ) -> None:
        """`frames`: the good ones; `cache_mib`: memory for what the teacher says of the spoilt ones."""
        self._config = config.pseudo
        self._images: EncodedImages | None = None
        if config.pseudo.frames:
            spoilt, masks = spoil_frames(frames, config.pseudo.frames, config.training.seed)
            self._touched = touched_patches(masks, detector.grid)
            self._images = EncodedImages(spoilt, detector, device, config.training.used_precision, cache_mib)

    def draw(self, tokens: TeacherTokens, images: Tensor) -> dict[str, Spoilt]:
        """Pseudo-anomalies beside a batch of good frames, from torch's random state; empty if none are wanted."""
        spoilt: dict[str, Spoilt] = {}
        if self._images is not None:
            drawn = torch.randint(len(self._images), (self._config.batch,))
            spoilt_tokens, spoilt_images = self._images.batch(drawn)
            touched = self._touched[drawn].to(images.device)
            spoilt["frames"] = Spoilt(spoilt_tokens, spoilt_images, touched)
        if self._config.jitter:
            spoilt["tokens"] = spoil_tokens(tokens, images, self._config.jitter)
        return spoilt


def spoil_frames(frames: Frames, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """`count` spoilt copies of good frames uint8 BGR (M, H, W, 3), alike in shape, and masks (count, H, W).

    Half are cut-paste, half texture; the same seed gives the same frames.
    """
    rng = np.random.default_rng(seed)
    good, donors = (frames[torch.from_numpy(rng.integers(len(frames), size=count))].numpy() for _ in range(2))
    spoilt, masks = [], []
    for index, (frame, donor) in enumerate(zip(good, donors, strict=True)):
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
    top, donor_top = rng.integers(0, height - h, 2)
    left, donor_left = rng.integers(0, width - w, 2)
    piece = donor[donor_top : donor_top + h, donor_left : donor_left + w].astype(np.float32)
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


def touched_patches(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Which patches a pixel mask (B, H, W) touches: (B, h * w) bool."""
    cells = torch.nn.functional.adaptive_max_pool2d(masks[:, None].float(), grid)
    return cells.flatten(1) > 0


def spoil_tokens(tokens: TeacherTokens, images: Tensor, strength: float) -> Spoilt:
    """Good frames (B, 3, H, W) with noise on a fifth of their patch tokens and their neighbour's global tokens.

    strength: length of the noise as a share of the token's own. Draws from torch's random state. A frame alone
    keeps its global tokens, so a semantic student needs two frames or more.
    """
    patches = tokens.patch_tokens
    batch, _, count, width = patches.shape
    touched = torch.rand(batch, count, device=images.device) < JITTER_SHARE
    noise = torch.randn_like(patches) * (strength / width**0.5)
    noise = noise * patches.norm(dim=-1, keepdim=True) * touched[:, None, :, None]
    return Spoilt(TeacherTokens(patches + noise, tokens.global_tokens.roll(1, 0)), images, touched)
