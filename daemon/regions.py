"""Anomaly map -> boxes around the places above the region threshold, in pixels of the camera's frame.

Knows grids and boxes. Does not know verdicts: a box explains a FAIL, it does not make one.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from dualkd.daemon.records import Region

MAX_REGIONS = 16


def find_regions(
    anomaly_map: npt.NDArray[np.float32], threshold: float, width_px: int, height_px: int
) -> list[Region]:
    """Return boxes around the 8-connected places of `anomaly_map` (h, w) above `threshold`, highest first.

    `width_px` and `height_px` are the camera's frame, which the map covers whole. At most MAX_REGIONS.
    """
    above = (anomaly_map > threshold).astype(np.uint8)  # NaN is above nothing
    if not above.any():
        return []
    rows, columns = anomaly_map.shape
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
    found = []
    for label in range(1, count):
        left, top, width, height = (int(value) for value in boxes[label][:4])
        place = np.s_[top : top + height, left : left + width]
        peak = float(anomaly_map[place][labels[place] == label].max())
        x0, x1 = left * width_px // columns, -(-(left + width) * width_px // columns)
        y0, y1 = top * height_px // rows, -(-(top + height) * height_px // rows)
        found.append(Region(x_px=x0, y_px=y0, width_px=x1 - x0, height_px=y1 - y0, peak=peak))
    return sorted(found, key=lambda region: -region.peak)[:MAX_REGIONS]
