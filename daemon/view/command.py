"""dualkd-view: serve the page that shows a running line.

Builds the parts and runs them until a signal.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import ssl
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dualkd.configs.loader import ConfigError, dump, load
from dualkd.daemon.client import (
    AsyncController,
    AsyncSubscriber,
    KeyDeniedError,
    SubscriberTimeoutError,
)
from dualkd.daemon.credentials import find_secret
from dualkd.daemon.curve import ClientKeys, CurveError, load_client_keys
from dualkd.daemon.endpoints import host_and_port, is_loopback
from dualkd.daemon.messages import MessageError
from dualkd.daemon.notify import SystemdNotifier
from dualkd.daemon.terminal import add_config_options, fail, log_to_stderr
from dualkd.daemon.view.access import Access, TokenError
from dualkd.daemon.view.config import ViewConfig
from dualkd.daemon.view.line import LineModel, Update

if TYPE_CHECKING:
    from dualkd.daemon.view.server import ViewServer

logger = logging.getLogger(__name__)

PROGRAM = "dualkd-view"
DONE, USAGE, DENIED, ADDRESS = 0, 2, 5, 6
TICK_S = 0.25

EXIT_STATUSES = """\
exit status: 0 told to end (SIGTERM, SIGINT); 2 configuration, keys, tokens, or a library that is not installed; 5 the
daemon denies the key; 6 an address that cannot be had"""


class AddressError(Exception):
    """An address that cannot be had: which, why, and what to do."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run dualkd-view; return its exit status."""
    arguments = _parse(argv)
    try:
        config = load(arguments.config, ViewConfig, arguments.overrides)
        if arguments.check:
            print(dump(config), end="")
            return DONE
        log_to_stderr()
        asyncio.run(_run(config))
    except (ConfigError, CurveError, TokenError) as error:
        return fail(PROGRAM, error, USAGE)
    except ModuleNotFoundError as error:
        return fail(PROGRAM, f"{error.name} is not installed: pip install 'dualkd[view]'", USAGE)
    except KeyDeniedError as error:
        return fail(PROGRAM, error, DENIED)
    except AddressError as error:
        return fail(PROGRAM, error, ADDRESS)
    return DONE


async def _run(config: ViewConfig) -> None:
    """Serve until told to end. Raises AddressError, CurveError, KeyDeniedError, TokenError, ConfigError."""
    from aiohttp import web
    from dualkd.daemon.view.server import ViewServer, listening

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    keys = None if config.keys is None else load_client_keys(Path(config.keys.own), Path(config.keys.server))
    notifier = SystemdNotifier()
    async with AsyncExitStack() as parts:
        subscriber = await parts.enter_async_context(AsyncSubscriber(config.scores, keys=keys))
        controller = None
        if config.control is not None:
            controller = await parts.enter_async_context(AsyncController(config.control, keys=keys))
        line = LineModel(config.line)

        def make_update(sent: Mapping[str, int]) -> Update:
            return line.update(subscriber.daemon_fault(), subscriber.camera_fault, subscriber.lost, sent)

        server = ViewServer(
            Access(config),
            line,
            make_update,
            None if config.archive is None else Path(config.archive),
            controller,
            secure=config.tls is not None,
        )
        runner = listening(server.application())
        await runner.setup()
        parts.push_async_callback(runner.cleanup)
        host, port = host_and_port("address", config.address)
        try:
            await web.TCPSite(runner, host, port, ssl_context=_tls(config)).start()
        except OSError as error:
            raise AddressError(f"address: {config.address} cannot be had: {error.strerror}") from error
        _say_where(config, host)
        notifier.tell("READY=1", f"STATUS=line {config.line}")
        work = [
            asyncio.create_task(_follow(subscriber, line, server, notifier.feed_watchdog)),
            asyncio.create_task(_show_pictures(config.preview, keys, line, server)),
            asyncio.create_task(stop.wait()),
        ]
        await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        notifier.tell("STOPPING=1")
        for task in work:
            task.cancel()
        for task in work:
            with suppress(asyncio.CancelledError):
                await task


async def _follow(
    subscriber: AsyncSubscriber, line: LineModel, server: ViewServer, feed_watchdog: Callable[[], None]
) -> None:
    while True:
        feed_watchdog()
        with suppress(SubscriberTimeoutError):
            try:
                line.take(await subscriber.receive(TICK_S))
                server.tell_news()
            except MessageError as error:
                logger.warning("%s", error)


async def _show_pictures(
    endpoint: str | None, keys: ClientKeys | None, line: LineModel, server: ViewServer
) -> None:
    """Subscribe to previews while somebody looks on, and only then: an unwatched line pays nothing."""
    while endpoint is not None:
        await server.watched.wait()
        async with AsyncSubscriber(endpoint, keys=keys) as subscriber:
            while server.watched.is_set():
                with suppress(SubscriberTimeoutError):
                    try:
                        line.take(await subscriber.receive(TICK_S))
                        server.tell_news()
                    except MessageError as error:
                        logger.warning("%s", error)
        line.forget_previews()
    await asyncio.Event().wait()


def _tls(config: ViewConfig) -> ssl.SSLContext | None:
    if config.tls is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(config.tls.certificate, find_secret(config.tls.key))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            [f"tls: {config.tls.certificate} and {config.tls.key} cannot be used: {error}"]
        ) from error
    return context


def _say_where(config: ViewConfig, host: str) -> None:
    scheme = "http" if config.tls is None else "https"
    logger.info("the view of line %s: %s://%s/", config.line, scheme, config.address)
    if config.tls is None and not is_loopback(host):
        logger.warning("tokens travel in the clear: set tls, or let a reverse proxy with TLS stand before it")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Serve a page that shows a running dualkd-daemon's line in the browser.",
        epilog=EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_options(parser, "configs/view.yaml")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
