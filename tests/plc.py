"""A PLC, for tests: reads and writes a Modbus bridge with pymodbus's client, by the names of the map.

And the line that it belongs to: a daemon that waits for nobody, with a bridge beside it.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import fakes
from bridging import BridgeProcess
from dualkd.daemon.bridges.modbus.map import (
    AccountRegisters,
    CameraBits,
    LineBits,
    LineRegisters,
    OrderRegisters,
    ResultRegisters,
    Verdict,
)
from dualkd.daemon.bridges.modbus.registers import BITS, BLOCK, places
from pymodbus.client import ModbusTcpClient
from running import DaemonProcess, wait_until
from stream_server import StreamServer

CAMERA = (ResultRegisters, AccountRegisters, OrderRegisters)
LINE = (LineRegisters,)
FORMATS = {"u16": ">H", "u32": ">I", "f32": ">f"}


def live(server: StreamServer, **changes: Any) -> list[dict[str, Any]]:
    return [{"name": "cam", "source": server.url, **changes}]


def daemon_of(folder: Path, bundle: Path, cameras: list[dict[str, Any]], **changes: Any) -> DaemonProcess:
    """A daemon that waits for nobody, on a line where bridges come and go."""
    return DaemonProcess(folder, bundle, cameras, publisher={"wait_for_subscribers": 0}, **changes)


def modbus(folder: Path, daemon: DaemonProcess, port: int, **changes: Any) -> BridgeProcess:
    settings = {"address": f"127.0.0.1:{port}", **changes.pop("modbus", {})}
    return BridgeProcess("modbus", folder, daemon, modbus=settings, **changes)


def has_verdict(plc: Plc) -> Callable[[], bool]:
    return lambda: plc.camera()["verdict"] in (Verdict.PASS, Verdict.FAIL)


def show(folder: Path, image: fakes.Image, name: str) -> None:
    """Put a picture into a followed folder, whole from its first moment."""
    made = folder.parent / name
    cv2.imwrite(str(made), image)
    shutil.move(made, folder / name)


class Plc:
    """A client's connection; a context manager that waits for the bridge. Cameras are numbered from 1."""

    def __init__(self, port: int, source: str = "127.0.0.1") -> None:
        self.client = ModbusTcpClient("127.0.0.1", port=port, source_address=(source, 0), retries=0)

    def __enter__(self) -> Plc:
        wait_until(self.client.connect, "the bridge listens")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()

    def line(self) -> dict[str, Any]:
        """The line's input registers."""
        return self._registers(0, LINE)

    def camera(self, number: int = 1) -> dict[str, Any]:
        """A camera's input registers, read in one request."""
        return self._registers(number, CAMERA)

    def line_bits(self) -> set[str]:
        """Which of the line's discrete inputs are on."""
        return self._bits(0, LineBits)

    def bits(self, number: int = 1) -> set[str]:
        """Which of a camera's discrete inputs are on."""
        return self._bits(number, CameraBits)

    def coils(self, number: int = 1) -> list[bool]:
        """A camera's trigger and acknowledge coil."""
        return self.client.read_coils(BITS * number, count=2).bits[:2]

    def trigger(self, job_number: int, camera: int = 1) -> int:
        """Write the job's number and switch the coil on; return the exception's code, 0 for none."""
        written = self.client.write_registers(BLOCK * camera, [job_number >> 16, job_number & 0xFFFF])
        assert not written.isError()
        return exception_code(self.client.write_coil(BITS * camera, True))

    def acknowledge(self, camera: int = 1) -> None:
        assert not self.client.write_coil(BITS * camera + 1, True).isError()

    def choose_recipe(self, number: int, camera: int = 0) -> int:
        """Write a recipe's number, for every camera or for one; return the exception's code, 0 for none."""
        return exception_code(self.client.write_register(BLOCK * camera + 2, number))

    def _registers(self, block: int, sections: tuple[type, ...]) -> dict[str, Any]:
        response = self.client.read_input_registers(BLOCK * block, count=BLOCK)
        assert not response.isError(), response
        raw = struct.pack(f">{BLOCK}H", *response.registers)
        values: dict[str, Any] = {}
        for section in sections:
            for name, place in places(section).items():
                part = raw[2 * place.offset : 2 * (place.offset + place.size)]
                if place.kind == "text":
                    values[name] = part.rstrip(b"\0").decode("ascii")
                else:
                    (values[name],) = struct.unpack(FORMATS[place.kind], part)
        return values

    def _bits(self, block: int, section: type) -> set[str]:
        response = self.client.read_discrete_inputs(BITS * block, count=BITS)
        assert not response.isError(), response
        return {name for name, place in places(section).items() if response.bits[place.offset]}


def exception_code(response: Any) -> int:
    """A Modbus exception's number, 0 for a response that is none."""
    return int(response.exception_code) if response.isError() else 0
