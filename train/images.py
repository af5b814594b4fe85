"""Images as training needs them: split, at model size, read ahead, and with the teacher's tokens at hand.

Knows which images train and which calibrate, and keeps what the frozen teacher says of them. Does not train.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from dualkd.daemon.calibration import MIN_GOOD_PARTS
from dualkd.daemon.frames import to_model_size
from dualkd.train.config import Precision, TrainConfig
from dualkd.train.datasets import DataError, Dataset, Sample, read_samples
from dualkd.train.detector import ENCODE_BATCH, Detector, autocast
from dualkd.train.frame_code import missed
from dualkd.train.frames import DecodedFrames, Frames
from dualkd.train.teacher import TeacherTokens
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

log = logging.getLogger(__name__)

READ_AHEAD = 2  # batches
METRIC_IMAGES = 2048  # evenly spaced; more cost minutes and hardly change the semantic metric
CODE_IMAGES = 1024  # likewise; more cost gibibytes and hardly change the frame code


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


def split_dataset(dataset: Dataset, config: TrainConfig) -> tuple[list[Sample], list[Sample]]:
    """Good images to train on and to calibrate on: the data set's own, or some of its training images held out.

    Raises DataError if there are too few of either.
    """
    training, held_out = dataset.train, dataset.held_out
    if not held_out:
        training, held_out = split_held_out(training, config)
    if len(held_out) < MIN_GOOD_PARTS:
        raise DataError(
            f"{dataset.name}: {len(held_out)} good images to calibrate on, but it takes {MIN_GOOD_PARTS}; "
            "raise data.hold_out, or collect more"
        )
    return training, held_out


def load_frames(samples: Sequence[Sample], size: tuple[int, int]) -> Tensor:
    """Read samples at model size, as the daemon would see them: uint8 BGR (M, H, W, 3)."""
    frames = np.empty((len(samples), *size, 3), np.uint8)
    images = tqdm(read_samples(samples), total=len(samples), desc="images", unit="image", disable=None)
    for row, image in enumerate(images):
        frames[row] = to_model_size(image, *size)
    return torch.from_numpy(frames)


def open_frames(groups: Sequence[Sequence[Sample]], size: tuple[int, int], limit_mib: int) -> list[Frames]:
    """Each group's frames at model size: in memory if all groups fit in it together, else decoded when needed.

    Frames of a film and pictures of an archive, which cannot be had one by one, are held in memory in any case.
    """
    samples = [sample for group in groups for sample in group]
    mib = math.ceil(len(samples) * math.prod(size) * 3 / 2**20)
    if mib > limit_mib and all(sample.container is None for sample in samples):
        log.info("images would take %d MiB (images_mib: %d): decoding them when needed", mib, limit_mib)
        return [DecodedFrames(group, size) for group in groups]
    if mib > limit_mib:
        log.warning(
            "images take %d MiB (images_mib: %d): a film or an archive is held in memory whole",
            mib,
            limit_mib,
        )
    return [load_frames(group, size) for group in groups]


class EncodedImages:
    """Images with what the frozen teacher says of them, kept where it fits in memory.

    Nothing random comes before the teacher, so its tokens are the same at every step.
    """

    def __init__(
        self, frames: Frames, detector: Detector, device: torch.device, precision: Precision, cache_mib: int
    ) -> None:
        """`cache_mib`: memory for the teacher's tokens; if they need more they are computed at each use."""
        self._frames, self._detector = frames, detector
        self._device, self._precision = device, precision
        self._tokens: TeacherTokens | None = None
        self.cached_mib = 0
        shapes = [tokens.shape[1:] for tokens in self._encode(frames[:1])]
        mib = math.ceil(len(frames) * sum(map(math.prod, shapes)) * torch.half.itemsize / 2**20)
        if mib > cache_mib:
            log.info("teacher tokens would take %d MiB (%d left): encoding anew at each use", mib, cache_mib)
            return
        log.info("the teacher encodes %d images", len(frames))
        cached = TeacherTokens(*(torch.empty(len(frames), *shape, dtype=torch.half) for shape in shapes))
        for start in tqdm(range(0, len(frames), ENCODE_BATCH), desc="teacher", unit="batch", disable=None):
            batch = slice(start, start + ENCODE_BATCH)
            for kept, tokens in zip(cached, self._encode(frames[batch]), strict=True):
                kept[batch] = tokens
        self._tokens, self.cached_mib = cached, mib

    def __len__(self) -> int:
        return len(self._frames)

    def batches(self, schedule: Iterable[Tensor]) -> Generator[tuple[TeacherTokens, Tensor], None, None]:
        """Teacher tokens and normalised images (B, 3, H, W) on the device, for each tensor of indices in turn.

        A thread reads the next few while one is used. Raises DataError for what no longer decodes.
        """
        with ThreadPoolExecutor(1, "read", _use_device, (self._device,)) as reader:
            ahead: deque[Future[tuple[Tensor, ...]]] = deque()
            for indices in schedule:
                ahead.append(reader.submit(self._read, indices))
                if len(ahead) > READ_AHEAD:
                    yield self._to_device(*ahead.popleft().result())
            while ahead:
                yield self._to_device(*ahead.popleft().result())

    def batch(self, indices: Tensor) -> tuple[TeacherTokens, Tensor]:
        """One batch of `batches`, read when it is asked for."""
        return self._to_device(*self._read(indices))

    def fit_beginnings(self, generator: torch.Generator) -> None:
        """Set what the students begin with and then correct: prototypes and frame code, if any, and mean tokens."""
        semantic, local = self._detector.semantic, self._detector.local
        prototypes = local.prototypes if local is not None else None
        if semantic is None and prototypes is None:
            return
        each = math.ceil(prototypes.tokens_needed / len(self)) if prototypes is not None else 0
        sample: list[Tensor] = []  # `each` patch tokens an image
        total = torch.zeros((), device=self._device)  # of the unit global tokens, (K, T, D)
        for tokens, _ in self.batches(torch.split(torch.arange(len(self)), ENCODE_BATCH)):
            total = total + normalize(tokens.global_tokens, dim=-1).sum(0)
            if prototypes is not None:
                for one in tokens.patch_tokens.transpose(1, 2).cpu():  # (N, G, D)
                    sample.append(one[torch.randperm(len(one), generator=generator)[:each]])
        if prototypes is not None:
            prototypes.cpu().fit(torch.cat(sample), generator)
            prototypes.to(self._device)
            self._fit_frame_code()
        if semantic is not None:
            semantic.mean.copy_(total / len(self))

    def _fit_frame_code(self) -> None:
        """Fit the frame code, if any, to what the prototypes miss on up to CODE_IMAGES."""
        local = self._detector.local
        if local is None or local.prototypes is None or local.code is None:
            return
        vectors = [
            missed(tokens.patch_tokens, local.prototypes(tokens.patch_tokens)).half().cpu()
            for tokens, _ in self.batches(torch.split(self._spread(CODE_IMAGES), ENCODE_BATCH))
        ]
        local.code.cpu().fit(torch.cat(vectors))
        local.code.to(self._device)

    def fit_semantic_metric(self) -> None:
        """Measure the trained semantic student's usual error on up to METRIC_IMAGES, for d_semantic."""
        detector = self._detector
        if detector.semantic is None or detector.semantic_metric is None:
            return
        teacher, student = [], []
        with torch.inference_mode():
            for tokens, images in self.batches(torch.split(self._spread(METRIC_IMAGES), ENCODE_BATCH)):
                teacher.append(tokens.global_tokens.cpu())
                student.append(detector.semantic(detector.resize(images)).cpu())
        detector.semantic_metric.cpu().fit(torch.cat(teacher), torch.cat(student))
        detector.semantic_metric.to(self._device)

    def _spread(self, count: int) -> Tensor:
        """The indices of up to `count` images, evenly spaced."""
        return torch.linspace(0, len(self) - 1, min(len(self), count)).long()

    def _read(self, indices: Tensor) -> tuple[Tensor, ...]:
        """Frames and, where they are kept, tokens, ready to be copied to the device."""
        parts = (self._frames[indices], *(tokens[indices] for tokens in self._tokens or ()))
        return tuple(part.pin_memory() for part in parts) if self._device.type == "cuda" else parts

    def _to_device(self, frames: Tensor, *cached: Tensor) -> tuple[TeacherTokens, Tensor]:
        frames = frames.to(self._device, non_blocking=True)
        images = self._detector.normalise(frames)
        if not cached:
            return self._encode(frames), images
        return TeacherTokens(*(part.to(self._device, non_blocking=True).float() for part in cached)), images

    def _encode(self, frames: Tensor) -> TeacherTokens:
        with torch.inference_mode(), autocast(self._device, self._precision):
            tokens = self._detector.teacher(self._detector.normalise(frames.to(self._device)))
        return TeacherTokens(*(part.float().clone() for part in tokens))


def _use_device(device: torch.device) -> None:
    """Let a thread pin memory for this rank's GPU and not touch the first one."""
    if device.index is not None:
        torch.cuda.set_device(device)
