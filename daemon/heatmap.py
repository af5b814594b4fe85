"""An anomaly map as a picture to look at: coloured, on the frame's proportions.

The colours are absolute, so that good parts look dark: black-blue is no distance, red is twice the region
threshold or more. Knows arrays and colours only.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

MAX_SIDE_PX = 1024


def heatmap(
    anomaly_map: npt.NDArray[np.float32], width_px: int, height_px: int, region_threshold: float | None
) -> npt.NDArray[np.uint8]:
    """Return `anomaly_map` (h, w) as BGR uint8 of the frame's proportions, at most MAX_SIDE_PX a side.

    Without a `region_threshold` the scale ends at 1, the distance of unrelated features.
    """
    top = 2 * region_threshold if region_threshold else 1.0
    shrink = min(1.0, MAX_SIDE_PX / max(width_px, height_px))
    size = (max(1, round(width_px * shrink)), max(1, round(height_px * shrink)))
    unit = np.nan_to_num(anomaly_map / top, nan=1.0)  # what is no number is not good
    smooth = cv2.resize(unit.astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
    grey = (np.clip(smooth, 0.0, 1.0) * 255).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(grey, cv2.COLORMAP_JET), np.uint8)
