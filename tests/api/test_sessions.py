"""Signing in to the dashboard: sessions by cookie, one-time links, and who may do what with them."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
import sqlalchemy as sa

from bridge.api.authentication import DashboardRules
from bridge.api.routes import ROUTES
from bridge.api.server import RULES, build_app, main_token, start_server
from bridge.domain.api_token import ApiToken, Scope
from bridge.domain.secret import Secret
from bridge.store.tables import sessions
from tests.support.api_bridge import TOKEN, Api, Reply

SAME = {"Sec-Fetch-Site": "same-origin"}
READER = ApiToken("reader", Secret("token-of-reader"), Scope.READ)


def cookie_of(reply: Reply) -> dict[str, str]:
    """The cookies that a browser sends back."""
    return {"Cookie": reply.headers["Set-Cookie"].partition(";")[0]}


async def sign_in(api: Api, token: str = TOKEN, **headers: str) -> Reply:
    return await api.call("POST", "/v1/session", {"token": token}, token=None, headers=headers)


@dataclass
class Browser:
    """A browser that is signed in."""

    api: Api
    cookie: dict[str, str]

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        return await self.api.call(method, path, body, token=None, headers={**self.cookie, **headers})


async def browser(api: Api, token: str = TOKEN) -> Browser:
    reply = await sign_in(api, token)
    assert reply.status == 201, reply.body
    return Browser(api, cookie_of(reply))


async def test_a_token_opens_a_session_whose_cookie_scripts_and_other_sites_cannot_use(api: Api) -> None:
    reply = await sign_in(api)
    assert (reply.status, reply.body["token"], reply.body["scope"]) == (201, "api_token", "admin")
    name, *attributes = reply.headers["Set-Cookie"].split("; ")
    assert name.startswith(f"runbridge-{api.url.rpartition(':')[2]}=")
    assert sorted(attributes) == ["HttpOnly", "Path=/v1", "SameSite=Strict"]
    signed_in = Browser(api, cookie_of(reply))
    assert (await signed_in.call("GET", "/v1/runs")).status == 200
    shown = await signed_in.call("GET", "/v1/session")
    assert shown.body == reply.body
    assert (await api.call("GET", "/v1/session")).body["id"] is None


async def test_behind_tls_the_cookie_is_secure_and_bound_to_its_host(sqlite_api: Api) -> None:
    reply = await sign_in(sqlite_api, Origin="https://bridge.example.org")
    assert reply.headers["Set-Cookie"].startswith("__Host-runbridge=")
    assert {"Secure", "HttpOnly", "SameSite=Strict", "Path=/"} <= set(reply.headers["Set-Cookie"].split("; "))
    assert (await Browser(sqlite_api, cookie_of(reply)).call("GET", "/v1/runs")).status == 200


async def test_the_database_holds_no_secret_of_a_session(api: Api) -> None:
    secret = cookie_of(await sign_in(api))["Cookie"].partition("=")[2]
    rows = await api.database.read(lambda tx: tx.connection.execute(sa.select(sessions)).all())
    assert len(rows) == 1
    assert secret not in str(rows)
    assert TOKEN not in str(rows)


async def test_with_the_cookie_a_change_must_come_from_a_page_of_ours(api: Api) -> None:
    """Another port of the same host is the same site, but another origin."""
    signed_in, run = await browser(api), await api.register()
    path = f"/v1/runs/{run['id']}/poll"
    for site in ("same-site", "cross-site", "none", "Same-Origin"):
        assert (await signed_in.call("POST", path, {}, **{"Sec-Fetch-Site": site})).status == 403
    refused = await signed_in.call("POST", path, {})
    assert (refused.status, "Sec-Fetch-Site" in refused.body["detail"]) == (403, True)
    assert (await signed_in.call("POST", path, {}, Origin="http://127.0.0.1:1")).status == 403
    assert (await signed_in.call("DELETE", "/v1/session")).status == 403
    assert (await signed_in.call("POST", path, {}, Origin=api.url)).status == 202
    assert (await signed_in.call("POST", path, {}, **SAME)).status == 202


async def test_another_site_cannot_sign_a_browser_in(sqlite_api: Api) -> None:
    assert (await sign_in(sqlite_api, **{"Sec-Fetch-Site": "cross-site"})).status == 403


async def test_signing_out_ends_the_session_and_removes_the_cookie(api: Api) -> None:
    signed_in = await browser(api)
    reply = await signed_in.call("DELETE", "/v1/session", **SAME)
    assert (reply.status, reply.content) == (204, b"")
    assert reply.headers["Set-Cookie"].startswith(signed_in.cookie["Cookie"].partition("=")[0] + "=;")
    assert "Max-Age=0" in reply.headers["Set-Cookie"]
    after = await signed_in.call("GET", "/v1/runs")
    assert (after.status, "sign in again" in after.body["detail"]) == (401, True)


async def test_a_session_ends_an_hour_after_its_last_use_and_after_twelve_hours(api: Api) -> None:
    idle, used = await browser(api), await browser(api)
    for _ in range(12):
        api.clock.advance(3500)
        assert (await used.call("GET", "/v1/runs")).status == 200
    assert (await idle.call("GET", "/v1/runs")).status == 401
    api.clock.advance(1300)
    assert (await used.call("GET", "/v1/runs")).status == 401


async def test_a_session_can_be_ended_from_elsewhere(api: Api) -> None:
    signed_in = await browser(api)
    (listed,) = (await api.call("GET", "/v1/sessions")).body["data"]
    assert listed["token"] == "api_token"
    assert (await api.call("DELETE", f"/v1/sessions/{listed['id']}")).status == 204
    assert (await api.call("DELETE", f"/v1/sessions/{listed['id']}")).status == 404
    assert (await signed_in.call("GET", "/v1/runs")).status == 401
    assert (await api.call("GET", "/v1/sessions")).body["data"] == []


async def test_the_event_stream_follows_the_cookie_and_ends_with_the_session(
    sqlite_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.api.stream.HEARTBEAT_S", 0.05)
    monkeypatch.setattr("bridge.api.stream.RECHECK_S", 0.02)
    signed_in = await browser(sqlite_api)
    async with sqlite_api.session.get(f"{sqlite_api.url}/v1/events/stream", headers=signed_in.cookie) as stream:
        assert stream.status == 200
        assert await stream.content.readuntil(b": ping\n\n")
        await signed_in.call("DELETE", "/v1/session", **SAME)
        await stream.content.read()  # to its end


async def test_a_link_signs_in_once_within_a_minute_with_the_scope_of_its_token(api: Api) -> None:
    made = (await api.call("POST", "/v1/session/link")).body
    assert made["fragment"] == f"#sign-in={made['link']}"
    body = {"link": made["link"]}
    reply = await api.call("POST", "/v1/session", body, token=None)
    assert (reply.status, reply.body["token"], reply.body["scope"]) == (201, "api_token", "admin")
    assert (await Browser(api, cookie_of(reply)).call("GET", "/v1/runs")).status == 200
    again = await api.call("POST", "/v1/session", body, token=None)
    assert (again.status, "link" in again.body["detail"]) == (401, True)
    late = (await api.call("POST", "/v1/session/link")).body["link"]
    api.clock.advance(61)
    assert (await api.call("POST", "/v1/session", {"link": late}, token=None)).status == 401


async def test_a_link_is_no_session_and_a_session_makes_no_link(sqlite_api: Api) -> None:
    signed_in = await browser(sqlite_api)
    link = (await sqlite_api.call("POST", "/v1/session/link")).body["link"]
    name = signed_in.cookie["Cookie"].partition("=")[0]
    assert (await Browser(sqlite_api, {"Cookie": f"{name}={link}"}).call("GET", "/v1/runs")).status == 401
    assert (await signed_in.call("POST", "/v1/session/link", {}, **SAME)).status == 403


@pytest.mark.parametrize("body", [{}, {"token": TOKEN, "link": "x"}, {"token": 1}, {"token": ""}, {"pass": "x"}])
async def test_a_sign_in_names_one_secret(sqlite_api: Api, body: object) -> None:
    assert (await sqlite_api.call("POST", "/v1/session", body, token=None)).status == 422


async def test_wrong_tries_are_counted_and_answered_ever_more_slowly(sqlite_api: Api) -> None:
    delays: list[float] = []

    async def sleep(delay_s: float) -> None:
        delays.append(delay_s)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bridge.api.sessions.asyncio.sleep", sleep)
        for _ in range(8):
            assert (await sign_in(sqlite_api, "wrong")).status == 401
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert (await sqlite_api.call("GET", "/v1/runs", token="wrong")).status == 401
    text = (await sqlite_api.call("GET", "/metrics")).content.decode()
    assert 'runbridge_wrong_tokens_total{at="sign_in"} 8.0' in text
    assert 'runbridge_wrong_tokens_total{at="request"} 1.0' in text
    assert (await sign_in(sqlite_api)).status == 201


async def test_guessing_in_parallel_is_refused_before_any_token_is_compared(sqlite_api: Api) -> None:
    import asyncio

    go = asyncio.Event()

    async def sleep(_: float) -> None:
        await go.wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bridge.api.sessions.asyncio.sleep", sleep)
        wrong = [asyncio.create_task(sign_in(sqlite_api, "wrong")) for _ in range(4)]
        while True:
            refused = await sign_in(sqlite_api)
            if refused.status == 429:
                break
        assert refused.headers["Retry-After"] == "5"
        go.set()
        assert {(await task).status for task in wrong} == {401}
    assert (await sign_in(sqlite_api)).status == 201


async def test_scope_read_only_and_off_bind_the_session_and_a_changed_token_ends_it(sqlite_api: Api) -> None:
    """All of it by a reload, as an operator does it."""
    app = build_app(
        database=sqlite_api.database,
        clock=sqlite_api.clock,
        bridge=sqlite_api.bridge,
        api_token=Secret(TOKEN),
        tokens=(READER,),
        allowed_hosts=frozenset({"127.0.0.1"}),
        body_bytes_max=10_000,
        version="1.2.3",
    )
    async with AsyncExitStack() as stack:
        runner, address = await start_server(app, "127.0.0.1:0")
        stack.push_async_callback(runner.cleanup)
        api = Api(sqlite_api.session, f"http://{address}", sqlite_api.database, sqlite_api.bridge, sqlite_api.clock)
        run, hosts = await api.register(), frozenset({"127.0.0.1"})
        path = f"/v1/runs/{run['id']}/poll"

        def reload(*tokens: ApiToken, **dashboard: bool) -> list[str]:
            return app[RULES].change(tokens, hosts, 10_000, DashboardRules(**dashboard))

        admin, reader = await browser(api), await browser(api, READER.token.reveal())
        assert (await admin.call("POST", path, {}, **SAME)).status == 202
        refused = await reader.call("POST", path, {}, **SAME)
        assert (refused.status, "has the scope 'read'" in refused.body["detail"]) == (403, True)
        assert (await reader.call("DELETE", "/v1/session", **SAME)).status == 204

        reload(main_token(Secret(TOKEN)), READER, read_only=True)
        shown = (await admin.call("GET", "/v1/session")).body
        assert (shown["scope"], shown["read_only"]) == ("read", True)
        assert (await admin.call("POST", path, {}, **SAME)).status == 403
        reader = await browser(api, READER.token.reveal())
        changing = [one for one in ROUTES if one.method != "GET" and one.path != "/v1/session"]
        for route in changing:  # whatever there is, and before anything about it is looked up
            address = re.sub(r"{\w+}", run["id"], route.path)
            for signed_in in (admin, reader):
                reply = await signed_in.call(route.method, address, None if route.method == "DELETE" else {}, **SAME)
                assert (route.path, reply.status) == (route.path, 403)
        assert len(changing) > 20
        assert (await api.call("POST", path, {})).status == 202

        reload(main_token(Secret(TOKEN)), enabled=False)
        assert (await admin.call("GET", "/v1/session")).status == 401
        off = await sign_in(api)
        assert (off.status, "[dashboard]" in off.body["detail"]) == (404, True)
        assert (await api.call("GET", "/", token=None)).status == 404

        assert reload(main_token(Secret(TOKEN)), READER) == []
        assert (await admin.call("GET", "/v1/session")).status == 200
        assert reload(main_token(Secret("another-token"))) == [main_token(Secret(TOKEN)).name, READER.name]
        assert (await admin.call("GET", "/v1/session")).status == 401


async def test_a_header_counts_before_a_cookie(sqlite_api: Api) -> None:
    """A program that sends both is held to what it says; a wrong header is not rescued by the cookie."""
    signed_in = await browser(sqlite_api)
    reply = await signed_in.call("GET", "/v1/runs", Authorization="Bearer wrong")
    assert reply.status == 401


async def test_a_browser_keeps_the_cookie_for_the_api_alone(sqlite_api: Api) -> None:
    """As a real cookie jar sees it."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as client:
        async with client.post(f"{sqlite_api.url}/v1/session", json={"token": TOKEN}) as reply:
            assert reply.status == 201
        async with client.get(f"{sqlite_api.url}/v1/runs") as reply:
            assert reply.status == 200
        async with client.get(f"{sqlite_api.url}/metrics") as reply:
            assert reply.status == 401
