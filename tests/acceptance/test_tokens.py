"""Tokens of the configuration, against the real daemon."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from bridge.sandbox import Sandbox, Scenario
from tests.support.daemon_process import DaemonProcess

pytestmark = pytest.mark.slow
SECRETS = {"read": "read-token", "register": "register-token", "admin": "admin-token"}


async def test_each_scope_may_do_what_it_says_and_changes_are_logged_with_the_token_s_name(tmp_path: Path) -> None:
    async with Sandbox() as sandbox:
        daemon = DaemonProcess(tmp_path)
        daemon.config["server"]["tokens"] = {name: {"token": token, "scope": name} for name, token in SECRETS.items()}
        daemon.add_connection("dify", "dify", sandbox.url("dify"))

        async def status(scope: str, method: str, path: str, body: object = None) -> int:
            headers = {"Authorization": f"Bearer {SECRETS.get(scope, scope)}"}
            return (await daemon.call(method, path, body, headers=headers))[0]

        def registration() -> dict[str, str]:
            return {
                "connection": "dify",
                "provider_run_id": sandbox.add_run("dify", scenario=Scenario(duration_s=None)),
            }

        async with daemon:
            for path in ("/v1/runs", "/v1/endpoints", "/metrics"):
                assert {await status(scope, "GET", path) for scope in SECRETS} == {200}
                assert await status("wrong", "GET", path) == 401
            assert [await status(scope, "POST", "/v1/runs", registration()) for scope in SECRETS] == [403, 201, 201]
            assert [await status(scope, "POST", "/v1/runs/batch", {"runs": [registration()]}) for scope in SECRETS] == [
                403,
                200,
                200,
            ]
            run = (await daemon.ask("GET", "/v1/runs"))["data"][0]["id"]
            assert [await status(scope, "POST", f"/v1/runs/{run}/poll", {}) for scope in SECRETS] == [403, 403, 202]
            assert [await status(scope, "DELETE", f"/v1/runs/{run}") for scope in SECRETS] == [403, 403, 204]
            changes = [(line["token"], line["method"], line["path"]) for line in daemon.log_lines("api.changed")]
            assert changes == [
                ("register", "POST", "/v1/runs"),
                ("admin", "POST", "/v1/runs"),
                ("register", "POST", "/v1/runs/batch"),
                ("admin", "POST", "/v1/runs/batch"),
                ("admin", "POST", f"/v1/runs/{run}/poll"),
                ("admin", "DELETE", f"/v1/runs/{run}"),
            ]
            _, _, body = await daemon.call(
                "DELETE", f"/v1/runs/{run}", headers={"Authorization": f"Bearer {SECRETS['read']}"}
            )
            assert b"the token 'read' has the scope 'read', and this needs 'admin'" in body
            del daemon.config["server"]["tokens"]["register"]
            await daemon.reload()
            assert await status("register", "GET", "/v1/runs") == 401
            assert await status("read", "GET", "/v1/runs") == 200
            assert not any(token in daemon.log_since() for token in SECRETS.values())


async def test_what_a_token_opened_ends_when_it_is_replaced_and_does_not_come_back_with_it(tmp_path: Path) -> None:
    """Streams of a removed token went on for ever; a session was shown, and was there again with the old token."""
    daemon = DaemonProcess(tmp_path)
    tokens = {name: {"token": SECRETS[name], "scope": name} for name in ("read", "admin")}
    daemon.config["server"]["tokens"] = tokens
    async with daemon, aiohttp.ClientSession() as client:

        async def sign_in(name: str) -> dict[str, str]:
            sent = {"json": {"token": SECRETS[name]}, "headers": {"Sec-Fetch-Site": "same-origin"}}
            async with client.post(f"{daemon.url}/v1/session", **sent) as reply:
                assert reply.status == 201
                return {"Cookie": reply.headers["Set-Cookie"].partition(";")[0]}

        async def status(headers: dict[str, str]) -> int:
            async with client.get(f"{daemon.url}/v1/runs", headers=headers) as reply:
                return reply.status

        bearer, reader, admin = (
            {"Authorization": f"Bearer {SECRETS['read']}"},
            await sign_in("read"),
            await sign_in("admin"),
        )
        streams = [await client.get(f"{daemon.url}/v1/events/stream", headers=each) for each in (bearer, reader)]
        assert [stream.status for stream in streams] == [200, 200]
        daemon.config["server"]["tokens"] = {"admin": tokens["admin"]}
        await daemon.reload()
        async with asyncio.timeout(60):
            for stream in streams:
                await stream.read()  # to its end
        daemon.config["server"]["tokens"] = tokens
        await daemon.reload()
        assert [await status(each) for each in (bearer, reader, admin)] == [200, 401, 200]
        assert [each["token"] for each in (await daemon.ask("GET", "/v1/sessions"))["data"]] == ["admin"]
