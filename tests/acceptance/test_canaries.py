"""No secret appears where it does not belong: canaries in every place that takes a secret, then a search of
everything the daemon wrote and answered, in success and failure."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from bridge.domain.encryption import new_key
from bridge.sandbox import Receiver, Reply, Sandbox, Scenario
from tests.support.daemon_process import TOKEN, DaemonProcess
from tests.support.foreign_server import foreign_server

SHORT = Scenario(duration_s=0.2)
PLANTED_MIN = 30


@dataclass
class Canaries:
    """The planted secrets, and every place in which one was found although it must not be there."""

    planted: dict[str, str] = field(default_factory=dict)
    in_urls: set[str] = field(default_factory=set)
    found: list[str] = field(default_factory=list)

    def text(self, where: str) -> str:
        """A text that occurs nowhere else."""
        return self._plant(where, f"canary{len(self.planted):02d}{os.urandom(8).hex()}")

    def url_token(self, where: str) -> str:
        """One in the query of an endpoint's URL, which the database holds unencrypted."""
        self.in_urls.add(where)
        return self.text(where)

    def secret(self, where: str) -> str:
        """A signing secret."""
        return "whsec_" + self._plant(where, base64.b64encode(os.urandom(33)).decode())

    def key(self, where: str) -> str:
        """A key of the secrets at rest."""
        return self._plant(where, new_key())

    def shown_once(self, where: str, secret: str) -> None:
        """A secret that the daemon made."""
        self._plant(where, secret.removeprefix("whsec_"))

    def _plant(self, where: str, value: str) -> str:
        assert where not in self.planted
        self.planted[where] = value
        return value

    def search(self, place: str, content: bytes | str, *, holds_urls: bool = False) -> None:
        """Note every canary in it, also as JSON, as base64 and cut off after 16 characters."""
        raw = content.encode() if isinstance(content, str) else content
        for where, value in self.planted.items():
            if holds_urls and where in self.in_urls:
                continue
            spellings = (
                value,
                json.dumps(value)[1:-1],
                base64.b64encode(value.encode()).decode().rstrip("="),
                value[:16],
            )
            if any(spelling.encode() in raw for spelling in spellings):
                self.found.append(f"{where} in {place}")


def configured(
    folder: Path,
    canaries: Canaries,
    sandbox: Sandbox,
    provider: str,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> DaemonProcess:
    """A daemon whose file holds a secret wherever it can."""
    daemon = DaemonProcess(folder, delivery={"allow": ["127.0.0.0/8"], "retry_schedule": ["100ms", "100ms"]})
    daemon.config["secrets"] = {"key": canaries.key("secrets.key"), "old_keys": canaries.key("secrets.old_keys")}
    for name in ("dify", "retab"):
        daemon.add_connection(name, name, sandbox.url(name), api_key=sandbox.state.api_key)
    monkeypatch.setenv("CANARY_KEY", canaries.text("connection api_key_env"))
    (folder / "provider.key").write_text(canaries.text("connection api_key_file") + "\n")
    daemon.add_connection("echo-dify", "dify", provider, api_key=canaries.text("connection api_key"))
    daemon.add_connection(
        "echo-retab", "retab", provider, api_key=canaries.text("retab api_key"), auth_scheme="api-key"
    )
    daemon.add_connection("echo-hub", "instabase", provider, ib_context="org")
    daemon.add_connection("echo-dibby", "dibby", provider)
    del daemon.config["connections"]["echo-hub"]["api_key"]
    daemon.config["connections"]["echo-hub"]["api_key_env"] = "CANARY_KEY"
    del daemon.config["connections"]["echo-dibby"]["api_key"]
    daemon.config["connections"]["echo-dibby"]["api_key_file"] = "provider.key"
    headers = {"authorization": f"Bearer {canaries.text('header in the file')}"}
    url = receiver.url(f"/file?token={canaries.url_token('query of an endpoint in the file')}")
    daemon.add_endpoint("plain", url, secret=canaries.secret("endpoint secret"), headers=headers)
    for name, how in (("by-env", "secret_env"), ("by-file", "secret_file")):
        daemon.add_endpoint(name, receiver.url(f"/{name}"), headers={"x-key": canaries.text(f"header of {name}")})
        del daemon.config["endpoints"][name]["secret"]
        daemon.config["endpoints"][name][how] = {"secret_env": "CANARY_SECRET", "secret_file": "hook.secret"}[how]
    monkeypatch.setenv("CANARY_SECRET", canaries.secret("endpoint secret_env"))
    (folder / "hook.secret").write_text(canaries.secret("endpoint secret_file") + "\n")
    return daemon


async def echoing(request: web.Request) -> web.StreamResponse:
    """A provider that repeats the request's headers, in errors, redirects and garbage in turn."""
    headers = json.dumps(dict(request.headers))
    number = next(_turn)
    if number % 4 == 0:
        return web.Response(status=401, text=headers, reason="No")
    if number % 4 == 1:
        return web.json_response({"message": headers, "code": headers, "detail": headers}, status=500)
    if number % 4 == 2:
        return web.Response(
            status=302, headers={"Location": f"http://user:{request.headers.get('Authorization', '')}@x/"}
        )
    return web.Response(text=headers)


_turn = itertools.count()


class Story:
    """Use everything that the daemon offers; `answers` collects the answers that must not contain a secret."""

    def __init__(self, daemon: DaemonProcess, canaries: Canaries, receiver: Receiver) -> None:
        self.daemon, self.canaries, self.receiver = daemon, canaries, receiver
        self.answers: list[tuple[str, bytes]] = []

    async def ask(self, method: str, path: str, body: object = None, **more: Any) -> Any:
        """One call whose answer must contain no secret, problem documents included."""
        status, headers, answer = await self.daemon.call(method, path, body, **more)
        self.answers.append((f"{method} {path} ({status})", answer + str(headers).encode()))
        try:
            return json.loads(answer) if answer else None
        except ValueError:
            return None

    async def make_endpoints(self) -> dict[str, dict[str, Any]]:
        """Endpoints with given and generated secrets; an answer that shows one shows it here, once."""
        receiver, canaries = self.receiver, self.canaries
        made = {}
        for name in ("good", "refusing", "leading-on", "unheard", "swapped"):
            body: dict[str, Any] = {
                "url": receiver.url(f"/{name}"),
                "headers": {"x-key": canaries.text(f"header of {name}")},
            }
            if name != "good":
                body["secret"] = canaries.secret(f"secret given to {name}")
            made[name] = await self.daemon.ask(
                "POST", "/v1/endpoints", body, status=201, headers={"Idempotency-Key": name}
            )
            if name == "good":
                canaries.shown_once("secret made for an endpoint", made[name]["secret"])
        given = canaries.secret("secret given at a rotation")
        await self.daemon.ask("POST", f"/v1/endpoints/{made['good']['id']}/rotate-secret", {"secret": given})
        rotated = await self.daemon.ask("POST", f"/v1/endpoints/{made['good']['id']}/rotate-secret", {})
        canaries.shown_once("secret made at a rotation", rotated["secret"])
        patch = {"headers": {"x-key": canaries.text("header set by a change")}}
        await self.ask("PATCH", f"/v1/endpoints/{made['good']['id']}", patch)
        return made

    async def register(self, sandbox: Sandbox) -> None:
        """Runs that end well and badly, with webhooks of their own."""
        canaries, receiver, daemon = self.canaries, self.receiver, self.daemon
        webhook = {
            "url": receiver.url(f"/own?key={canaries.url_token('query of a webhook')}"),
            "secret": canaries.secret("secret given with a run"),
            "headers": {"x-key": canaries.text("header of a webhook")},
        }
        given = {"connection": "dify", "provider_run_id": sandbox.add_run("dify", scenario=SHORT), "webhook": webhook}
        await daemon.ask("POST", "/v1/runs", given, status=201, headers={"Idempotency-Key": "run-1"})
        given = {
            "connection": "retab",
            "provider_run_id": sandbox.add_run("retab", scenario=Scenario(0.2, outcome="failed")),
        }
        made = await daemon.ask("POST", "/v1/runs", {**given, "webhook": {"url": receiver.url("/own")}}, status=201)
        canaries.shown_once("secret made with a run", made["webhook"]["secret"])
        batch_secret = canaries.secret("secret given in a batch")
        item = {"connection": "dify", "provider_run_id": sandbox.add_run("dify", scenario=SHORT)}
        item["webhook"] = {"url": receiver.url("/own"), "secret": batch_secret}
        await daemon.ask("POST", "/v1/runs/batch", {"runs": [item]}, headers={"Idempotency-Key": "batch-1"})
        for name in ("echo-dify", "echo-retab", "echo-hub", "echo-dibby"):
            await self.ask(
                "POST", "/v1/runs", {"connection": name, "provider_run_id": "6f1c3f9e-1111-4222-8333-444455556666"}
            )
            for _ in range(4):
                await self.ask("POST", f"/v1/connections/{name}/check", {})
            trigger = {"workflow_id": "w", "inputs": {}}
            await self.ask("POST", "/v1/runs", {"connection": name, "trigger": trigger})

    async def be_wrong(self) -> None:
        """Requests with secrets in the wrong place: the refusal must not repeat them."""
        canaries = self.canaries
        url = self.receiver.url("/x")
        bad_secret = canaries.text("malformed secret")
        await self.ask("POST", "/v1/endpoints", {"url": url, "secret": f"whsec_{bad_secret}-_"})
        await self.ask(
            "POST", "/v1/endpoints", {"url": url, "secret": {"value": canaries.text("secret of a wrong type")}}
        )
        await self.ask(
            "POST", "/v1/endpoints", {"url": url, "headers": {"x-key": canaries.text("malformed header") + "\r\nx: y"}}
        )
        await self.ask(
            "POST", "/v1/endpoints", {"url": url, "headers": {"webhook-id": canaries.text("refused header")}}
        )
        await self.ask("POST", "/v1/endpoints", {"url": f"http://u:{canaries.text('password in a url')}@127.0.0.1/"})
        await self.ask("POST", "/v1/endpoints", {"url": url, "api_token": canaries.text("unknown field")})
        await self.ask("POST", "/v1/endpoints", f'{{"secret": "{canaries.text("broken JSON")}"'.encode())
        wrong = {"Authorization": f"Bearer {canaries.text('wrong token')}"}
        await self.ask("GET", "/v1/runs", headers=wrong)
        await self.ask("GET", "/v1/runs", headers={"Authorization": f"Basic {canaries.text('basic auth')}"})
        await self.ask("GET", f"/v1/runs?api_token={canaries.text('token in a query')}")
        await self.ask("GET", "/v1/runs", headers={"Cookie": f"session={canaries.text('cookie')}"})

    async def look_everywhere(self) -> None:
        """Every call that shows something."""
        for noun in ("runs", "endpoints?one_run=true", "events", "deliveries", "connections", "replays"):
            listed = await self.ask(
                "GET",
                f"/v1/{noun}{'&' if '?' in noun else '?'}limit=200" if noun != "connections" else "/v1/connections",
            )
            for thing in listed["data"][:40]:
                if "id" in thing and noun != "connections":
                    await self.ask("GET", f"/v1/{noun.partition('?')[0]}/{thing['id']}")
        for path in ("/metrics", "/openapi.json", "/healthz", "/readyz", "/"):
            await self.ask("GET", path)


def swap_secrets(database: Path, one: str, other: str) -> None:
    """Give one endpoint the encrypted secret of another, as a person with a copy of the file could."""
    connection = sqlite3.connect(database)
    with connection:
        (taken,) = connection.execute("SELECT secret FROM endpoint_secrets WHERE endpoint_id = ?", (other,)).fetchone()
        connection.execute("UPDATE endpoint_secrets SET secret = ? WHERE endpoint_id = ?", (taken, one))
    connection.close()


async def output_of(daemon: DaemonProcess, *words: str) -> str:
    """The output of a command."""
    command = [sys.executable, "-m", "bridge", *words, "--config", str(daemon.config_path)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


async def test_no_secret_shows_up_anywhere_but_where_it_is_shown_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canaries = Canaries({"api_token": TOKEN})
    provider_key = canaries.text("sandbox api_key")
    async with Sandbox(api_key=provider_key) as sandbox, Receiver() as receiver, foreign_server(echoing) as provider:
        leading_on = (
            f"https://u:{canaries.text('password in a redirect')}@x.example/?t={canaries.text('query of a redirect')}"
        )
        receiver.always(Reply(302, headers={"Location": leading_on}), path="/leading-on")
        receiver.always(Reply(500, body="no"), path="/refusing")
        daemon = configured(tmp_path, canaries, sandbox, provider.url, receiver, monkeypatch)
        story = Story(daemon, canaries, receiver)
        async with daemon:
            endpoints = await story.make_endpoints()
            await story.register(sandbox)
            await story.be_wrong()
            await receiver.wait_for(lambda got: sum(one.path.startswith("/own") for one in got) >= 3, 90)
            await daemon.eventually("/v1/deliveries?state=exhausted", lambda shown: len(shown["data"]) >= 2)
            for name in endpoints:
                await story.ask("POST", f"/v1/endpoints/{endpoints[name]['id']}/ping", {})
                await story.ask(
                    "POST", f"/v1/endpoints/{endpoints[name]['id']}/replay", {"since": "2020-01-01T00:00:00Z"}
                )
            await story.look_everywhere()
            await daemon.reload()
            backup = await output_of(daemon, "db", "backup", str(tmp_path / "copy.db"))
            for words in (
                ("config", "show", "--origin"),
                ("config", "check"),
                ("doctor", "--offline"),
                ("endpoints", "list"),
            ):
                story.answers.append((" ".join(words), (await output_of(daemon, *words)).encode()))
            story.answers.append(("db backup", backup.encode()))
            canaries.search("the backup", (tmp_path / "copy.db").read_bytes(), holds_urls=True)
            await daemon.stop()
            swap_secrets(daemon.database, endpoints["swapped"]["id"], endpoints["unheard"]["id"])
            await daemon.restart()
            event = (await story.ask("POST", f"/v1/endpoints/{endpoints['swapped']['id']}/ping", {}))["event_id"]
            (delivery,) = (
                await daemon.eventually(f"/v1/deliveries?event={event}", lambda d: d["data"][0]["attempts"])
            )["data"]
            assert delivery["last_outcome"] == "unsigned"
            assert "another row" in delivery["attempts"][0]["detail"]
            await story.ask("POST", f"/v1/endpoints/{endpoints['good']['id']}/ping", {})
            await story.look_everywhere()
            await daemon.kill()

            canaries.search("the log", daemon.log_since())
            for what, answer in story.answers:
                canaries.search(what, answer)
            for path in tmp_path.glob("runbridge.db*"):
                canaries.search(path.name, path.read_bytes(), holds_urls=True)
    assert len(canaries.planted) >= PLANTED_MIN
    assert canaries.found == []
    assert len(story.answers) > 100
    assert len(provider.seen) > 20


@pytest.mark.parametrize(
    "spell", [str, json.dumps, lambda value: base64.b64encode(value.encode()).decode(), lambda v: v[:20]]
)
def test_the_search_finds_a_canary_however_it_is_spelled(spell: Callable[[str], str]) -> None:
    canaries = Canaries()
    value = canaries.text("a place")
    canaries.search("elsewhere", f'{{"x": "{spell(value)}"}}')
    assert canaries.found == ["a place in elsewhere"]


async def test_a_refused_configuration_repeats_none_of_the_secrets_in_it(tmp_path: Path) -> None:
    canaries = Canaries()
    daemon = DaemonProcess(tmp_path)
    daemon.config["server"]["api_token"] = canaries.text("token with a line break") + "\nx"
    daemon.config["server"]["api_tokn"] = canaries.text("unknown key")
    daemon.config["database"]["url"] = f"postgres://u:{canaries.text('database password')}@localhost/x"
    daemon.config["secrets"] = {"key": canaries.text("malformed key"), "old_keys": canaries.text("malformed old key")}
    daemon.add_connection("a", "dify", f"http://127.0.0.1/?key={canaries.text('query of a base url')}")
    daemon.add_connection("b", "dify", f"http://u:{canaries.text('password in a base url')}@127.0.0.1/")
    daemon.add_connection("c", "dify", "http://127.0.0.1", api_key=canaries.text("key with a tab") + "\tx")
    daemon.add_endpoint(
        "d", f"http://u:{canaries.text('password in an endpoint')}@127.0.0.1/", secret=canaries.text("no secret")
    )
    daemon.add_endpoint("e", "http://127.0.0.1/", headers={"webhook-id": canaries.text("refused header")})
    daemon.add_endpoint("f", "http://127.0.0.1/", headers={"x-key": canaries.text("header with a line break") + "\n"})
    code, said = await daemon.run_to_end()
    assert code == 1
    canaries.search("what it said", said)
    canaries.search("config check", await output_of(daemon, "config", "check"))
    assert canaries.found == []
    assert len(canaries.planted) >= 10
    assert len(said.splitlines()) >= 10
