"""The daemon as a process: signals, one event loop, and one sentence if it cannot start or go on."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import structlog

from bridge.config.load import Config, ConfigInvalid, load_config
from bridge.daemon import Daemon
from bridge.domain.clock import SteadyClock
from bridge.domain.errors import BridgeError, StoreUnavailable
from bridge.runtime import logs
from bridge.runtime.descriptors import raise_descriptor_limit

log = structlog.get_logger()
RELOAD_AGAIN_S: Final = 5.0  # after the database could not be written
EXIT_CONFIG: Final = 78  # sysexits' EX_CONFIG, which the systemd unit does not restart after


async def serve(config: Config, *, read_config: Callable[[], Config]) -> None:
    """Run until SIGTERM or SIGINT; SIGHUP reloads. WorkerDied if a worker ends by itself."""
    daemon = Daemon(config, SteadyClock(), read_config=read_config)
    loop, stop_wanted, reload_wanted = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop_wanted.set)
    loop.add_signal_handler(signal.SIGHUP, reload_wanted.set)
    async with daemon.workers:
        try:
            await daemon.start()
            _tune_collector()
            daemon.workers.start("reloader", lambda: _reload_when(reload_wanted, daemon))
            await stop_wanted.wait()
        finally:
            await daemon.stop()


def _tune_collector() -> None:
    """Keep the garbage collector out of the event loop's way.

    Objects that exist now stay until the end, so they are never scanned; new ones are scanned every 10,000 instead of
    every 700.
    """
    gc.collect()
    gc.freeze()
    gc.enable()
    gc.set_threshold(10_000, 20, 20)


async def _reload_when(wanted: asyncio.Event, daemon: Daemon) -> None:
    while True:
        await wanted.wait()
        wanted.clear()
        try:
            await daemon.reload()
        except StoreUnavailable as error:  # perhaps half-way: some connections may have no poller now
            log.error("config.not_reloaded", reason=str(error))
            await asyncio.sleep(RELOAD_AGAIN_S)
            wanted.set()
        except BridgeError as error:
            log.error("config.not_reloaded", reason=str(error))


def main(config_path: Path | None, flags: Mapping[str, str]) -> int:
    """`runbridge serve`: 0 after a clean stop, 1 with one sentence if it cannot start or a worker died.

    Under a service manager a mistake in the configuration ends it with EXIT_CONFIG, because no restart mends that.
    """

    def read_config() -> Config:
        return load_config(config_path, env=os.environ, flags=flags)

    raise_descriptor_limit()
    os.umask(0o077)  # the database holds people's documents: for the daemon's own user only
    try:
        config = read_config()
        logs.set_up(config.log.level, config.log.format)
        for warning in config.warnings:
            log.warning("config.warning", key=warning.field, advice=warning.message)
        asyncio.run(serve(config, read_config=read_config))
    except ConfigInvalid as invalid:
        for problem in invalid.problems:
            print(f"{problem.field}: {problem.message}", file=sys.stderr)
        return EXIT_CONFIG if "NOTIFY_SOCKET" in os.environ else 1
    except BridgeError as error:
        print(f"runbridge: {error}", file=sys.stderr)
        return 1
    return 0
