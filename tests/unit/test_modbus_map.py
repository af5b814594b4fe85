"""The register map: values where they should be, as they should be, and as BRIDGES.md says."""

from __future__ import annotations

import math
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from dualkd.daemon.bridges.modbus.map import (
    AccountRegisters,
    Answer,
    CameraBits,
    CameraCoils,
    CameraOrders,
    CameraState,
    DaemonState,
    Fault,
    JobState,
    LineBits,
    LineOrders,
    LineRegisters,
    Meant,
    OrderRegisters,
    ResultRegisters,
    Verdict,
)
from dualkd.daemon.bridges.modbus.registers import (
    BITS,
    BLOCK,
    Place,
    encode,
    encode_bits,
    join,
    places,
    saturated,
    ten_thousandths,
    wrapped,
)

BRIDGES = Path(__file__).parents[2] / "BRIDGES.md"
CAMERA = (ResultRegisters, AccountRegisters, OrderRegisters)
REGISTERS: list[tuple[Any, ...]] = [(LineRegisters,), CAMERA, (LineOrders,), (CameraOrders,)]
INPUTS: list[tuple[Any, ...]] = [(LineBits,), (CameraBits,), (CameraCoils,)]
NUMBERS: dict[str, type[Meant]] = {
    "verdict": Verdict,
    "daemon_state": DaemonState,
    "state": CameraState,
    "job_state": JobState,
    "recipe_answer": Answer,
}


def by_offset(sections: tuple[Any, ...]) -> list[tuple[str, Place]]:
    found = [item for section in sections for item in places(section).items()]
    return sorted(found, key=lambda item: item[1].offset)


def table(sections: tuple[Any, ...]) -> str:
    """A block as BRIDGES.md shows it."""
    rows = []
    for name, place in by_offset(sections):
        last = place.offset + place.size - 1
        where = f"+{place.offset}" if place.size == 1 else f"+{place.offset} to +{last}"
        kind = "" if place.kind == "bit" else f" {place.kind} |"
        rows.append(f"| {where} | `{name}` |{kind} {place.meaning} |")
    return "\n".join(rows)


def number_table(numbers: type[Meant]) -> str:
    return "\n".join(f"| {member.value} | {member.meaning} |" for member in numbers)


def number_row(name: str, numbers: type[Meant]) -> str:
    return f"| `{name}` | " + "; ".join(f"{member.value} {member.meaning}" for member in numbers) + " |"


@pytest.mark.parametrize(
    ("sections", "size"), [*((s, BLOCK) for s in REGISTERS), *((s, BITS) for s in INPUTS)]
)
def test_no_two_values_share_a_place(sections: tuple[Any, ...], size: int) -> None:
    """Nor does one stand outside its block."""
    found = [place for _, place in by_offset(sections)]
    assert all(before.offset + before.size <= after.offset for before, after in pairwise(found))
    assert found[-1].offset + found[-1].size <= size


@pytest.mark.parametrize("sections", [*REGISTERS, *INPUTS])
def test_the_tables_of_bridges_md_are_the_map(sections: tuple[Any, ...]) -> None:
    """Row by row."""
    assert table(sections) in BRIDGES.read_text()


def test_the_numbers_of_bridges_md_are_the_ones_told() -> None:
    """Faults have a table, the others a row."""
    text = BRIDGES.read_text()
    assert number_table(Fault) in text
    for name, numbers in NUMBERS.items():
        assert number_row(name, numbers) in text


def test_values_are_big_endian_and_keep_to_their_places() -> None:
    """High word first; what is not set is 0; text is cut and padded, what is not ASCII is a question mark."""
    block = encode(
        ResultRegisters(frame_id=0x12345678, score=0.75, threshold_1e4=5000, reason="zu spät" + "." * 99)
    )
    assert len(block) == BLOCK
    assert block[14:16] == [0x1234, 0x5678]
    assert struct.unpack(">f", struct.pack(">2H", *block[6:8])) == (0.75,)
    assert block[5] == 5000
    text = struct.pack(">30H", *block[40:70]).decode("ascii")
    assert text == ("zu sp?t" + "." * 99)[:60]
    assert block[70:] == [0] * 30
    assert block[12:14] == [0, 0]


def test_sections_of_one_block_stand_side_by_side() -> None:
    """A camera's three, in one read."""
    block = encode(ResultRegisters(sequence=7), AccountRegisters(captured=9), OrderRegisters(answer="no"))
    assert (block[0], block[18:20], block[70]) == (7, [0, 9], int.from_bytes(b"no", "big"))


def test_bits_lie_where_the_map_says() -> None:
    """And the reserved ones are off."""
    assert encode_bits(CameraBits(passed=True, recipe_refused=True)) == [n in (1, 10) for n in range(BITS)]


def test_numbers_that_do_not_fit_saturate_or_wrap() -> None:
    """Milliseconds and scores stay at the end, counters begin again."""
    assert [saturated(value) for value in (-1.0, 0.4, 65535.2, 1e9)] == [0, 0, 65535, 65535]
    assert [ten_thousandths(value) for value in (0.0, 0.12345, 1.0, 7.0, -0.1)] == [0, 1234, 10000, 65535, 0]
    assert wrapped((1 << 32) + 5) == 5
    assert join(0x1234, 0x5678) == 0x12345678
    assert not math.isnan(ResultRegisters().score)
