"""The page about TLS: its nginx and its Caddy in front of a daemon, and in front of a receiver."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
import trustme
from aiohttp.abc import AbstractResolver, ResolveResult
from playwright.async_api import async_playwright, expect

from bridge.api.request_models import WAIT_MAX_S
from bridge.sandbox.scenarios import Scenario
from tests.support.daemon_process import TOKEN
from tests.support.daemon_setup import DaemonSetup, daemon_setup
from tests.support.dashboard import FLAGS, sign_in
from tests.support.manual import block
from tests.support.ports import free_port, listens
from tests.support.waiting import until

HOST = "runbridge.example.org"
NGINX = """daemon off;
user root;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
{sites}
}}
"""
CADDY = """{{
    admin off
    auto_https disable_redirects
    storage file_system {folder}
}}
{sites}
"""

pytestmark = pytest.mark.slow  # each test starts a daemon and a proxy


@dataclass(frozen=True)
class Proxy:
    """A site for the daemon at `url`, one for the receiver at `hooks`, with certificates of one authority."""

    url: str
    hooks: str
    authority: Path


@dataclass(frozen=True)
class Site:
    """A site of the page as the test runs it: its name and port, its certificate, and the server behind it."""

    host: str
    port: int
    certificate: Path
    key: Path
    upstream: str


def nginx_site(site: Site) -> str:
    """The server of the page at this place; `upstream` is HOST:PORT or unix:PATH."""
    return replaced(
        block("nginx"),
        {
            "listen 443 ssl": f"listen 127.0.0.1:{site.port} ssl",
            HOST + ";": site.host + ";",
            f"/etc/ssl/{HOST}/fullchain.pem": str(site.certificate),
            f"/etc/ssl/{HOST}/privkey.pem": str(site.key),
            "http://127.0.0.1:8484": f"http://{site.upstream}",
        },
    )


def caddy_site(site: Site) -> str:
    """The site of the page at this place. It would ask a public authority for a certificate; here it is given one."""
    return replaced(
        block("caddy"),
        {
            HOST + " {": f"{site.host}:{site.port} {{\n    bind 127.0.0.1\n    tls {site.certificate} {site.key}",
            "127.0.0.1:8484": site.upstream.replace("unix:", "unix/"),
        },
    )


def replaced(text: str, places: dict[str, str]) -> str:
    """Each place stands there once."""
    for shown, here in places.items():
        assert text.count(shown) == 1, shown
        text = text.replace(shown, here)
    return text


SERVERS: dict[str, tuple[str, Callable[[Site], str], tuple[str, ...]]] = {
    "nginx": (NGINX, nginx_site, ("/usr/sbin/nginx", "-c", "CONFIG")),
    "caddy": (CADDY, caddy_site, ("/usr/bin/caddy", "run", "--adapter", "caddyfile", "--config", "CONFIG")),
}


@asynccontextmanager
async def proxy(kind: str, folder: Path, setup: DaemonSetup, daemon_at: str) -> AsyncIterator[Proxy]:
    """The proxy of the page, twice: before the daemon and before the receiver."""
    authority = trustme.CA()
    issued = authority.issue_cert(HOST, "localhost")
    (folder / "key.pem").write_bytes(issued.private_key_pem.bytes())
    (folder / "chain.pem").write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    authority.cert_pem.write_to_path(folder / "ca.pem")
    files, behind = (folder / "chain.pem", folder / "key.pem"), urlsplit(setup.receiver.url()).netloc
    sites = Site(HOST, free_port(), *files, daemon_at), Site("localhost", free_port(), *files, behind)
    frame, written, command = SERVERS[kind]
    config = folder / "proxy.conf"
    config.write_text(frame.format(folder=folder, sites="\n".join(map(written, sites))))
    with (folder / "proxy.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(str(config) if word == "CONFIG" else word for word in command),
            stdout=log,
            stderr=log,
            env={**os.environ, "HOME": str(folder)},
            start_new_session=True,
        )
    try:
        for site in sites:
            await until(lambda port=site.port: listens(port), what=f"a start of {kind}")
        yield Proxy(f"https://{HOST}:{sites[0].port}", f"https://localhost:{sites[1].port}/app", folder / "ca.pem")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


class Here(AbstractResolver):
    """Every name is this machine."""

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        """127.0.0.1."""
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": 2, "proto": 0, "flags": 0}]

    async def close(self) -> None:
        """Nothing to do."""


@asynccontextmanager
async def client(through: Proxy) -> AsyncIterator[aiohttp.ClientSession]:
    """A client from elsewhere, which trusts the proxy's certificate."""
    tls = ssl.create_default_context(cafile=through.authority)
    connector = aiohttp.TCPConnector(ssl=tls, resolver=Here())
    async with aiohttp.ClientSession(through.url, connector=connector) as session:
        yield session


@asynccontextmanager
async def served(kind: str, folder: Path, listen: str) -> AsyncIterator[tuple[DaemonSetup, Proxy]]:
    """A running daemon as the page configures it, whose one endpoint is a receiver behind the same proxy."""
    server = {"listen": listen, "api_token": TOKEN, "allowed_hosts": [HOST]}
    async with (
        daemon_setup(folder, "dify", endpoints=(), server=server) as setup,
        proxy(kind, folder, setup, listen) as through,
    ):
        setup.receiver.add_secret(setup.daemon.add_endpoint("app", through.hooks), path="/app")
        setup.daemon.environ["SSL_CERT_FILE"] = str(through.authority)
        async with setup.daemon:
            yield setup, through
            await setup.daemon.stop()


@pytest.mark.parametrize("over", ["tcp", "unix"])
@pytest.mark.parametrize("kind", SERVERS)
async def test_calls_the_stream_and_signed_webhooks_pass_the_proxies_of_the_page(
    kind: str, over: str, tmp_path: Path
) -> None:
    listen = f"127.0.0.1:{free_port()}" if over == "tcp" else f"unix:{tmp_path}/api.sock"
    async with served(kind, tmp_path, listen) as (setup, through), client(through) as session:
        as_a_page = {"Origin": through.url, "Sec-Fetch-Site": "same-origin"}
        async with session.post("/v1/session", json={"token": TOKEN}, headers=as_a_page) as answer:
            assert answer.status == 201
            assert "; Secure" in answer.headers["set-cookie"]
            cookie = answer.headers["set-cookie"].partition(";")[0]
        theirs = setup.sandbox.add_run("dify", scenario=Scenario(duration_s=1, output={"text": "Zwölf ✓"}), age_s=60)
        async with session.get(
            "/v1/events/stream", headers={"Cookie": cookie}, timeout=aiohttp.ClientTimeout()
        ) as feed:
            assert (feed.status, feed.content_type) == (200, "text/event-stream")
            bearer = {"Authorization": f"Bearer {TOKEN}"}
            wanted = {"connection": "dify", "provider_run_id": theirs}
            async with session.post("/v1/runs", json=wanted, headers=bearer) as answer:
                assert answer.status == 201
                run = await answer.json()
            async with asyncio.timeout(60), session.get(f"/v1/runs/{run['id']}/wait", headers=bearer) as answer:
                assert (await answer.json())["settled"]
            async with asyncio.timeout(60):
                while not (line := await feed.content.readline()).startswith(b"data: "):
                    assert line, "the stream ended"
        seen = json.loads(line.removeprefix(b"data: "))
        (arrived,) = await setup.wait_for_posts(1, "/app")
        assert (arrived.verified, arrived.id, arrived.event) == (True, seen["id"], seen)
        large = {"runs": [], "padding": "x" * 6_000_000}
        async with session.post("/v1/runs/batch", json=large, headers=bearer) as answer:
            assert (answer.status, answer.content_type) == (422, "application/problem+json"), "the daemon's own answer"


@pytest.mark.parametrize("kind", SERVERS)
async def test_the_dashboard_is_live_behind_the_proxies_of_the_page(kind: str, tmp_path: Path) -> None:
    flags = [*FLAGS.split(), f"--host-resolver-rules=MAP {HOST} 127.0.0.1"]
    async with (
        served(kind, tmp_path, f"127.0.0.1:{free_port()}") as (setup, through),
        async_playwright() as playwright,
        await playwright.chromium.launch(executable_path="/usr/bin/chromium", args=flags) as browser,
    ):
        page = await browser.new_page(ignore_https_errors=True)
        await sign_in(page, through.url)
        await expect(page.get_by_text("Live", exact=True)).to_be_visible()
        await page.goto(f"{through.url}/#/events")
        run = await setup.register(Scenario(duration_s=1), age_s=60)
        await setup.daemon.finish_of(run["id"])
        await expect(page.get_by_role("table").get_by_text("run.finished").first).to_be_visible()


def test_nginx_waits_longer_than_the_longest_wait() -> None:
    (timeout,) = re.findall(r"proxy_read_timeout (\d+)s;", block("nginx"))
    assert int(timeout) > WAIT_MAX_S
