"""A daemon with everything around it: the fake providers that it polls and a receiver for its webhooks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bridge.sandbox import Received, Receiver, Sandbox, Scenario
from tests.support.daemon_process import DaemonProcess

ALL_PROVIDERS = ("dibby", "retab", "dify", "instabase")


class DaemonSetup(NamedTuple):
    """A daemon that is configured but not started, and its surroundings, which are listening."""

    daemon: DaemonProcess
    sandbox: Sandbox
    receiver: Receiver

    async def register(self, scenario: Scenario, *, age_s: float = 0, **more: Any) -> dict[str, Any]:
        """Make a run at Dify and register it."""
        theirs = self.sandbox.add_run("dify", scenario=scenario, age_s=age_s)
        return await self.daemon.register("dify", theirs, **more)

    async def add_endpoint(self, path: str, **more: Any) -> dict[str, Any]:
        """Create an endpoint through the API; the receiver learns its secret."""
        made = await self.daemon.ask("POST", "/v1/endpoints", {"url": self.receiver.url(path), **more}, status=201)
        self.receiver.add_secret(made["secret"], path=path)
        return dict(made)

    def posts(self, *paths: str) -> list[Received]:
        """The posts that arrived at these paths so far."""
        return [one for one in self.receiver.received if one.path in paths]

    async def wait_for_posts(self, number: int, *paths: str) -> list[Received]:
        """Wait for `number` posts at these paths; returns them."""
        await self.receiver.wait_for(lambda _: len(self.posts(*paths)) >= number, 60)
        return self.posts(*paths)


@asynccontextmanager
async def daemon_setup(
    folder: Path,
    *providers: str,
    database_url: str | None = None,
    endpoints: Sequence[str] = ("app",),
    api_key: str = "sandbox-key",
    **tables: dict[str, Any],
) -> AsyncIterator[DaemonSetup]:
    """A daemon with one connection per provider (all four unless named) and one endpoint per name, at `/<name>`.

    `tables` are further sections of its configuration. The caller starts it: `async with setup.daemon`.
    """
    async with Sandbox(api_key=api_key) as sandbox, Receiver() as receiver:
        daemon = DaemonProcess(folder, database_url, **tables)
        for provider in providers or ALL_PROVIDERS:
            daemon.add_connection(provider, provider, sandbox.url(provider))
        for name in endpoints:
            path = f"/{name}"
            receiver.add_secret(daemon.add_endpoint(name, receiver.url(path)), path=path)
        yield DaemonSetup(daemon, sandbox, receiver)
