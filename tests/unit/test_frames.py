"""The region of a picture."""

from __future__ import annotations

import numpy as np
import pytest
from dualkd.daemon.config import RegionConfig
from dualkd.daemon.frames import FrameError, crop, to_model_size


def region(x: int, y: int, width: int, height: int) -> RegionConfig:
    return RegionConfig(x_px=x, y_px=y, width_px=width, height_px=height)


PICTURE = np.arange(10 * 20 * 3, dtype=np.uint8).reshape(10, 20, 3)


def test_a_region_is_cut_out_without_a_copy() -> None:
    """Columns from x, rows from y, up to the last pixel, in the picture's own memory."""
    cut = crop(PICTURE, region(3, 2, 17, 8))
    assert np.array_equal(cut, PICTURE[2:10, 3:20])
    assert np.shares_memory(cut, PICTURE)
    assert np.array_equal(to_model_size(cut, 4, 4), to_model_size(cut.copy(), 4, 4))


@pytest.mark.parametrize("outside", [region(4, 2, 17, 8), region(3, 3, 17, 8), region(900, 900, 1, 1)])
def test_a_region_that_leaves_the_picture_is_refused(outside: RegionConfig) -> None:
    """Never judged in part: the error names both, so that the camera or the region can be mended."""
    with pytest.raises(FrameError, match="leaves the picture of 20 x 10 pixels"):
        crop(PICTURE, outside)
