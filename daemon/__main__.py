"""dualkd-daemon: reads the configuration, builds every part with explicit arguments, runs the service.

The only place that names concrete classes. They are imported where they are built, because each capture
process imports this module too and needs none of them.
"""

from __future__ import annotations

import argparse
import faulthandler
import functools
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dualkd.daemon.bundle import Bundle
    from dualkd.daemon.config import DaemonConfig, EngineConfig
    from dualkd.daemon.engine import Engine

PROGRAM = "dualkd-daemon"

EXIT_STATUSES = """\
exit status: 0 done (the sources ended, or SIGTERM and drained); 1 unexpected error; 2 configuration, keys, or
what is remembered; 3 bundle or recipe; 4 engine; 5 source (a file could not be opened or ended too early, its
capture process died); 6 endpoint (address in use, no subscriber in time). SIGHUP reads the configuration again."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run dualkd-daemon; return its exit status."""
    arguments = _parse(argv)
    from dualkd.configs.loader import ConfigError, dump, load
    from dualkd.daemon.config import DaemonConfig
    from dualkd.daemon.service import ExitStatus
    from dualkd.daemon.terminal import fail, log_to_stderr

    read_config = functools.partial(load, arguments.config, DaemonConfig, arguments.overrides)
    try:
        config = read_config()
        if arguments.check:
            print(dump(config), end="")
            return ExitStatus.DONE
        log_to_stderr()
        faulthandler.enable()  # a hung loop that the watchdog aborts tells where it hung
        return _run(config, read_config)
    except ConfigError as error:
        return fail(PROGRAM, error, ExitStatus.CONFIG)


def _run(config: DaemonConfig, read_config: Callable[[], DaemonConfig]) -> int:
    """Build the daemon from its parts and run it. Raises ConfigError."""
    from dualkd.configs.loader import ConfigError
    from dualkd.daemon.archive import Archive
    from dualkd.daemon.cameras.intake import Intake
    from dualkd.daemon.control import ControlServer
    from dualkd.daemon.curve import CurveError, load_security
    from dualkd.daemon.monitoring.metrics import PrometheusMetrics
    from dualkd.daemon.notify import SystemdNotifier
    from dualkd.daemon.parts import Parts
    from dualkd.daemon.preview import ZmqPreview
    from dualkd.daemon.publisher import ZmqPublisher
    from dualkd.daemon.service import ENDS_WITH, ExitStatus, Service, status_of
    from dualkd.daemon.terminal import fail

    try:
        security = load_security(config.curve)
    except CurveError as error:
        raise ConfigError([str(error)]) from error

    def reread() -> DaemonConfig:
        """The configuration as it is now, and the allow-lists with it."""
        new = read_config()
        try:
            if security is not None:
                security.reload()
        except CurveError as error:
            raise ConfigError([str(error)]) from error
        return new

    frames = Intake(config.cameras, config.open_timeout_s)
    parts = Parts(
        frames=frames,
        publisher=ZmqPublisher(config.publisher, security),
        preview=ZmqPreview(config.preview, security, config.line),
        control=ControlServer(config.control, security, frames.trigger),
        archive=Archive(config.archive, config.line),
        metrics=PrometheusMetrics(config.metrics, config.line),
        notifier=SystemdNotifier(),
    )
    service = Service(config, parts, functools.partial(load_engine, config=config.engine), reread)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.request_stop())
    signal.signal(signal.SIGHUP, lambda *_: service.request_reload())
    try:
        return service.run()
    except ENDS_WITH as error:
        return fail(PROGRAM, error, status_of(error))
    except Exception:
        logging.getLogger(__name__).exception("unexpected error")
        return ExitStatus.UNEXPECTED


def load_engine(bundle: Bundle, config: EngineConfig) -> Engine:
    """Load the engine that was asked for, and no other. Raises EngineError, BundleError."""
    if config.kind == "tensorrt":
        from dualkd.daemon.engine import EngineError
        from dualkd.daemon.engine_tensorrt import TensorRTEngine

        try:
            return TensorRTEngine.of(bundle, precision=config.precision)
        except EngineError as error:
            raise EngineError(
                f"engine.kind: tensorrt: {error}; or set engine.kind: onnx to run on the CPU"
            ) from error
    from dualkd.daemon.engine_onnx import OnnxEngine

    return OnnxEngine.of(bundle, precision=config.precision, provider=config.provider, threads=config.threads)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    from dualkd.daemon.terminal import add_config_options

    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Judge the frames of cameras, films or folders and publish the verdicts over ZeroMQ.",
        epilog=EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_options(parser, "configs/daemon.yaml")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
