"""The demo's line as a folder in the MVTec layout, one picture a part, to stand beside real products.

python tests/bench/line_parts.py build/three/line
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
from dualkd.export.demo_line import write_film, write_training_images

TRAINING_IMAGES, TEST_PARTS = 280, 150


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    (folder / "train" / "good").mkdir(parents=True, exist_ok=True)
    write_training_images(folder / "train" / "good", TRAINING_IMAGES, seed=1)
    film = folder / "line.mp4"
    truth = write_film(film, seed=2, parts=TEST_PARTS)
    part_at = {part.centred_frame: part for part in truth.parts}
    capture = cv2.VideoCapture(str(film))
    for index in range(truth.frame_count):
        read, image = capture.read()
        if not read:
            raise SystemExit(f"{film}: frame {index} of {truth.frame_count} does not decode")
        if index in part_at:
            part = part_at[index]
            path = folder / "test" / part.defect / f"{part.id:03d}_{part.kind}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), image)


if __name__ == "__main__":
    main()
