"""One rule for bringing a camera's picture to the model's size, used on every floor.

Training, calibration, export and the daemon call this same function, so that a score means the same
everywhere.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from dualkd.daemon.config import RegionConfig

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")

Image = npt.NDArray[np.uint8]


class FrameError(Exception):
    """A picture that cannot be judged: it does not decode, or has a shape or type that no camera gives."""


def list_images(folder: Path) -> list[Path]:
    """Return the image files directly in `folder`, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)


def read_image(path: Path) -> Image:
    """Read an image file as BGR uint8 (height, width, 3). Raises FrameError naming the file."""
    try:
        encoded = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise FrameError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        image = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if encoded.size else None
    except cv2.error as error:
        raise FrameError(f"{path}: does not decode as an image: OpenCV asks that {error.err}") from error
    if image is None:
        raise FrameError(f"{path}: does not decode as an image ({encoded.size} bytes)")
    return np.asarray(image, np.uint8)


def crop(image: Image, region: RegionConfig) -> Image:
    """Return the region of the picture (height, width, ...), a view without a copy.

    Raises FrameError when the region leaves the picture.
    """
    height, width = image.shape[:2]
    right, bottom = region.x_px + region.width_px, region.y_px + region.height_px
    if right > width or bottom > height:
        raise FrameError(
            f"the region x {region.x_px} to {right}, y {region.y_px} to {bottom} leaves the picture of "
            f"{width} x {height} pixels; change the region, or the camera's resolution"
        )
    return image[region.y_px : bottom, region.x_px : right]


def to_model_size(image: Image, height: int, width: int, out: Image | None = None) -> Image:
    """Return `image` as BGR uint8 (height, width, 3), the whole picture stretched to the model's input.

    Area averaging where the picture shrinks, bilinear where it grows. Grey and BGRA pictures become BGR.
    With `out`, a contiguous uint8 array (height, width, 3), the result is written there and `out` returned.
    Raises FrameError for anything else.
    """
    if image.dtype != np.uint8 or image.size == 0:
        raise FrameError(f"a frame must be uint8 and not empty, got {image.dtype} {image.shape}")
    if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1):
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    elif image.ndim == 3 and image.shape[2] == 4:
        image = cv2.cvtColor(image, cv2.COLOR_BGRA2BGR)
    elif image.ndim != 3 or image.shape[2] != 3:
        raise FrameError(f"a frame must be (height, width, 3) BGR, got shape {image.shape}")
    if image.shape[:2] == (height, width):
        if out is None:
            return image
        out[...] = image
        return out
    shrinks = image.shape[0] >= height and image.shape[1] >= width
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = cv2.resize(image, (width, height), dst=out, interpolation=interpolation)
    if out is not None and not np.may_share_memory(resized, out):
        raise FrameError(
            f"`out` must be uint8 ({height}, {width}, 3) in one piece, got {out.dtype} {out.shape}"
        )
    return np.asarray(resized, np.uint8)
