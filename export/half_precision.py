"""What of a detector is half precision: the products of matrices that make its work, and attention.

All else stays float32, where it costs next to nothing: biases and activations, the stream of tokens that blocks add
to, norms, layer scales, positions, distances and maps. So do two small products that had more than half of what
halves do to our distances: that of pixels and patches, and the similarity to prototypes, which a sharp softmax reads.
What a product adds up in is the graph's affair (onnx_graph.py).

Two changes that rounding alone sees make halves go further: biases take back what rounded weights do to the mean
(HalfLinear), and keys are moved to where the scores of attention are small (HalfAttention).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from dualkd.daemon.bundle import Precision
from dualkd.train.detector import Detector
from dualkd.train.frame_code import FrameCode
from dualkd.train.model import LinearAttention
from dualkd.train.prototypes import Prototypes
from dualkd.train.teacher import PyramidTeacher
from timm.layers.attention import Attention
from torch import Tensor, nn

RIDGE = 1e-3  # of the queries' mean square: draws the shared key to the mean one where no query tells


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


class HalfAttention(nn.Module):
    """timm's attention in halves, its scores made small.

    softmax_j(q_i k_j) is the same for k_j - c: all scores of a query move alike. DINOv2's keys share much, which
    takes scores to hundreds, where halves are 0.25 apart; without it they are near zero, where halves are fine.
    The graph scales queries and keys by the root of `scale` each. The root of 1 / sqrt(64) is no half, and rounding it
    changes all scores by 2e-4; so `scale` is a power of four, and queries make up for it. Both lie in the
    weights, so they cost nothing.
    """

    def __init__(self, attention: Attention, shared_key: Tensor) -> None:
        """Takes over, and changes, the linear maps of `attention`; `shared_key`: c, (heads, width of a head)."""
        super().__init__()
        self.qkv, self.proj, self.heads = attention.qkv, attention.proj, attention.num_heads
        self.scale = 4.0 ** round(math.log(attention.scale, 4))
        if self.qkv.bias is None:
            self.qkv.bias = nn.Parameter(torch.zeros(self.qkv.out_features), requires_grad=False)
        for weights in (self.qkv.weight.detach(), self.qkv.bias.detach()):
            weights.chunk(3)[0].mul_(attention.scale / self.scale)
        self.qkv.bias.detach().chunk(3)[1].sub_(shared_key.flatten())

    def forward(self, tokens: Tensor, **masks: Any) -> Tensor:
        """(B, N, D) -> the same shape; `masks`: what timm's blocks hand on, named as torch names it."""
        query, key, value = _split(self.qkv(tokens).half(), self.heads)
        attended = nn.functional.scaled_dot_product_attention(query, key, value, scale=self.scale, **masks)
        projected: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return projected


def halve(detector: Detector, frames: Tensor, attention: Precision) -> None:
    """Halve, in place, what makes the work of teacher and students; `attention` fp32 leaves all of attention whole.

    `frames`: good ones, uint8 (M, H, W, 3). A convolutional teacher is left whole. With rounded weights it is
    another network: EfficientNet-Lite0 then moves d_local on the magnetic tiles by 2.3e-3 of its usual value, more
    than an export may.
    """
    means = _watch(
        detector,
        frames,
        lambda module: isinstance(module, nn.Linear),
        lambda _, inputs: inputs.flatten(0, -2).double().mean(0),
    )
    shared_keys = _watch(detector, frames, _is_plain, _shared_key) if attention == "fp16" else None
    for network in (detector.teacher, detector.local, detector.semantic):
        if network is not None and not isinstance(network, PyramidTeacher):
            _halve(network, means, shared_keys)


def _halve(
    module: nn.Module, means: dict[nn.Module, Tensor], shared_keys: dict[nn.Module, Tensor] | None
) -> None:
    """Halve the parts of a module; without `shared_keys` attention is left whole."""
    for name, part in module.named_children():
        if shared_keys is None and isinstance(part, (Attention, LinearAttention)):
            continue
        if isinstance(part, nn.Linear):
            setattr(module, name, HalfLinear(part, means[part]))
            continue
        if isinstance(part, Prototypes):
            part.values = part.values.half()
        elif isinstance(part, FrameCode):
            part.half()
        elif shared_keys is not None and part in shared_keys:
            part = HalfAttention(part, shared_keys[part])
            setattr(module, name, part)
        _halve(part, means, shared_keys)
        if isinstance(part, (Attention, LinearAttention)):
            part.qkv.register_forward_hook(_to_half)


def _is_plain(module: nn.Module) -> bool:
    """Whether it is timm's attention with nothing between its linear maps and the softmax: then keys can be moved."""
    return (
        isinstance(module, Attention)
        and all(isinstance(norm, nn.Identity) for norm in (module.q_norm, module.k_norm, module.norm))
        and getattr(module, "gate", None) is None
    )


def _shared_key(attention: Attention, tokens: Tensor) -> Tensor:
    """The c that makes q_i (a_i - c) least in the square, a_i = sum_j p_ij k_j being the key that query i attends to.

    Tokens (B, N, D) -> (heads, d).
    """
    query, key, _ = _split(attention.qkv(tokens), attention.num_heads)
    attended = nn.functional.scaled_dot_product_attention(query, key, key)
    query, attended = (part.transpose(0, 1).flatten(1, 2).double() for part in (query, attended))
    mean = attended.mean(1, keepdim=True)
    scores = (query * (attended - mean)).sum(-1, keepdim=True)
    squares = query.transpose(1, 2) @ query
    ridge = RIDGE * squares.diagonal(dim1=1, dim2=2).mean(-1)[:, None, None] * torch.eye(squares.shape[-1])
    shift = torch.linalg.solve(squares + ridge, query.transpose(1, 2) @ scores)  # (heads, d, 1)
    shared: Tensor = mean[:, 0] + shift[..., 0]
    return shared.float()


def _split(projected: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, N, 3 D) -> queries, keys and values, (B, heads, N, d) each."""
    query, key, value = projected.reshape(*projected.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)
    return query, key, value


def _watch(
    detector: Detector,
    frames: Tensor,
    chosen: Callable[[nn.Module], bool],
    look: Callable[[Any, Tensor], Tensor],
) -> dict[nn.Module, Tensor]:
    """What `look` says of every chosen module and its input, while the detector sees the frames."""
    seen: dict[nn.Module, Tensor] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[module] = look(module, inputs[0].detach())

    modules = [module for module in detector.modules() if chosen(module)]
    hooks = [module.register_forward_pre_hook(note) for module in modules]
    with torch.inference_mode():
        detector(frames)
    for hook in hooks:
        hook.remove()
    return seen


def _to_half(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output.half()
