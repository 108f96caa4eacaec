"""The sandbox as processes of its own."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import bridge
from bridge.domain.signing.hmac_v1 import new_secret, secret_key, signature_headers

pytestmark = pytest.mark.slow  # each starts processes


async def start(*arguments: str) -> tuple[Process, dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bridge.sandbox", *arguments, stdout=PIPE, stderr=PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        return process, json.loads(await process.stdout.readline())


async def end(process: Process, number: signal.Signals) -> int:
    process.send_signal(number)
    async with asyncio.timeout(60):
        return await process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_providers_print_their_addresses_serve_and_end_cleanly_on_a_signal(
    client: aiohttp.ClientSession, number: signal.Signals
) -> None:
    process, told = await start("providers", "--port", "0")
    try:
        assert set(told["providers"]) == {"dibby", "retab", "dify", "instabase"}
        made = await client.post(f"{told['url']}/_control/runs", json={"provider": "dibby"})
        run_id = (await made.json())["id"]
        assert (await client.get(f"{told['providers']['dibby']}/runs/{run_id}")).status == 200
    finally:
        code = await end(process, number)
    assert code == 0


async def test_a_key_of_ones_own_replaces_the_usual_one(client: aiohttp.ClientSession) -> None:
    process, told = await start("providers", "--key", "another")
    try:
        url = f"{told['providers']['dify']}/workflows/logs"
        statuses = [
            (await client.get(url)).status,
            (await client.get(url, headers={"Authorization": "Bearer another"})).status,
        ]
    finally:
        await end(process, signal.SIGTERM)
    assert statuses == [401, 200]


async def test_the_receiver_verifies_with_the_secret_it_was_given(client: aiohttp.ClientSession) -> None:
    secret = new_secret()
    process, told = await start("receiver", "--port", "0", "--secret", secret)
    try:
        headers = signature_headers([secret_key(secret)], "evt_1", int(time.time()), b"{}")
        statuses = [(await client.post(told["url"], data=body, headers=headers)).status for body in (b"{}", b"[]")]
        shown = await (await client.get(told["received"])).json()
    finally:
        code = await end(process, signal.SIGTERM)
    assert (statuses, [one["verified"] for one in shown["data"]], code) == ([204, 401], [True, False], 0)


@pytest.mark.parametrize("arguments", [("receiver", "--secret", "hunter2"), ("providers", "--host", "256.0.0.1")])
async def test_what_will_not_do_is_reported_in_one_line_with_code_1(arguments: tuple[str, ...]) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bridge.sandbox", *arguments, stdout=PIPE, stderr=PIPE
    )
    async with asyncio.timeout(60):
        _, complaint = await process.communicate()
    assert (process.returncode, complaint.count(b"\n")) == (1, 1)
    assert b"hunter2" not in complaint


async def test_a_definition_is_played_as_the_one_provider(client: aiohttp.ClientSession) -> None:
    folder = Path(bridge.__file__).parent / "providers/definitions/dibby"
    process, told = await start("providers", "--definition", str(folder), "--step", "1000")
    try:
        answer = await client.get(
            f"{told['providers']['dibby']}/runs/r1", headers={"Authorization": "Bearer sandbox-key"}
        )
        shown = await answer.json()
    finally:
        code = await end(process, signal.SIGTERM)
    assert (shown["id"], shown["status"]) == ("r1", "PENDING")
    assert code == 0


async def test_a_definition_with_mistakes_is_refused_with_each_of_them(tmp_path: Path) -> None:
    (tmp_path / "jobs.toml").write_text('schema = 1\nname = "jobs"\n[run]\ngte = "/jobs/{id}"\n')
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bridge.sandbox", "providers", "--definition", str(tmp_path / "jobs.toml"), stderr=PIPE
    )
    _, said = await process.communicate()
    assert process.returncode == 1
    assert b"jobs.toml:4: run.gte: unknown key" in said
    assert b"the key `status` is missing" in said
