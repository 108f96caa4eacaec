"""The daemon as a process: signals, one event loop, and a plain sentence where it cannot start."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from bridge.config import Config, ConfigInvalid, load_config
from bridge.daemon import Daemon
from bridge.domain.clock import SystemClock
from bridge.domain.errors import BridgeError
from bridge.runtime import logs

log = structlog.get_logger()


async def serve(config: Config, *, read_config: Callable[[], Config]) -> None:
    """Run until SIGTERM or SIGINT; SIGHUP reloads."""
    daemon = Daemon(config, SystemClock(), read_config=read_config)
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    reload_wanted = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    loop.add_signal_handler(signal.SIGHUP, reload_wanted.set)
    try:
        await daemon.start()
        _share_the_processor()
        reloader = asyncio.create_task(_reload_when(reload_wanted, daemon), name="reloader")
        await stopped.wait()
        reloader.cancel()
    finally:
        await daemon.stop()


def _share_the_processor() -> None:
    """What stands now stays to the end: do not look through it again and again, nor after every 700 objects.

    And the loop, which lets go of the interpreter with every system call, gets it back from a busy write desk
    after 1 ms instead of 5.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    sys.setswitchinterval(0.001)


async def _reload_when(wanted: asyncio.Event, daemon: Daemon) -> None:
    while True:
        await wanted.wait()
        wanted.clear()
        try:
            await daemon.reload()
        except BridgeError as error:
            log.error("config.not_reloaded", reason=str(error))


def main(config_path: Path | None, flags: Mapping[str, str]) -> int:
    """`runbridge serve`: 0 after a clean stop, 1 with one sentence when it cannot start."""

    def read_config() -> Config:
        return load_config(config_path, env=os.environ, flags=flags)

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
        return 1
    except BridgeError as error:
        print(f"runbridge: {error}", file=sys.stderr)
        return 1
    return 0
