"""The OPC UA bridge: a line as an address space after OPC 40100-1 (Machine Vision, part 1).

"After" means: the names of its objects, states and result fields are taken where what they mean is what we
have. The node ids are our own, in our own namespace, identifiers are plain strings where the standard has
structures, and the nodeset itself was not at hand: this is no conforming server, and does not say it is one.
BRIDGES.md has the tables.

bridge.py      what it says of a line
results.py     which verdicts are shown, and when one is Good
methods.py     what a client may ask of the daemon
space.py       the nodes, and writing to them
fields.py      what of a verdict and of a camera is shown, under which name and type
values.py      asyncua's values, made briefly
states.py      the daemon's state as a VisionStateMachine's
server.py      the server: address, limits, a quiet log
gate.py        who may connect, and who may call methods
"""

from dualkd.daemon.bridges.opcua.bridge import OpcUaBridge

__all__ = ["OpcUaBridge"]
