"""MQTT: verdicts and states on a broker's topics, commands from them. BRIDGES.md documents topics and payloads.

`bridge.py` says what is told and `commands.py` what is obeyed, `outbox.py` what waits for a broker that is away,
`link.py` keeps up the connection, `connection.py` is one, `access.py` reads what it takes to get in.
"""

from dualkd.daemon.bridges.mqtt.bridge import MqttBridge

__all__ = ["MqttBridge"]
