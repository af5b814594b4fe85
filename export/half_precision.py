"""What of a detector is half precision: the products of matrices that make its work, and attention.

All else stays float32, where it costs next to nothing: biases and activations, the stream of tokens that blocks add
to, norms, layer scales, positions, distances and maps. So do two small products that had more than half of what
halves do to our distances: that of pixels and patches, and the similarity to prototypes, which a sharp softmax reads.
What a product adds up in is the graph's affair (onnx_graph.py).
"""

from __future__ import annotations

import torch
from dualkd.daemon.bundle import Precision
from dualkd.train.detector import Detector
from dualkd.train.frame_code import FrameCode
from dualkd.train.model import LinearAttention
from dualkd.train.prototypes import Prototypes
from dualkd.train.teacher import PyramidTeacher
from timm.layers.attention import Attention
from torch import Tensor, nn


class HalfLinear(nn.Module):
    """A linear map of halves; its bias and what it gives are float32.

    Rounding the weights by R moves the result by R x. Where an input is much the same for every token, as some are
    in DINOv2, that is much the same too, and the bias takes it back: b - R mean(x) (bias correction: Nagel et al.,
    Data-Free Quantization, ICCV 2019).
    """

    def __init__(self, linear: nn.Linear, mean_input: Tensor) -> None:
        """`mean_input`: (in_features,), of good frames."""
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().half(), requires_grad=False)
        rounding = self.weight.double() - linear.weight.detach().double()
        bias = torch.zeros(linear.out_features) if linear.bias is None else linear.bias.detach()
        self.bias = nn.Parameter(
            (bias.double() - rounding @ mean_input.double()).float(), requires_grad=False
        )

    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.linear(inputs.half(), self.weight).float() + self.bias


def halve(detector: Detector, frames: Tensor, attention: Precision) -> None:
    """Halve, in place, what makes the work of teacher and students; `attention` fp32 leaves all of attention whole.

    `frames`: good ones, uint8 (M, H, W, 3). A convolutional teacher is left whole. With rounded weights it is
    another network: EfficientNet-Lite0 then moves d_local on the magnetic tiles by 2.3e-3 of its usual value, more
    than an export may.
    """
    means = _mean_inputs(detector, frames)
    for network in (detector.teacher, detector.local, detector.semantic):
        if network is not None and not isinstance(network, PyramidTeacher):
            _halve(network, means, whole=(Attention, LinearAttention) if attention == "fp32" else ())


def _halve(module: nn.Module, means: dict[nn.Module, Tensor], whole: tuple[type[nn.Module], ...]) -> None:
    """Halve the parts of a module, but for those of the kinds `whole`."""
    for name, part in module.named_children():
        if isinstance(part, whole):
            continue
        if isinstance(part, nn.Linear):
            setattr(module, name, HalfLinear(part, means[part]))
            continue
        if isinstance(part, Prototypes):
            part.values = part.values.half()
        elif isinstance(part, FrameCode):
            part.half()
        _halve(part, means, whole)
        if isinstance(part, (Attention, LinearAttention)):
            part.qkv.register_forward_hook(_to_half)


def _mean_inputs(detector: Detector, frames: Tensor) -> dict[nn.Module, Tensor]:
    """What every linear map gets on the average over frames and tokens, (in_features,)."""
    means: dict[nn.Module, Tensor] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        means[module] = inputs[0].detach().flatten(0, -2).double().mean(0)

    linears = [module for module in detector.modules() if isinstance(module, nn.Linear)]
    hooks = [module.register_forward_pre_hook(note) for module in linears]
    with torch.inference_mode():
        detector(frames)
    for hook in hooks:
        hook.remove()
    return means


def _to_half(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output.half()
