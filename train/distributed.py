"""The processes that train one detector together, as torchrun starts them.

Knows each process's rank and device, and the few things that ranks exchange: sums, and copies from the first
rank. Knows no network, no data and no optimiser. One process alone is the same code with nothing to exchange.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass

import torch
import torch.distributed as dist
from dualkd.configs.loader import ConfigError
from torch import Tensor, nn


class RankError(Exception):
    """Another process of this training ended or cannot be reached, so this one cannot go on."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process's place among those that train together. The first alone writes files and shows progress."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # which of its machine's GPUs it uses

    @classmethod
    def from_environment(cls) -> Ranks:
        """As torchrun's RANK, WORLD_SIZE and LOCAL_RANK say; without them one process alone."""
        if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
            return cls()
        return cls(
            int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", "0"))
        )

    @property
    def first(self) -> bool:
        """Whether this process speaks for all."""
        return self.rank == 0

    def device(self, kind: str) -> torch.device:
        """The device of `kind` ("cuda" or "cpu") that this rank computes on. Raises ConfigError."""
        if kind == "cpu" or self.size == 1:
            return torch.device(kind)
        count = torch.cuda.device_count()
        if self.local_rank >= count:
            raise ConfigError(
                [
                    f"training.device: rank {self.rank} wants GPU {self.local_rank}, but torch sees {count} here; "
                    f"start torchrun with --nproc-per-node {count}"
                ]
            )
        return torch.device(kind, self.local_rank)

    @contextmanager
    def joined(self, kind: str) -> Iterator[None]:
        """Join the other ranks, over nccl for "cuda" and gloo for "cpu", until the block is left.

        After an exception nothing is said to the others: this process ends, its connections close, and what
        the others wait for fails with RankError. Raises ConfigError.
        """
        if self.size == 1:
            yield
            return
        device = self.device(kind)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        with _exchange():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        with nullcontext() if self.first else redirect_stderr(_NoTerminal()):
            yield
        dist.destroy_process_group()

    def meet(self, device: torch.device) -> None:
        """Wait for all ranks. Raises RankError."""
        self.sum(torch.zeros((), device=device))

    def sum(self, tensor: Tensor) -> Tensor:
        """Add `tensor` up over all ranks, in place, and return it. Raises RankError."""
        if self.size > 1:
            with _exchange():
                dist.all_reduce(tensor)
        return tensor

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add the gradients up over all ranks, in place and in one piece. Raises RankError."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        total = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = torch.split(total, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is set on at least one rank. Raises RankError."""
        return bool(self.sum(torch.tensor(float(flag), device=device))) if self.size > 1 else flag

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite `tensors` with those of the first rank. Raises RankError."""
        if self.size > 1:
            with _exchange():
                for tensor in tensors:
                    dist.broadcast(tensor, 0)


@contextmanager
def _exchange() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo's and nccl's errors have no narrower class in common
        reason = str(error).strip().splitlines()[0].split(". ")[0]
        raise RankError(
            f"another process of this training ended or cannot be reached ({reason}); its own output says "
            "why; what was saved goes on with --resume"
        ) from error


class _NoTerminal(io.TextIOWrapper):
    """Standard error that says it is no terminal, so that progress bars keep silent on it."""

    def __init__(self) -> None:
        super().__init__(os.fdopen(os.dup(sys.stderr.fileno()), "wb"), line_buffering=True)

    def isatty(self) -> bool:
        return False
