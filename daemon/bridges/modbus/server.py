"""A Modbus TCP server: connections, who may have one, and requests that are read and answered by pymodbus.

Knows the wire. Does not know what stands at an address. The connections are not pymodbus's own, whose server
keeps one request a connection, forgets another that comes before the answer, and holds any number of answers
for a client that does not read them. Here answers go out in the order of the requests, a client that does not
read is not read either, and a turn of the loop answers one request of each connection, so none has it alone.
There are CONNECTIONS at most; who comes when all are taken puts out whoever has asked nothing for longest.
Modbus has no passwords: who may connect is told by the address.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import struct
import time
from typing import Any, cast

from dualkd.daemon.bridges.config import ModbusConfig
from dualkd.daemon.bridges.feed import BridgeError
from dualkd.daemon.bridges.modbus.store import (
    READ_COILS,
    READ_DISCRETE_INPUTS,
    READ_HOLDING_REGISTERS,
    READ_INPUT_REGISTERS,
    WRITE_COIL,
    WRITE_COILS,
    WRITE_REGISTER,
    WRITE_REGISTERS,
    Store,
)
from pymodbus.constants import ExcCodes
from pymodbus.pdu import DecodePDU, ExceptionResponse, ModbusPDU

logger = logging.getLogger(__name__)
logging.getLogger("pymodbus").setLevel(logging.CRITICAL)  # a line for each bad request would fill the log

CONNECTIONS = 32
LOG_EVERY_S = 10.0
_HEADER = struct.Struct(">HHHB")  # transaction, protocol 0, bytes that follow, unit
_MAX_BODY_BYTES = 253
_READ_MAX = {
    READ_COILS: 2000,
    READ_DISCRETE_INPUTS: 2000,
    READ_HOLDING_REGISTERS: 125,
    READ_INPUT_REGISTERS: 125,
}
_FUNCTIONS = frozenset((*_READ_MAX, WRITE_COIL, WRITE_REGISTER, WRITE_COILS, WRITE_REGISTERS))
_READS_BACK = {
    WRITE_COIL: READ_COILS,
    WRITE_REGISTER: READ_HOLDING_REGISTERS,
}  # as pymodbus does after a write
_COIL_VALUES = (b"\x00\x00", b"\xff\x00")


class ModbusServer:
    """Serves a store until closed."""

    def __init__(self, config: ModbusConfig, store: Store) -> None:
        self._config = config
        self._allowed = [ipaddress.ip_network(text) for text in config.allow]
        self._data = _Data(store)
        self._decoder = DecodePDU(True)
        self._asked_s: dict[asyncio.StreamWriter, float] = {}  # when each last asked something
        self._logged_s = -LOG_EVERY_S
        self._serving: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Begin to listen. Raises BridgeError."""
        host, port = self._config.host_and_port
        try:
            self._server = await asyncio.start_server(self._begin, host, port)
        except OSError as error:
            raise BridgeError(f"modbus.address: {self._config.address}: {_advice(error)}") from error
        logger.info("modbus: listening on %s", self._config.address)

    async def close(self) -> None:
        """Give the port back and end every connection."""
        if self._server is None:
            return
        self._server.close()
        for writer in list(self._asked_s):
            writer.transport.abort()
        await asyncio.gather(*self._serving)
        await self._server.wait_closed()

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._admit(writer):
            task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        else:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._answer_one(reader, writer):
                self._asked_s[writer] = time.monotonic()
                await asyncio.sleep(0)  # requests that have come already would be answered in one go
        except (asyncio.IncompleteReadError, OSError):
            pass  # the client has gone
        finally:
            self._asked_s.pop(writer, None)
            writer.transport.abort()

    def _admit(self, writer: asyncio.StreamWriter) -> bool:
        peer = writer.get_extra_info("peername")
        if peer is None:  # gone already
            return False
        if not self._allows(peer[0]):
            self._log(f"{peer[0]} was turned away: it is not in modbus.allow")
            return False
        if len(self._asked_s) >= CONNECTIONS:
            idle = min(self._asked_s, key=lambda known: self._asked_s[known])
            del self._asked_s[idle]
            idle.transport.abort()
            self._log(
                f"more than {CONNECTIONS} connections: the one that asked nothing for longest was ended"
            )
        self._asked_s[writer] = time.monotonic()
        return True

    def _allows(self, host: str) -> bool:
        address = ipaddress.ip_address(host.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None) or address
        return not self._allowed or any(mapped in network for network in self._allowed)

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Return whether it was a Modbus request; after anything else there is no telling where one begins."""
        transaction, protocol, length, unit = _HEADER.unpack(await reader.readexactly(_HEADER.size))
        if protocol != 0 or not 2 <= length <= 1 + _MAX_BODY_BYTES:
            return False
        answer = await self._answer(await reader.readexactly(length - 1))
        writer.write(_HEADER.pack(transaction, 0, 1 + len(answer), unit) + answer)
        await writer.drain()
        return True

    async def _answer(self, request: bytes) -> bytes:
        """A request's answer, both without the header."""
        function = request[0]
        if function not in _FUNCTIONS:
            return _encode(ExceptionResponse(function & 0x7F, ExcCodes.ILLEGAL_FUNCTION))
        pdu = self._decoder.decode(request) if _well_formed(request) else None
        if pdu is None:
            return _encode(ExceptionResponse(function, ExcCodes.ILLEGAL_VALUE))
        response = await pdu.datastore_update(cast(Any, self._data), 0)
        if function in (WRITE_COIL, WRITE_REGISTER) and not isinstance(response, ExceptionResponse):
            return request  # as the protocol has it, whatever stands there by now
        return _encode(response)

    def _log(self, text: str) -> None:
        now_s = time.monotonic()
        if now_s - self._logged_s >= LOG_EVERY_S:
            self._logged_s = now_s
            logger.warning("modbus: %s", text)


class _Data:
    """What pymodbus's requests read and write through."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def async_getValues(  # noqa: N802 (pymodbus calls it so)
        self, _unit: int, function: int, address: int, count: int = 1
    ) -> list[int] | list[bool] | ExcCodes:
        return self._store.read(_READS_BACK.get(function, function), address, count)

    async def async_setValues(  # noqa: N802
        self, _unit: int, function: int, address: int, values: list[int] | list[bool]
    ) -> ExcCodes | None:
        return self._store.write(function, address, values)


def _well_formed(request: bytes) -> bool:
    """Whether a request is as long as it says, asks for no more than it may, and a coil is written on or off."""
    function, value, number = request[0], request[3:5], int.from_bytes(request[3:5], "big")
    if function in (WRITE_COILS, WRITE_REGISTERS):
        size = 2 * number if function == WRITE_REGISTERS else -(-number // 8)
        return number > 0 and request[5:6] == bytes([size & 0xFF]) and len(request) == 6 + size
    if function in _READ_MAX and not 1 <= number <= _READ_MAX[function]:
        return False
    return len(request) == 5 and (function != WRITE_COIL or value in _COIL_VALUES)


def _encode(pdu: ModbusPDU) -> bytes:
    return bytes([pdu.function_code]) + pdu.encode()


def _advice(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "somebody listens there already (a second bridge?); end that, or choose another port"
    if error.errno == errno.EACCES:
        return "ports below 1024 need CAP_NET_BIND_SERVICE; grant it, or choose a port such as 1502"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this host has no such address; 0.0.0.0 stands for all that it has"
    return f"cannot listen there: {error.strerror or error}"
