"""The sandbox as processes of its own: `python -m bridge.sandbox providers` and `… receiver`.

A process prints one line of JSON with its addresses once it listens; SIGTERM and Ctrl-C end it with code 0.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from bridge.domain.definition import DefinitionInvalid
from bridge.domain.errors import BridgeError
from bridge.sandbox.defined import DefinedSandbox
from bridge.sandbox.receiver import Receiver
from bridge.sandbox.server import SANDBOX_KEY, Sandbox


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal; 1 if the address or a secret cannot be used."""
    given = _parser().parse_args(arguments)
    try:
        asyncio.run(_serve(given))
    except DefinitionInvalid as invalid:
        sys.stderr.write("".join(f"{mistake}\n" for mistake in invalid.mistakes))
        return 1
    except (OSError, ValueError, BridgeError) as problem:
        sys.stderr.write(f"{given.what} cannot start: {problem}\n")
        return 1
    return 0


async def _serve(given: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    served = _providers(given) if given.what == "providers" else Receiver(*given.secret)
    await served.start(given.host, given.port)
    try:
        sys.stdout.write(json.dumps(_addresses(served)) + "\n")
        sys.stdout.flush()
        await stopped.wait()
    finally:
        await served.stop()


def _providers(given: argparse.Namespace) -> Sandbox | DefinedSandbox:
    if given.definition is not None:
        return DefinedSandbox(given.definition, key=given.key, step_s=given.step)
    return Sandbox(api_key=given.key, ib_context=given.ib_context, dify_missing_is_null=given.dify_missing_is_null)


def _addresses(served: Sandbox | DefinedSandbox | Receiver) -> dict[str, object]:
    if isinstance(served, Receiver):
        return {"url": served.url(), "received": served.url("/_received")}
    return {"url": served.origin, "providers": {name: served.url(name) for name in served.providers}}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bridge.sandbox", description=__doc__)
    kinds = parser.add_subparsers(dest="what", required=True)
    providers = kinds.add_parser("providers", help="fake Dibby, Retab, Dify and Instabase on one port")
    providers.add_argument("--key", default=SANDBOX_KEY, help="the API key they accept (default: %(default)s)")
    providers.add_argument("--ib-context", help="the IB-Context that Instabase requires (default: none)")
    providers.add_argument(
        "--dify-missing-is-null", action="store_true", help="answer unknown Dify runs as old servers do"
    )
    providers.add_argument(
        "--definition",
        type=Path,
        metavar="FILE",
        help="one provider instead, which plays the fixtures of this definition",
    )
    providers.add_argument(
        "--step", type=float, default=3.0, help="seconds that each of the fixtures lasts (default: %(default)s)"
    )
    receiver = kinds.add_parser("receiver", help="a receiver of webhooks that verifies signatures")
    receiver.add_argument("--secret", action="append", default=[], help="whsec_…, may be given several times")
    for kind in (providers, receiver):
        kind.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
        kind.add_argument("--port", type=int, default=0, help="port to listen on, 0 takes a free one")
    return parser


if __name__ == "__main__":
    sys.exit(main())
