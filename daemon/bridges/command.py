"""dualkd-bridge: tell a running daemon's verdicts on over Modbus TCP, OPC UA or MQTT.

Builds the parts and runs them until a signal. The only place that names the concrete bridges; each is imported
only when it is asked for, with its library.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from pathlib import Path

from dualkd.configs.loader import ConfigError, dump, load
from dualkd.daemon.bridges.config import BridgeConfig
from dualkd.daemon.bridges.feed import Bridge, BridgeError, Orders, follow
from dualkd.daemon.client import AsyncController, AsyncSubscriber, KeyDeniedError
from dualkd.daemon.curve import CurveError, load_client_keys
from dualkd.daemon.notify import SystemdNotifier
from dualkd.daemon.terminal import add_config_options, fail, log_to_stderr

PROGRAM = "dualkd-bridge"
DONE, USAGE, DENIED, ADDRESS = 0, 2, 5, 6

EXIT_STATUSES = """\
exit status: 0 told to end (SIGTERM, SIGINT); 2 configuration, keys, or a library that is not installed; 5 the
daemon denies the key; 6 an address that cannot be had"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run dualkd-bridge; return its exit status."""
    arguments = _parse(argv)
    try:
        config = load(arguments.config, BridgeConfig, arguments.overrides)
        if arguments.check:
            print(dump(config), end="")
            return DONE
        log_to_stderr()
        asyncio.run(_run(arguments.kind, config))
    except (ConfigError, CurveError) as error:
        return fail(PROGRAM, error, USAGE)
    except ModuleNotFoundError as error:
        return fail(PROGRAM, f"{error.name} is not installed: pip install 'dualkd[bridge]'", USAGE)
    except KeyDeniedError as error:
        return fail(PROGRAM, error, DENIED)
    except BridgeError as error:
        return fail(PROGRAM, error, ADDRESS)
    return DONE


async def _run(kind: str, config: BridgeConfig) -> None:
    """Follow the line until told to end. Raises BridgeError, CurveError, KeyDeniedError, ModuleNotFoundError."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    keys = None if config.keys is None else load_client_keys(Path(config.keys.own), Path(config.keys.server))
    notifier = SystemdNotifier()
    async with AsyncExitStack() as parts:
        subscriber = await parts.enter_async_context(
            AsyncSubscriber(config.results, expected_period_s=config.expected_period_s, keys=keys)
        )
        controller = None
        if config.control is not None:
            controller = await parts.enter_async_context(AsyncController(config.control, keys=keys))
        bridge = await parts.enter_async_context(_bridge(kind, config, Orders(controller)))
        notifier.tell("READY=1", f"STATUS=line {config.line}")
        following = asyncio.create_task(follow(subscriber, config, bridge, notifier.feed_watchdog))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((following, stopping), return_when=asyncio.FIRST_COMPLETED)
        notifier.tell("STOPPING=1")
        for task in (following, stopping):
            task.cancel()
        await asyncio.gather(stopping, return_exceptions=True)
        with suppress(asyncio.CancelledError):
            await following


def _bridge(kind: str, config: BridgeConfig, orders: Orders) -> AbstractAsyncContextManager[Bridge]:
    """The bridge that was asked for; it opens on entering. Raises ModuleNotFoundError."""
    if kind == "modbus":
        from dualkd.daemon.bridges.modbus import ModbusBridge

        return ModbusBridge(config, orders)
    if kind == "opcua":
        from dualkd.daemon.bridges.opcua import OpcUaBridge

        return OpcUaBridge(config, orders)
    from dualkd.daemon.bridges.mqtt import MqttBridge

    return MqttBridge(config, orders)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Tell the verdicts of a running dualkd-daemon on over another protocol.",
        epilog=EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", choices=("modbus", "opcua", "mqtt"))
    add_config_options(parser, "configs/bridge.yaml")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
