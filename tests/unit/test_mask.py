"""A prediction seen through a mask."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dualkd.daemon.mask import mask_grid, masked
from dualkd.daemon.records import Prediction


def prediction(values: list[list[float]]) -> Prediction:
    return Prediction(d_local=9.0, d_semantic=0.3, anomaly_map=np.array(values, np.float32))


def test_a_cell_is_judged_if_half_of_its_pixels_want_it() -> None:
    """4 x 8 pixels on a map of 1 x 2: the left cell is three quarters light, the right a quarter."""
    mask = np.zeros((4, 8), np.uint8)
    mask[:, :3] = 255
    mask[:, 4:5] = 255
    assert mask_grid(mask, (1, 2)).tolist() == [[True, False]]


def test_what_is_not_judged_moves_neither_map_nor_distance() -> None:
    """The largest value lies outside: the rest decides, and the map says 0 there. d_semantic stays."""
    grid = np.array([[True, True], [True, False]])
    seen = masked(prediction([[0.1, 0.2], [0.4, 7.0]]), grid, top_count=1)
    assert seen.d_local == pytest.approx(0.4)
    assert seen.d_semantic == 0.3
    assert seen.anomaly_map is not None
    assert seen.anomaly_map[1, 1] == 0


def test_as_large_a_share_of_what_is_left_is_averaged() -> None:
    """Two of four cells are averaged; of two judged cells one."""
    grid = np.array([[True, False], [True, False]])
    seen = masked(prediction([[0.1, 5.0], [0.4, 7.0]]), grid, top_count=2)
    assert seen.d_local == pytest.approx(0.4)


def test_all_judged_is_what_the_graph_says() -> None:
    """With nothing masked d_local is the mean of the top values, as in the graph."""
    seen = masked(prediction([[0.1, 0.2], [0.4, 0.6]]), np.ones((2, 2), np.bool_), top_count=2)
    assert seen.d_local == pytest.approx(0.5)


def test_a_map_that_is_no_number_gives_no_distance() -> None:
    """NaN must not be sorted away: it ends as INVALID."""
    seen = masked(prediction([[0.1, math.nan], [0.4, 0.6]]), np.ones((2, 2), np.bool_), top_count=1)
    assert seen.d_local is not None
    assert math.isnan(seen.d_local)
