"""`runbridge sandbox …`: fake providers and a receiver, to try the daemon without an account.

Each prints one line of JSON with its addresses once it listens; SIGTERM and Ctrl-C end it with code 0.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import click

from bridge.cli.options import combined
from bridge.domain.definition import DefinitionInvalid
from bridge.domain.errors import BridgeError

if TYPE_CHECKING:
    from bridge.domain.run import Json
    from bridge.sandbox.http_server import HttpServer

S = TypeVar("S", bound="HttpServer")
USUAL_KEY: Final = "sandbox-key"


@click.group
def sandbox() -> None:
    """Fake providers, and a receiver that verifies signatures."""


address_options = combined(
    click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on."),
    click.option("--port", type=click.IntRange(0, 65535), default=0, help="The port to listen on; 0 takes a free one."),
)


@sandbox.command
@click.option("--key", default=USUAL_KEY, show_default=True, help="The API key that they accept.")
@click.option("--ib-context", metavar="ID", help="The IB-Context that Instabase requires.")
@click.option("--dify-missing-is-null", is_flag=True, help="Answer unknown Dify runs as old servers do.")
@click.option(
    "--definition",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Play one provider instead, by the fixtures of this definition.",
)
@click.option("--step", type=float, default=3.0, show_default=True, help="Seconds that each fixture of it lasts.")
@address_options
def providers(
    key: str,
    ib_context: str | None,
    dify_missing_is_null: bool,
    definition: Path | None,
    step: float,
    host: str,
    port: int,
) -> int:
    """Play Dibby, Retab, Dify and Instabase on one port, or one provider by its definition.

    POST {"provider": "dify", "life": {"duration_s": 5}} to /_control/runs adds a run to one of the four.
    """
    from bridge.sandbox.defined import DefinedSandbox
    from bridge.sandbox.server import Sandbox

    def build() -> Sandbox | DefinedSandbox:
        if definition is not None:
            return DefinedSandbox(definition, key=key, step_s=step)
        return Sandbox(api_key=key, ib_context=ib_context, dify_missing_is_null=dify_missing_is_null)

    def addresses(served: Sandbox | DefinedSandbox) -> Json:
        return {"url": served.origin, "providers": {name: served.url(name) for name in served.providers}}

    return _run("providers", build, addresses, host, port)


@sandbox.command
@click.option("--secret", metavar="whsec_…", multiple=True, help="A signing secret; may be given several times.")
@address_options
def receiver(secret: tuple[str, ...], host: str, port: int) -> int:
    """Receive webhooks, verify their signatures, and show them at /_received.

    Without a secret nothing can be verified, and everything is accepted.
    """
    from bridge.sandbox.receiver import Receiver

    def addresses(served: Receiver) -> Json:
        return {"url": served.url(), "received": served.url("/_received")}

    return _run("receiver", lambda: Receiver(*secret), addresses, host, port)


def _run(what: str, build: Callable[[], S], addresses: Callable[[S], Json], host: str, port: int) -> int:
    """Serve until a signal. Raises BridgeError if the address or a secret cannot be used."""
    try:
        asyncio.run(_serve(build, addresses, host, port))
    except DefinitionInvalid as invalid:
        for mistake in invalid.mistakes:
            click.echo(str(mistake), err=True)
        return 1
    except (OSError, ValueError, BridgeError) as problem:
        raise BridgeError(f"sandbox {what} cannot start: {problem}") from None
    return 0


async def _serve(build: Callable[[], S], addresses: Callable[[S], Json], host: str, port: int) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    served = build()
    await served.start(host, port)
    try:
        click.echo(json.dumps(addresses(served)))
        await stopped.wait()
    finally:
        await served.stop()
