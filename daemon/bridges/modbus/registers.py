"""Values as 16-bit registers and as bits: where a dataclass's fields lie in its block, and how they are encoded.

Big-endian throughout, as Modbus itself: the high byte of a register comes first, and the high word of a value
of two registers. Knows no meaning; that is in map.py.
"""

from __future__ import annotations

import dataclasses
import struct
from typing import Any, Literal, NamedTuple

BLOCK = 100  # registers of the line, and of each camera: less than a request may read (125)
BITS = 16  # discrete inputs, or coils, of each
TEXT_CHARACTERS = 60

U16_MAX = (1 << 16) - 1
U32_MAX = (1 << 32) - 1

Kind = Literal["u16", "u32", "f32", "text"]
_FORMATS: dict[Kind, str] = {"u16": ">H", "u32": ">I", "f32": ">f", "text": f"{TEXT_CHARACTERS}s"}


class Place(NamedTuple):
    """Where a value lies in its block, and what it means."""

    offset: int
    kind: Kind | Literal["bit"]
    meaning: str

    @property
    def size(self) -> int:
        """Registers, or bits, that it takes."""
        return 1 if self.kind == "bit" else struct.calcsize(_FORMATS[self.kind]) // 2


def register(offset: int, kind: Kind, meaning: str, default: int | float | str = 0) -> Any:
    """A dataclass's field that lies in registers."""
    return dataclasses.field(default=default, metadata={"place": Place(offset, kind, meaning)})


def bit(offset: int, meaning: str) -> Any:
    """A dataclass's field that is a bit."""
    return dataclasses.field(default=False, metadata={"place": Place(offset, "bit", meaning)})


def places(section: Any) -> dict[str, Place]:
    """The places of a dataclass's fields, by name, in their order; of the class or of one of it."""
    return {field.name: field.metadata["place"] for field in dataclasses.fields(section)}


def encode(*sections: Any) -> list[int]:
    """The BLOCK registers in which the sections' values lie; the rest are 0. Values must fit."""
    block = bytearray(2 * BLOCK)
    for section in sections:
        for name, place in places(section).items():
            value = getattr(section, name)
            raw = value.encode("ascii", "replace") if place.kind == "text" else value
            struct.pack_into(_FORMATS[place.kind], block, 2 * place.offset, raw)  # type: ignore[index]
    return list(struct.unpack(f">{BLOCK}H", block))


def encode_bits(section: Any) -> list[bool]:
    """The BITS bits of a section; the rest are off."""
    bits = [False] * BITS
    for name, place in places(section).items():
        bits[place.offset] = getattr(section, name)
    return bits


def saturated(value: float) -> int:
    """The nearest number that a register can hold."""
    return min(max(round(value), 0), U16_MAX)


def ten_thousandths(value: float) -> int:
    """A number between 0 and 6.5535 as a register holds it."""
    return saturated(1e4 * value)


def wrapped(count: int) -> int:
    """A count that begins at 0 again after 4,294,967,295."""
    return count & U32_MAX


def join(high: int, low: int) -> int:
    """Two registers as a number."""
    return high << 16 | low
