"""Tokens of the configuration, against the real daemon."""

from __future__ import annotations

from pathlib import Path

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
