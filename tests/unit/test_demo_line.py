"""The demo's line: what is filmed is what truth.json says, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from dualkd.export import demo_line, demo_view
from dualkd.export.demo_kinds import FOREIGN_KINDS, KINDS
from dualkd.export.demo_parts import GOOD, LOCAL_DEFECTS, Part
from dualkd.export.demo_view import HEIGHT_PX, WIDTH_PX, Line, render_frame

SHADOW_PX = 16  # how far outside its outline a part still darkens the belt


def line_of(kind: str, defect: str, seed: int = 3) -> Line:
    """A line of three parts; the one in the middle is the one to look at."""
    return Line((Part("flange", GOOD, 1), Part(kind, defect, seed), Part("board", GOOD, 2)), seed=5)


def centred_pictures(kind: str, defect: str) -> tuple[demo_view.Image, demo_view.Image, demo_line.PartTruth]:
    """The middle part's centred frame, the same had the part been good, and the part's truth."""
    line = line_of(kind, defect)
    truth = demo_line.truth_of(line).parts[1]
    unharmed = replace(line, parts=tuple(part.unharmed() for part in line.parts))
    frame = truth.centred_frame
    return render_frame(line, frame), render_frame(unharmed, frame), truth


def inside(box: demo_line.Box, margin_px: int = 0) -> np.ndarray:
    mask = np.zeros((HEIGHT_PX, WIDTH_PX), np.bool_)
    x0, y0, x1, y1 = box
    mask[max(0, y0 - margin_px) : y1 + margin_px, max(0, x0 - margin_px) : x1 + margin_px] = True
    return mask


def test_a_frame_is_the_same_bytes_for_the_same_seed() -> None:
    first = render_frame(demo_line.mixed_line(3, 7), 4)
    demo_view._slot.cache_clear()  # so that it is drawn anew
    assert first.shape == (HEIGHT_PX, WIDTH_PX, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, render_frame(demo_line.mixed_line(3, 7), 4))
    assert not np.array_equal(first, render_frame(demo_line.mixed_line(3, 8), 4))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("defect", LOCAL_DEFECTS)
def test_a_local_defect_is_seen_in_its_box_and_nowhere_else(kind: str, defect: str) -> None:
    harmed, good, truth = centred_pictures(kind, defect)
    change = cv2.absdiff(harmed, good).max(axis=2)
    assert truth.defect_box is not None
    assert (change[inside(truth.defect_box)] > 25).sum() > 30  # a careful human finds it
    assert change[~inside(truth.defect_box, SHADOW_PX)].max() <= 12  # only shading and its noise
    assert change[~inside(truth.box, SHADOW_PX)].max() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_part_leaves_the_bare_belt(kind: str) -> None:
    empty, good, truth = centred_pictures(kind, "missing")
    place = inside(truth.box)
    assert cv2.absdiff(empty, good).max(axis=2)[place].mean() > 20
    assert np.all(empty[place].std(axis=0) < 12)  # belt: one colour but for texture, light and noise
    assert np.array_equal(
        empty, centred_pictures("connector", "missing")[0]
    )  # whatever it is that is missing


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_build_keeps_to_its_part_and_shows(kind: str) -> None:
    wrong, good, truth = centred_pictures(kind, "wrong_build")
    change = cv2.absdiff(wrong, good).max(axis=2)
    assert (change > 40).sum() > 500
    assert change[~inside(truth.box, SHADOW_PX)].max() == 0


@pytest.mark.parametrize("kind", ["flange", "connector", *FOREIGN_KINDS])
def test_the_box_is_the_part_in_the_picture(kind: str) -> None:
    line = line_of(kind, "wrong_kind" if kind in FOREIGN_KINDS else GOOD)
    truth = demo_line.truth_of(line).parts[1]
    empty = replace(line, parts=(line.parts[0], replace(line.parts[1], defect="missing"), line.parts[2]))
    change = cv2.absdiff(render_frame(line, truth.centred_frame), render_frame(empty, truth.centred_frame))
    rows, columns = np.nonzero(change.max(axis=2) > 60)  # more than any shadow
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == pytest.approx(truth.box, abs=3)


def test_a_part_is_wholly_in_view_in_the_frames_that_say_so() -> None:
    line = demo_line.mixed_line(10, 4)
    step_px = demo_view.PITCH_PX / line.frames_per_part
    for part in demo_line.truth_of(line).parts:
        assert 0 <= part.first_frame <= part.centred_frame <= part.last_frame < line.frame_count
        left = {
            frame: part.box[0] - (frame - part.centred_frame) * step_px for frame in range(line.frame_count)
        }
        width = part.box[2] - part.box[0]
        in_view = [frame for frame, x in left.items() if x >= 0 and x + width <= WIDTH_PX]
        assert in_view == list(range(part.first_frame, part.last_frame + 1))


def test_a_film_holds_the_frames_and_the_truth_it_promises(tmp_path: Path) -> None:
    truth = demo_line.write_film(tmp_path / "line.mp4", seed=9, parts=3)
    capture = cv2.VideoCapture(str(tmp_path / "line.mp4"))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    assert len(frames) == truth.frame_count
    assert capture.get(cv2.CAP_PROP_FPS) == truth.fps
    capture.release()
    assert frames[0].shape == (truth.height_px, truth.width_px, 3)
    assert demo_line.read_truth(tmp_path / "truth.json") == truth
    line = demo_line.mixed_line(3, 9)
    for part in truth.parts:  # the codec keeps the order and the picture
        assert cv2.PSNR(frames[part.centred_frame], render_frame(line, part.centred_frame)) > 32


@pytest.mark.parametrize("seed", range(5))
def test_a_film_has_every_defect_several_times_and_mostly_good_parts(seed: int) -> None:
    line = demo_line.mixed_line(60, seed)
    count = Counter(part.defect for part in line.parts)
    assert count.pop(GOOD) == 36
    assert set(count) == set(demo_line.DEFECTS)
    assert min(count.values()) >= 3
    foreign = {part.kind for part in line.parts if part.defect == "wrong_kind"}
    assert foreign == set(FOREIGN_KINDS)
    assert {part.kind for part in line.parts if part.defect != "wrong_kind"} == set(KINDS)


def test_training_shows_good_parts_only_at_every_phase_of_the_belt() -> None:
    line = demo_line.training_line(280, seed=1)
    assert line.frame_count >= 280
    assert {part.defect for part in line.parts} == {GOOD}
    assert {part.kind for part in line.parts} == set(KINDS)
    phases = [line.part_x_px(0, frame) % demo_view.PITCH_PX / demo_view.PITCH_PX for frame in range(280)]
    assert np.histogram(phases, bins=14, range=(0, 1))[0].min() >= 10


def test_training_images_are_frames_of_a_film_of_the_same_encoder(tmp_path: Path) -> None:
    paths = demo_line.write_training_images(tmp_path / "good", count=7, seed=2)
    assert sorted((tmp_path / "good").iterdir()) == paths
    assert len(paths) == 7
    line = demo_line.training_line(7, 2)
    for frame, path in enumerate(paths):
        rendered = render_frame(line, frame)
        image = cv2.imread(str(path))
        assert 32 < cv2.PSNR(image, rendered) < 45  # this very frame, and through the codec


def test_the_line_is_drawn_without_the_training_stack() -> None:
    code = "import sys, dualkd.export.demo_line; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
