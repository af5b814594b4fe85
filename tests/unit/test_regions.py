"""Boxes around what the map shows."""

from __future__ import annotations

import numpy as np
import pytest
from dualkd.daemon.regions import MAX_REGIONS, find_regions


def test_a_box_covers_its_cells_in_the_frames_pixels() -> None:
    """Cell (1, 2) of a 4 x 8 map on a 1600 x 1200 frame."""
    anomaly_map = np.zeros((4, 8), np.float32)
    anomaly_map[1, 2] = 0.9
    (region,) = find_regions(anomaly_map, 0.5, 1600, 1200)
    assert (region.x_px, region.y_px, region.width_px, region.height_px) == (400, 300, 200, 300)
    assert region.peak == pytest.approx(0.9)


def test_cells_that_touch_are_one_place_and_the_highest_comes_first() -> None:
    """Diagonal neighbours belong together; a second, higher place leads the list."""
    anomaly_map = np.zeros((6, 6), np.float32)
    anomaly_map[0, 0] = anomaly_map[1, 1] = 0.6
    anomaly_map[5, 5] = 0.8
    first, second = find_regions(anomaly_map, 0.5, 60, 60)
    assert (first.x_px, first.width_px, first.peak) == (50, 10, pytest.approx(0.8))
    assert (second.x_px, second.width_px, second.height_px) == (0, 20, 20)


def test_a_box_never_leaves_the_frame_where_sizes_do_not_divide() -> None:
    """A 7 x 7 map on 100 x 50 pixels, all above: the whole frame, not a pixel more."""
    (region,) = find_regions(np.ones((7, 7), np.float32), 0.5, 100, 50)
    assert (region.x_px, region.y_px, region.width_px, region.height_px) == (0, 0, 100, 50)


def test_noise_does_not_flood_the_message() -> None:
    """At most MAX_REGIONS; NaN makes none."""
    checkers = np.zeros((40, 40), np.float32)
    checkers[::2, ::2] = 1.0
    assert len(find_regions(checkers, 0.5, 400, 400)) == MAX_REGIONS
    assert find_regions(np.full((4, 4), np.nan, np.float32), 0.5, 40, 40) == []
