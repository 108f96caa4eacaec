"""Reports to systemd: ready, reloading, stopping, and alive only while every loop passes.

The protocol (sd_notify(3)) is one datagram of KEY=VALUE lines to the socket in $NOTIFY_SOCKET, so no library
is needed. Without that socket nothing is sent. A message that cannot be sent is logged, never raised.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import structlog

from bridge.domain.clock import Clock

log = structlog.get_logger()
# A resting loop passes every 10 s, the rest is for one slow pass. A loop that is silent for longer hangs.
SILENCE_MAX_S = 60.0
_SEND_TIMEOUT_S = 1.0  # a manager that is too busy to listen must not hold the event loop for longer


class Notifier:
    """Sends to the service manager; `address` is $NOTIFY_SOCKET, a path or `@` and an abstract name."""

    def __init__(self, address: str | None) -> None:
        self._address = address

    def ready(self) -> None:
        """Start-up, or a reload, is complete."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """Show one line in `systemctl status`."""
        self._send(f"STATUS={' '.join(text.split())}")

    def reloading(self) -> None:
        """Say that a reload has begun; `ready` ends it."""
        # Not from our Clock: systemd compares this with the kernel's own monotonic clock.
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Say that the shutdown has begun."""
        self._send("STOPPING=1")

    def watchdog(self) -> None:
        """Still alive; due again before WATCHDOG_USEC runs out."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(_SEND_TIMEOUT_S)
                sender.sendto(message.encode(), address)
        except OSError as error:
            log.warning("notify.failed", reason=str(error), told=message.partition("=")[0])


@dataclass(slots=True)
class _Sign:
    """When a loop last passed, and for how long it may stay silent; both in monotonic seconds."""

    last: float
    silence_max_s: float


class Watchdog:
    """Feeds systemd's watchdog while every registered loop gives signs of life.

    A loop that hangs, ends, or only fails stops the feeding, and systemd restarts the daemon.
    """

    def __init__(self, notifier: Notifier, clock: Clock, interval_s: float | None) -> None:
        """`interval_s` is the time between two feedings; None where systemd does not ask for them."""
        self._notifier = notifier
        self._clock = clock
        self._interval_s = interval_s
        self._signs: dict[str, _Sign] = {}
        self._silent: set[str] = set()

    @classmethod
    def from_environ(cls, notifier: Notifier, clock: Clock, environ: Mapping[str, str]) -> Self:
        """Feed at half of $WATCHDOG_USEC, if $WATCHDOG_PID is this process or not set."""
        limit = environ.get("WATCHDOG_USEC", "")
        is_for_us = environ.get("WATCHDOG_PID") in {None, "", str(os.getpid())}
        if not is_for_us or not limit.isdecimal() or int(limit) == 0:
            return cls(notifier, clock, None)
        return cls(notifier, clock, int(limit) / 2 / 1_000_000)

    @property
    def is_wanted(self) -> bool:
        """Whether systemd has asked to be fed."""
        return self._interval_s is not None

    def register(self, name: str, silence_max_s: float = SILENCE_MAX_S) -> None:
        """Expect a sign of life from the loop `name` every `silence_max_s` seconds, from now on."""
        self._signs[name] = _Sign(self._clock.monotonic(), silence_max_s)

    def unregister(self, name: str) -> None:
        """Expect no more signs of life from a loop that was ended on purpose."""
        self._signs.pop(name, None)
        self._silent.discard(name)

    def beat(self, name: str) -> None:
        """Note that the loop `name` has passed; ignored for one that is not registered."""
        if name in self._signs:
            self._signs[name].last = self._clock.monotonic()

    def silent_loops(self) -> set[str]:
        """The loops that have been silent for too long."""
        now = self._clock.monotonic()
        return {name for name, sign in self._signs.items() if now - sign.last > sign.silence_max_s}

    def feed(self) -> bool:
        """Report to systemd that we live, unless a loop is silent; returns whether it did."""
        silent = self.silent_loops()
        for name in silent - self._silent:
            log.error("worker.silent", worker=name, silence_max_s=self._signs[name].silence_max_s)
        for name in self._silent - silent:
            log.info("worker.heard_again", worker=name)
        self._silent = silent
        if not silent:
            self._notifier.watchdog()
        return not silent

    async def run(self) -> None:
        """Feed until cancelled, if systemd has asked for it."""
        while self._interval_s is not None:
            self.feed()
            await asyncio.sleep(self._interval_s)
