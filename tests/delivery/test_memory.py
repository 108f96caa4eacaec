"""The memory that hostile receivers cost: the daemon as a process, its peak as the kernel counts it."""

from __future__ import annotations

import asyncio
import functools
import gzip
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon_process import DaemonProcess
from tests.support.raw_server import RawExchange, Script, answer, raw_server, says

GROWTH_BYTES_MAX = 20 * 1024**2
AT_ONCE = 8  # as many posts as one endpoint may have under way
OK_HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
GB = 10**9
PIECE = b"a" * 65536


def pours(head: bytes, piece: bytes, count: int | None = None) -> Script:
    """A script that sends `head` and then `piece`, so often or until the connection is closed."""

    async def script(exchange: RawExchange) -> None:
        await exchange.send(head)
        sent = 0
        while count is None or sent < count:
            await exchange.send(piece)
            sent += 1

    return script


@functools.cache
def bomb() -> bytes:
    """128 KiB on the way, 128 MiB once unpacked."""
    return answer("200 OK", gzip.compress(b"\0" * 2**27), "Content-Encoding: gzip")


async def bombs(exchange: RawExchange) -> None:
    await exchange.send(bomb())


HOSTILE = {
    "a body without end": pours(CHUNKED, b"10000\r\n" + PIECE + b"\r\n"),
    "a body of 1 GB": pours(OK_HEAD + b"Content-Length: %d\r\n\r\n" % GB, PIECE, GB // len(PIECE)),
    "a failure of 1 GB": pours(b"HTTP/1.1 500 No\r\nContent-Length: %d\r\n\r\n" % GB, PIECE, GB // len(PIECE)),
    "a gzip bomb": bombs,
    "100,000 headers": says(OK_HEAD + b"".join(b"X-%d: y\r\n" % number for number in range(100_000)) + b"\r\n"),
    "headers without end": pours(OK_HEAD, b"X: " + b"a" * 1000 + b"\r\n"),
    "one header of 1 GB": pours(OK_HEAD + b"X: ", PIECE, GB // len(PIECE)),
    "a status line of 1 GB": pours(b"HTTP/1.1 200 ", PIECE, GB // len(PIECE)),
    "a chunk extension of 1 GB": pours(CHUNKED + b"5;x=", PIECE, GB // len(PIECE)),
    "trailers without end": pours(CHUNKED + b"1\r\nx\r\n0\r\n", b"X: " + b"a" * 1000 + b"\r\n"),
    "chunks of one byte without end": pours(CHUNKED, b"1\r\nx\r\n" * 10_000),
    "interim answers without end": pours(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 4000),
}


@pytest.fixture
async def daemon(tmp_path: Path):
    async with raw_server(says(answer("204 None"))) as raw:
        made = DaemonProcess(tmp_path)
        made.add_endpoint("app", f"http://127.0.0.1:{raw.port}/hooks")
        async with made:
            yield made, raw
            await made.stop()


def memory_of(pid: int, what: str) -> int:
    """Bytes as the kernel counts them: VmRSS now, VmHWM at most so far."""
    found = re.search(rf"^{what}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


async def ping(daemon: DaemonProcess) -> None:
    """So many posts at once; until each has been attempted and written down."""

    def is_tried(page: dict[str, Any]) -> bool:
        return [delivery["attempt_count"] > 0 for delivery in page["data"]] == [True]

    sent = [await daemon.ask("POST", "/v1/endpoints/app/ping", {}, status=202) for _ in range(AT_ONCE)]
    await asyncio.gather(
        *(daemon.eventually(f"/v1/deliveries?event={one['event_id']}", is_tried, timeout_s=60) for one in sent)
    )


@pytest.mark.slow
async def test_no_answer_of_a_receiver_costs_more_than_20_mib(daemon) -> None:
    """Eight at once of each kind, all measured from before the first: what stays behind counts too."""
    bridge, raw = daemon
    await ping(bridge)
    before, grown = memory_of(bridge.pid, "VmRSS"), {}
    for what, script in HOSTILE.items():
        raw.script = script
        Path(f"/proc/{bridge.pid}/clear_refs").write_text("5")  # resets the peak
        await ping(bridge)
        grown[what] = memory_of(bridge.pid, "VmHWM") - before
    assert {what: size for what, size in grown.items() if size > GROWTH_BYTES_MAX} == {}
