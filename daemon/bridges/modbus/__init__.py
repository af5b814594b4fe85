"""Modbus TCP: the line as registers and bits, for a PLC. BRIDGES.md has the map and the handshake.

From the wire inwards: `server.py` has the connections, `store.py` says which address is whose, `line.py` and
`camera.py` are what stands behind them with the PLC's `orders.py`, `results.py` turns the daemon's words into
values, `map.py` says where each value lies and what it means, `registers.py` how it is encoded. `bridge.py` joins
them to the line.
"""

from dualkd.daemon.bridges.modbus.bridge import ModbusBridge

__all__ = ["ModbusBridge"]
