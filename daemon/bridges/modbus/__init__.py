"""Modbus TCP: the line as registers and bits, for a PLC. BRIDGES.md has the map and the handshake.

From the wire inwards: `server.py` has the connections, `store.py` says which address is whose, `camera.py` and
`recipes.py` are what stands behind them, `map.py` where each value lies and what it means, `registers.py` how
it is encoded. `bridge.py` joins them to the line.
"""

from dualkd.daemon.bridges.modbus.bridge import ModbusBridge

__all__ = ["ModbusBridge"]
