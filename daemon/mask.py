"""A recipe's mask on the map's grid, and a prediction seen through it.

Knows grids. Does not know files, recipes or verdicts.
"""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt
from dualkd.daemon.frames import Image
from dualkd.daemon.records import Prediction

JUDGED_FROM = 128  # grey level: darker places of a mask are not judged

Grid = npt.NDArray[np.bool_]


def mask_grid(mask: Image, map_size: tuple[int, int]) -> Grid:
    """Return which cells of a map (h, w) are judged: those that at least half of the mask's pixels want.

    `mask` is grey (height, width) and covers what the map covers.
    """
    wanted = (mask >= JUDGED_FROM).astype(np.float32)
    height, width = map_size
    return np.asarray(cv2.resize(wanted, (width, height), interpolation=cv2.INTER_AREA) >= 0.5, np.bool_)


def masked(prediction: Prediction, grid: Grid, top_count: int) -> Prediction:
    """Return the prediction with its map 0 where nothing is judged, and d_local of the rest.

    As in the graph d_local is the mean of the map's largest values; of `top_count` of them as many are
    taken as cells are judged, in proportion and at least one. d_semantic sees the whole picture still.
    """
    if prediction.anomaly_map is None:
        return prediction
    judged = prediction.anomaly_map[grid]
    count = max(1, round(top_count * judged.size / grid.size))
    largest = np.partition(judged, judged.size - count)[judged.size - count :]
    d_local = float(largest.mean()) if np.isfinite(judged).all() else math.nan
    return replace(prediction, d_local=d_local, anomaly_map=np.where(grid, prediction.anomaly_map, 0))
