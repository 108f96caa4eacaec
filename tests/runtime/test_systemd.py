"""Messages to systemd, on a real datagram socket."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bridge.runtime.systemd import Notifier, Watchdog
from tests.support.manual_clock import ManualClock


class Manager:
    """The service manager's end of the socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return messages

    async def hears(self) -> str:
        async with asyncio.timeout(60):
            return (await asyncio.get_running_loop().sock_recv(self.socket, 4096)).decode()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    end = Manager(str(tmp_path / "n") if request.param == "path" else f"@runbridge-test-{os.getpid()}")
    yield end
    end.socket.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 1, 15, tzinfo=UTC))


def test_each_step_of_a_life_is_reported(manager: Manager) -> None:
    notifier = Notifier(manager.address)
    notifier.ready()
    notifier.watchdog()
    notifier.stopping()
    assert manager.heard() == ["READY=1", "WATCHDOG=1", "STOPPING=1"]


def test_a_status_stays_one_line_so_that_it_cannot_say_something_else(manager: Manager) -> None:
    Notifier(manager.address).status("watching 3 runs\nSTOPPING=1")
    assert manager.heard() == ["STATUS=watching 3 runs STOPPING=1"]


def test_a_reload_carries_the_kernels_monotonic_time_in_microseconds(manager: Manager) -> None:
    before = time.monotonic_ns() // 1000
    Notifier(manager.address).reloading()
    first, second = manager.heard()[0].split("\n")
    assert first == "RELOADING=1"
    assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000


@pytest.mark.parametrize("address", [None, ""])
def test_without_a_socket_nothing_is_sent_and_nothing_is_said(address: str | None) -> None:
    with capture_logs() as logs:
        Notifier(address).ready()
    assert logs == []


def test_a_manager_that_is_gone_is_logged_not_raised(tmp_path: Path) -> None:
    with capture_logs() as logs:
        Notifier(str(tmp_path / "nobody-listens")).ready()
    assert [(line["event"], line["told"]) for line in logs] == [("notify.failed", "READY")]


def test_systemd_is_fed_only_while_every_loop_gives_signs_of_life(manager: Manager, clock: ManualClock) -> None:
    """A daemon with one loop hanging looks alive from outside; only the missing beat tells."""
    watchdog = Watchdog(Notifier(manager.address), clock, 15)
    watchdog.register("poller", silence_max_s=60)
    watchdog.register("deliverer", silence_max_s=60)
    clock.advance(60)
    assert watchdog.feed()
    watchdog.beat("poller")
    clock.advance(1)
    assert not watchdog.feed()
    assert watchdog.silent_loops() == {"deliverer"}
    assert manager.heard() == ["WATCHDOG=1"]


def test_a_loop_that_comes_back_is_believed(manager: Manager, clock: ManualClock) -> None:
    watchdog = Watchdog(Notifier(manager.address), clock, 15)
    watchdog.register("poller", silence_max_s=10)
    clock.advance(11)
    assert not watchdog.feed()
    watchdog.beat("poller")
    assert watchdog.feed()
    assert manager.heard() == ["WATCHDOG=1"]


def test_a_silent_loop_is_logged_once_not_at_every_feeding(clock: ManualClock) -> None:
    watchdog = Watchdog(Notifier(None), clock, 15)
    watchdog.register("poller", silence_max_s=10)
    clock.advance(11)
    with capture_logs() as logs:
        watchdog.feed()
        watchdog.feed()
    assert [(line["event"], line["worker"]) for line in logs] == [("worker.silent", "poller")]


def test_a_loop_ended_on_purpose_is_not_missed_and_its_last_beat_does_not_bring_it_back(clock: ManualClock) -> None:
    """While the daemon drains, its loops are gone one after the other and it still has to be fed."""
    watchdog = Watchdog(Notifier(None), clock, 15)
    watchdog.register("poller", silence_max_s=10)
    watchdog.unregister("poller")
    watchdog.beat("poller")
    clock.advance(1000)
    assert watchdog.feed()


async def test_it_is_fed_again_and_again_at_half_the_time_that_systemd_allows(
    manager: Manager, clock: ManualClock
) -> None:
    environ = {"WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())}
    watchdog = Watchdog.from_environ(Notifier(manager.address), clock, environ)
    feeding = asyncio.create_task(watchdog.run())
    try:
        assert [await manager.hears() for _ in range(3)] == ["WATCHDOG=1"] * 3
    finally:
        feeding.cancel()


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"},
    ],
)
def test_without_a_request_of_systemd_to_this_process_there_is_no_feeding(
    environ: dict[str, str], manager: Manager, clock: ManualClock
) -> None:
    """WATCHDOG_PID names another process when a wrapper passed its environment on to us."""
    assert not Watchdog.from_environ(Notifier(manager.address), clock, environ).is_wanted
