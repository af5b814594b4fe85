"""Addresses: block 0 is the line's, block n the n-th camera's, in registers of both kinds and in bits of both.

Knows function codes and blocks. Does not know connections, nor what stands at an address.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from dualkd.daemon.bridges.modbus.orders import WriteRefused
from dualkd.daemon.bridges.modbus.registers import BITS, BLOCK
from pymodbus.constants import ExcCodes

READ_COILS, READ_DISCRETE_INPUTS, READ_HOLDING_REGISTERS, READ_INPUT_REGISTERS = 1, 2, 3, 4
WRITE_COIL, WRITE_REGISTER, WRITE_COILS, WRITE_REGISTERS = 5, 6, 15, 16

MAX_CAMERAS = (1 << 16) // BLOCK - 1

Value = TypeVar("Value", int, bool)


class Block(Protocol):
    """The line, or a camera."""

    coils_written: frozenset[int]  # the offsets that may be written
    registers_written: frozenset[int]

    def coils(self) -> list[bool]: ...

    def discrete_inputs(self) -> list[bool]: ...

    def holding_registers(self) -> list[int]: ...

    def input_registers(self, now_s: float) -> list[int]: ...

    def write_coils(self, coils: dict[int, bool]) -> None: ...

    def write_registers(self, registers: dict[int, int]) -> None: ...


class Store:
    """Reads and writes what a request names. Whatever is refused changes nothing."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._blocks = blocks

    def read(self, function: int, address: int, count: int) -> list[int] | list[bool] | ExcCodes:
        """The values at `count` addresses, as they are at one moment."""
        if function == READ_COILS:
            return self._cut(lambda block: block.coils(), BITS, address, count)
        if function == READ_DISCRETE_INPUTS:
            return self._cut(lambda block: block.discrete_inputs(), BITS, address, count)
        if function == READ_HOLDING_REGISTERS:
            return self._cut(lambda block: block.holding_registers(), BLOCK, address, count)
        now_s = time.monotonic()
        return self._cut(lambda block: block.input_registers(now_s), BLOCK, address, count)

    def write(self, function: int, address: int, values: list[int] | list[bool]) -> ExcCodes | None:
        """Carry out a write within one block, whole or not at all."""
        bits = function in (WRITE_COIL, WRITE_COILS)
        index, offset = divmod(address, BITS if bits else BLOCK)
        if index >= len(self._blocks):
            return ExcCodes.ILLEGAL_ADDRESS
        block = self._blocks[index]
        written = dict(enumerate(values, offset))
        if not written.keys() <= (block.coils_written if bits else block.registers_written):
            return ExcCodes.ILLEGAL_ADDRESS
        try:
            if bits:
                block.write_coils({place: bool(value) for place, value in written.items()})
            else:
                block.write_registers(written)
        except WriteRefused as refused:
            return refused.code
        return None

    def _cut(
        self, values: Callable[[Block], list[Value]], size: int, address: int, count: int
    ) -> list[Value] | ExcCodes:
        end = address + count
        if count < 1 or end > size * len(self._blocks):
            return ExcCodes.ILLEGAL_ADDRESS
        first = address // size
        touched = [value for block in self._blocks[first : (end - 1) // size + 1] for value in values(block)]
        return touched[address - first * size : end - first * size]
