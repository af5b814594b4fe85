"""Good images as training needs them: split, at model size, and with the teacher's tokens at hand.

Knows which images train and which calibrate, and keeps what the frozen teacher says of them. Does not train.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import torch
from dualkd.daemon.frames import Image, to_model_size
from dualkd.train.config import TrainConfig
from dualkd.train.datasets import DataError, Sample, read_samples
from dualkd.train.detector import ENCODE_BATCH, Detector, half_precision
from dualkd.train.teacher import TeacherTokens
from torch import Tensor
from tqdm import tqdm

log = logging.getLogger(__name__)


def split_held_out(samples: list[Sample], config: TrainConfig) -> tuple[list[Sample], list[Sample]]:
    """Split good samples into those to train on and those to calibrate on.

    Images are drawn at random by the seed. Of a video the last frames are held out instead, since a
    frame between two training frames is hardly unseen.
    """
    count = max(1, round(config.data.hold_out * len(samples)))
    if len(samples) - count < 1:
        raise DataError(
            f"{config.data.root}: {len(samples)} good images are too few to train and calibrate on"
        )
    if config.data.layout == "video":
        return samples[:-count], samples[-count:]
    drawn = set(np.random.default_rng(config.training.seed).permutation(len(samples))[:count].tolist())
    return [s for i, s in enumerate(samples) if i not in drawn], [
        s for i, s in enumerate(samples) if i in drawn
    ]


def load_frames(samples: list[Sample], size: tuple[int, int]) -> Tensor:
    """Read samples at model size, as the daemon would see them: uint8 BGR (M, H, W, 3)."""
    images: list[Image] = []
    for image in tqdm(read_samples(samples), total=len(samples), desc="images", unit="image", disable=None):
        images.append(to_model_size(image, *size))
    return torch.from_numpy(np.stack(images))


class TrainingImages:
    """The training images at model size, with the teacher's tokens kept where they fit in memory.

    Nothing random comes before the teacher, so its tokens are the same at every step.
    """

    def __init__(self, frames: Tensor, detector: Detector, cache_mib: int, device: torch.device) -> None:
        """frames: uint8 (M, H, W, 3) on the CPU."""
        self._frames, self._detector, self._device = frames, detector, device
        self._tokens: TeacherTokens | None = None
        mib = len(frames) * sum(tokens[0].numel() for tokens in self._encode(frames[:1])) * 2 / 2**20
        if mib > cache_mib:
            log.info(
                "teacher tokens would take %d MiB (cache_mib: %d): encoding anew at each step", mib, cache_mib
            )
            return
        log.info("the teacher encodes %d images", len(frames))
        parts = [
            [tokens.half().cpu() for tokens in self._encode(frames[start : start + ENCODE_BATCH])]
            for start in tqdm(range(0, len(frames), ENCODE_BATCH), desc="teacher", unit="batch", disable=None)
        ]
        self._tokens = TeacherTokens(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def __len__(self) -> int:
        return len(self._frames)

    def batch(self, indices: Tensor) -> tuple[TeacherTokens, Tensor]:
        """Teacher tokens and normalised images (B, 3, H, W) of these images, on the device."""
        frames = self._frames[indices].to(self._device)
        images = self._detector.normalise(frames)
        if self._tokens is None:
            return self._encode(self._frames[indices]), images
        return TeacherTokens(*(tokens[indices].to(self._device).float() for tokens in self._tokens)), images

    def fit_prototypes(self, generator: torch.Generator) -> None:
        """Set the local student's prototypes, if it has any, from a sample of the teacher's tokens."""
        local = self._detector.local
        if local is None or local.prototypes is None:
            return
        each = -(-local.prototypes.tokens_needed // len(self))  # tokens an image
        sample = []
        for tokens, _ in self._in_order():
            for one in tokens.patch_tokens.transpose(1, 2).cpu():  # (N, G, D)
                sample.append(one[torch.randperm(len(one), generator=generator)[:each]])
        local.prototypes.cpu().fit(torch.cat(sample), generator)
        local.prototypes.to(self._device)

    def fit_semantic_metric(self) -> None:
        """Measure the trained semantic student's usual error, for d_semantic."""
        detector = self._detector
        if detector.semantic is None or detector.semantic_metric is None:
            return
        teacher, student = [], []
        with torch.inference_mode():
            for tokens, images in self._in_order():
                teacher.append(tokens.class_tokens.cpu())
                student.append(detector.semantic(detector.resize(images)).cpu())
        detector.semantic_metric.cpu().fit(torch.cat(teacher), torch.cat(student))
        detector.semantic_metric.to(self._device)

    def _in_order(self) -> Iterator[tuple[TeacherTokens, Tensor]]:
        for start in range(0, len(self), ENCODE_BATCH):
            yield self.batch(torch.arange(start, min(start + ENCODE_BATCH, len(self))))

    def _encode(self, frames: Tensor) -> TeacherTokens:
        with torch.inference_mode(), half_precision(self._device):
            tokens = self._detector.teacher(self._detector.normalise(frames.to(self._device)))
        return TeacherTokens(*(part.float().clone() for part in tokens))
