"""What films and live cameras have in common: OpenCV's captures.

Does not know where a capture leads.
"""

from __future__ import annotations

import cv2
import numpy as np
from dualkd.daemon.cameras.pictures import Picture
from dualkd.daemon.frames import Image

NOT_DECODED = "the frame does not decode"


def retrieve(capture: cv2.VideoCapture, into: Image | None) -> Picture:
    """Decode the grabbed frame, into `into` if its shape fits."""
    ok, image = capture.retrieve(into) if into is not None else capture.retrieve()
    if not ok or image is None:
        return Picture(None, NOT_DECODED)
    return Picture(np.asarray(image, np.uint8))


def rate(capture: cv2.VideoCapture) -> float:
    """Frames a second as the capture tells it, 0 where it tells none or nonsense."""
    told = float(capture.get(cv2.CAP_PROP_FPS))
    return told if 0.01 <= told <= 10_000 else 0.0
