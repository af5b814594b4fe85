"""Verdicts for those who do not speak ZeroMQ: Modbus TCP, OPC UA, MQTT. Processes of their own (dualkd-bridge).

A bridge is a subscriber like any other: it stands on dualkd.daemon.client, and the daemon does not know it.
`feed.py` follows the line and says what may be said of it now; each protocol has a module that says it on.
"""
