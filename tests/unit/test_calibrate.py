"""The command dualkd-calibrate on a real bundle."""

from __future__ import annotations

from pathlib import Path

import fakes
import numpy as np
import pytest
from dualkd.daemon.bundle import load_bundle
from dualkd.daemon.calibrate import main
from dualkd.daemon.decision import Calibration, decide
from dualkd.daemon.records import Prediction


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return fakes.write_bundle(tmp_path / "bundle")


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """Dark parts on the left of bright pictures, 64 x 64 pixels each."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(20):
        picture = fakes.picture(fakes.BRIGHT)
        picture[16:80, 8:72] = rng.integers(30, 50)
        pictures.append(picture)
    return fakes.write_folder(tmp_path / "good", pictures)


def calibrated(bundle: Path) -> Calibration:
    return load_bundle(bundle).manifest.calibration


def fails(calibration: Calibration, grey: int) -> bool:
    return decide(Prediction(grey / 255, grey / 255, None), calibration).outcome == "FAIL"


def test_a_region_calibrates_on_what_the_recipe_sees(bundle: Path, good: Path) -> None:
    """Of the dark part alone a middling grey is a defect; of the whole picture, bright all over, it is not."""
    usual = ["--good", str(good), "--false-reject-rate", "0.05"]
    assert main([str(bundle), *usual]) == 0
    assert not fails(calibrated(bundle), 130)
    assert main([str(bundle), *usual, "--region", "8,16,64,64"]) == 0
    assert fails(calibrated(bundle), 130)
    assert not fails(calibrated(bundle), 40)
    assert len(calibrated(bundle).good_scores) > 1


def test_a_region_that_leaves_a_picture_is_said_with_its_file(
    bundle: Path, good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is written then."""
    before = (bundle / "bundle.json").read_bytes()
    assert main([str(bundle), "--good", str(good), "--region", "100,0,64,64"]) == 2
    told = capsys.readouterr().err
    assert "0000.png: the region x 100 to 164" in told
    assert "leaves the picture of 128 x 96 pixels" in told
    assert (bundle / "bundle.json").read_bytes() == before


@pytest.mark.parametrize(
    "region", ["1,2,3", "1,2,3,4,5", "a,b,c,d", "-1,0,5,5", "0,0,0,5", "0,0,99999,5", ""]
)
def test_what_is_no_region_is_refused(region: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With what was given, as argparse refuses."""
    with pytest.raises(SystemExit):
        main(["bundle", "--good", ".", f"--region={region}"])
    assert f"{region!r} is" in capsys.readouterr().err
