"""How much work a graph is, as its bundle says it: counted at export, read by dualkd-bench.

Knows totals. Does not know graphs (see dualkd.export.work for the rules of counting), nor how fast a machine is.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0)]


class OperatorWork(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all nodes of one ONNX operator do for one frame."""

    operator: str
    nodes: Count
    flop: Count | None  # None: an operator that export cannot count
    bytes: Count  # read and written if every node goes through memory, weights aside


class Work(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a graph does, the most FLOP first."""

    weight_bytes: Count  # read once a batch
    frame_bytes: Count  # into and out of the graph, for a frame
    operators: list[OperatorWork]

    @property
    def flop(self) -> int:
        """Of a frame, as far as they are counted."""
        return sum(work.flop or 0 for work in self.operators)

    @property
    def activation_bytes(self) -> int:
        """Of a frame: the most that can move. A runtime that fuses operators moves less."""
        return sum(work.bytes for work in self.operators)

    @property
    def uncounted(self) -> list[str]:
        """The operators whose FLOP are missing in the sum."""
        return [work.operator for work in self.operators if work.flop is None]
