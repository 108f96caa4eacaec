"""The manual's receivers, run as they stand against the daemon's own deliveries, replays and forgeries."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from bridge.domain.signing.hmac_v1 import new_secret, secret_key, signature_headers
from bridge.sandbox.scenarios import Scenario
from bridge.sandbox.server import Sandbox
from tests.support.cgi_server import CgiServer
from tests.support.daemon_process import DaemonProcess
from tests.support.installation import free_port
from tests.support.manual import block
from tests.support.waiting import until

START_S = 30.0

pytestmark = pytest.mark.slow  # each test starts a receiver, some a daemon


@dataclass(frozen=True)
class SnippetReceiver:
    """A snippet that listens at `url`; `received` returns the types of the events that it accepted."""

    url: str
    received: Callable[[], list[str]]


@contextlib.asynccontextmanager
async def python_receiver(folder: Path, secret: str, _request: pytest.FixtureRequest) -> AsyncIterator[SnippetReceiver]:
    async with program(sys.executable, folder / "receiver.py", block("receiver-python"), folder, secret) as receiver:
        yield receiver


@contextlib.asynccontextmanager
async def node_receiver(folder: Path, secret: str, request: pytest.FixtureRequest) -> AsyncIterator[SnippetReceiver]:
    script = request.getfixturevalue("node_folder") / "receiver.mjs"
    async with program("node", script, block("receiver-node"), folder, secret) as receiver:
        yield receiver


@contextlib.asynccontextmanager
async def program(command: str, script: Path, text: str, folder: Path, secret: str) -> AsyncIterator[SnippetReceiver]:
    script.write_text(text)
    output, port = folder / "received.txt", free_port()
    with output.open("wb") as received:
        process = await asyncio.create_subprocess_exec(
            command,
            str(script),
            stdout=received,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "MY_APP_WEBHOOK_SECRET": secret, "PORT": str(port)},
        )
    try:
        await until(lambda: listens(port), timeout_s=START_S, what="a start of the receiver")
        yield SnippetReceiver(
            f"http://127.0.0.1:{port}/hooks", lambda: [line.split()[0] for line in output.read_text().splitlines()]
        )
    finally:
        process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def shell_receiver(folder: Path, secret: str, _request: pytest.FixtureRequest) -> AsyncIterator[SnippetReceiver]:
    script, inbox = folder / "hooks.cgi", folder / "inbox"
    script.write_text(block("receiver-shell"))
    inbox.mkdir()
    env = {"MY_APP_WEBHOOK_SECRET": secret, "INBOX": str(inbox), "PATH": os.environ["PATH"]}
    async with CgiServer(script, env) as server:
        yield SnippetReceiver(
            server.url, lambda: [json.loads(path.read_bytes())["type"] for path in sorted(inbox.glob("*.json"))]
        )


RECEIVERS = {"python": python_receiver, "node": node_receiver, "shell": shell_receiver}


async def listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@pytest.mark.parametrize("language", RECEIVERS)
async def test_a_receiver_takes_in_every_delivery_once(
    language: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The second arrival of an event, here a replay, is answered like the first and not acted upon again."""
    secret = new_secret()
    daemon = DaemonProcess(tmp_path)
    async with Sandbox() as sandbox, RECEIVERS[language](tmp_path, secret, request) as receiver:
        daemon.add_connection("dify", "dify", sandbox.url("dify"))
        daemon.add_endpoint("my-app", receiver.url, secret=secret)
        async with daemon:
            theirs = sandbox.add_run(
                "dify", scenario=Scenario(duration_s=1, output={"text": "Zwölf Boxkämpfer – \u2028 ✓"})
            )
            run = await daemon.register("dify", theirs, metadata={"order": 4711})
            await daemon.finish_of(run["id"])
            await daemon.eventually("/v1/deliveries", lambda page: states(page) == ["delivered"] * 2)
            (finished,) = await daemon.all_events(type="run.finished")
            await daemon.ask("POST", f"/v1/events/{finished['id']}/replay", {}, status=202)
            await daemon.eventually("/v1/deliveries", lambda page: states(page, attempts=3) == ["delivered"] * 2)
            ping = await daemon.ask("POST", "/v1/endpoints/my-app/ping", {}, status=202)
            await daemon.eventually(
                f"/v1/deliveries?event={ping['event_id']}", lambda page: states(page) == ["delivered"]
            )
            assert receiver.received() == ["run.started", "run.finished", "bridge.ping"]
            await daemon.stop()


def states(page: dict[str, list[dict[str, object]]], attempts: int = 0) -> list[object]:
    """The states of the deliveries, once there were so many attempts in all."""
    made = sum(int(str(delivery["attempt_count"])) for delivery in page["data"])
    return [delivery["state"] for delivery in page["data"]] if made >= attempts else []


@pytest.mark.parametrize("language", RECEIVERS)
async def test_a_receiver_refuses_what_is_not_ours(
    language: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    secret, now = new_secret(), int(time.time())
    body = json.dumps({"id": "evt_1", "type": "run.finished", "data": {"run": None}}).encode()
    key, other = secret_key(secret), secret_key(new_secret())
    genuine = signature_headers([key], "evt_1", now, body)
    forged = {
        "another secret": (signature_headers([other], "evt_1", now, body), body),
        "another body": (genuine, body.replace(b"finished", b"started")),
        "another id": (genuine | {"webhook-id": "evt_2"}, body),
        "too old": (signature_headers([key], "evt_1", now - 400, body), body),
        "from the future": (signature_headers([key], "evt_1", now + 400, body), body),
        "no time": (genuine | {"webhook-timestamp": "soon"}, body),
        "no signature": (genuine | {"webhook-signature": "v1"}, body),
        "no headers": ({}, body),
    }
    rotated = signature_headers([other, key], "evt_1", now, body)
    async with RECEIVERS[language](tmp_path, secret, request) as receiver, aiohttp.ClientSession() as http:
        for what, (headers, sent) in forged.items():
            async with http.post(receiver.url, data=sent, headers=headers) as answer:
                assert answer.status == 401, what
        assert receiver.received() == []
        async with http.post(receiver.url, data=body, headers=rotated) as answer:
            assert answer.status == 204
        assert receiver.received() == ["run.finished"]
