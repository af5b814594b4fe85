"""The tensor functions of the graph against OpenCV and plain definitions."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from dualkd.train.anomaly_map import AnomalyMap, cosine_distance, gaussian_matrix
from dualkd.train.pixels import AreaResize, Normalise


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.5])
def test_the_gaussian_matrices_filter_as_opencv_does(sigma: float) -> None:
    """Two matrix products are a Gaussian blur with mirrored edges."""
    image = np.random.default_rng(1).random((12, 17)).astype(np.float32)
    radius = int(np.ceil(3 * sigma))
    expected = cv2.GaussianBlur(image, (2 * radius + 1,) * 2, sigma, borderType=cv2.BORDER_REFLECT_101)
    got = gaussian_matrix(12, sigma) @ torch.from_numpy(image) @ gaussian_matrix(17, sigma).t()
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(("height", "width", "side"), [(224, 224, 112), (168, 224, 84), (70, 98, 42)])
def test_area_resizing_agrees_with_opencv(height: int, width: int, side: int) -> None:
    """The semantic student sees what cv2.INTER_AREA would give it, at whole and at broken ratios."""
    image = np.random.default_rng(2).random((height, width)).astype(np.float32)
    expected = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    got = AreaResize(height, width, side)(torch.from_numpy(image)[None, None])
    np.testing.assert_allclose(got[0, 0].numpy(), expected, atol=1e-5)


def test_normalise_takes_blue_green_red() -> None:
    """A purely red BGR pixel lands in the first channel, normalised by ImageNet's red."""
    frame = torch.zeros(1, 1, 1, 3, dtype=torch.uint8)
    frame[..., 2] = 255
    values = Normalise((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))(frame)[0, :, 0, 0]
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225]
    np.testing.assert_allclose(values.numpy(), expected, rtol=1e-5)


def test_cosine_distance_runs_from_zero_to_two_and_bears_zeros() -> None:
    """Same, orthogonal and opposite vectors; a zero vector gives no NaN."""
    one = torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 0]])
    other = torch.tensor([[3.0, 0], [0, 2], [-1, 0], [1, 0]])
    np.testing.assert_allclose(cosine_distance(one, other).numpy(), [0, 1, 2, 1], atol=1e-6)


def test_the_map_stands_where_the_tokens_differ() -> None:
    """One wrong token lights its own cell, and d_local is the mean of the top share."""
    teacher = torch.ones(1, 2, 20 * 10, 4)
    student = teacher.clone()
    student[0, :, 3 * 10 + 7] = torch.tensor([1.0, -1, 1, -1])  # row 3, column 7
    anomaly_map, d_local = AnomalyMap((20, 10), sigma=0, top_share=0.01)(teacher, student)
    assert anomaly_map.shape == (1, 20, 10)
    assert np.unravel_index(int(anomaly_map.argmax()), (20, 10)) == (3, 7)
    assert d_local.item() == pytest.approx(0.5, abs=1e-5)  # two cells of 200: one at 1, one at 0
