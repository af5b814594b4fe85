"""Black, frozen and resized pictures, told by the picture and the time alone."""

from __future__ import annotations

import numpy as np
import pytest
from dualkd.daemon.cameras.frame_checks import FrameChecks
from dualkd.daemon.config import HealthConfig
from dualkd.daemon.frames import Image

S = 1_000_000_000


def noise(seed: int, height: int = 120, width: int = 160) -> Image:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


def checks(live: bool = True, one_size: bool = True, **config: object) -> FrameChecks:
    return FrameChecks(HealthConfig(**config), live, one_size)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(1080, 1920, 3), (48, 64, 3), (1, 1, 3), (480, 640)])
def test_a_black_picture_is_told_with_its_limit(shape: tuple[int, ...]) -> None:
    """Whatever its size; a little noise of the sensor is black still."""
    black = np.random.default_rng(0).integers(0, 4, shape, np.uint8)
    assert "black: 99 % of it is darker than 4 (health.black_below)" in checks().check(black, 0)
    assert checks().check(black + 4, 0) == ""
    assert checks(black_below=None).check(black, 0) == ""


def test_a_dark_picture_with_a_lamp_is_not_black() -> None:
    """2 % of it is bright; of a hot pixel or two that is not so."""
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[5, 7:9] = 255
    assert "black" in checks().check(picture, 0)
    picture[:2] = 255
    assert checks().check(picture, 0) == ""


def test_a_picture_is_frozen_while_it_stays_the_same() -> None:
    """From frozen_after_s on, until it changes."""
    frozen = checks(frozen_after_s=5.0)
    said = [frozen.check(noise(1), time_s * S) for time_s in (10, 14, 15, 20)]
    assert said[:2] == ["", ""]
    assert said[2] == "the picture is frozen: the same for 5.0 s (health.frozen_after_s)"
    assert "10.0 s" in said[3]
    assert [frozen.check(noise(2), 21 * S), frozen.check(noise(1), 22 * S)] == ["", ""]
    assert frozen.check(noise(1), 27 * S) != ""
    never = checks(frozen_after_s=None)
    assert [never.check(noise(1), time_s * S) for time_s in (0, 1000)] == ["", ""]


def test_a_picture_seen_again_after_black_ones_is_not_frozen() -> None:
    """The black ones came in between."""
    frozen = checks(frozen_after_s=5.0)
    black = np.zeros((120, 160, 3), np.uint8)
    assert frozen.check(noise(1), 0) == ""
    assert "black" in frozen.check(black, 3 * S)
    assert frozen.check(noise(1), 6 * S) == ""


def test_the_first_size_holds_unless_one_is_set() -> None:
    """For sources of one size; a folder's pictures have any size, unless one is set."""
    first = checks()
    assert first.check(noise(1), 0) == ""
    assert first.check(noise(2, 60, 80), 1) == (
        "the picture has 80 x 60 pixels instead of 160 x 120 (health.size)"
    )
    assert first.check(noise(3), 2) == ""
    folder = checks(live=False, one_size=False)
    assert [folder.check(noise(1), 0), folder.check(noise(1, 60, 80), 1)] == ["", ""]
    for one_size in (True, False):
        fixed = checks(live=False, one_size=one_size, size=(80, 60))
        assert fixed.check(noise(1, 60, 80), 0) == ""
        assert "instead of 80 x 60" in fixed.check(noise(1), 0)


def test_pictures_of_files_may_be_black_and_alike() -> None:
    """Nobody's camera is sick there."""
    film = checks(live=False)
    black = np.zeros((120, 160, 3), np.uint8)
    assert [film.check(black, time_s * S) for time_s in (0, 1000)] == ["", ""]
