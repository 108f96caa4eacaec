"""`runbridge guard …`: explain whether the daemon may post to an address."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket

import click

from bridge.cli.options import Settings, file_options
from bridge.cli.output import mark, print_value, say
from bridge.config.load import ConfigInvalid
from bridge.config.locate import find_config
from bridge.config.reach import read_delivery, read_endpoint_urls, read_reach
from bridge.delivery.address_guard import Explanation, explain
from bridge.domain.addresses.policy import AddressPolicy, AllowRule, Trust, Verdict


@click.group
def guard() -> None:
    """Explain whether the daemon may post to an address."""


@guard.command("explain")
@click.argument("url")
@click.option(
    "--trust",
    type=click.Choice([trust.value for trust in Trust]),
    help="Judge it as an endpoint created over the API, or as one of the configuration file; default: as the file's "
    "endpoint if it names one, by its URL or its name.",
)
@file_options
def explain_url(settings: Settings, url: str, trust: str | None) -> int:
    """Show which rule decides about URL, and which line of configuration would allow it; exit 1 if it is refused."""
    path = find_config(settings.config_path, os.environ)
    delivery = read_delivery(path, env=os.environ)
    configured = read_endpoint_urls(path, env=os.environ)
    url = configured.get(url, url)
    assumed = Trust.CONFIG if url in configured.values() else Trust.API
    policy = AddressPolicy(
        Trust(trust) if trust else assumed,
        allow=tuple(AllowRule.parse(text) for text in delivery.allow),
        allow_http=delivery.allow_http,
        own=own_addresses(settings),
    )
    found = asyncio.run(explain(url, policy))
    if settings.as_json:
        print_value({"url": found.url, "allowed": found.allowed, "problem": found.problem, "addresses": _shown(found)})
    else:
        _print(found)
    return 0 if found.allowed else 1


def own_addresses(settings: Settings) -> tuple[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int], ...]:
    """The addresses that the daemon listens on, which it never posts to; none for a Unix socket."""
    try:
        listen, _ = read_reach(find_config(settings.config_path, os.environ), env=os.environ)
        found = socket.getaddrinfo(listen.host, listen.port, type=socket.SOCK_STREAM) if listen.host else []
        return tuple((ipaddress.ip_address(peer[0]), int(peer[1])) for *_, peer in found)
    except (ConfigInvalid, OSError, ValueError):
        return ()


def _shown(found: Explanation) -> list[dict[str, object]]:
    return [
        {
            "address": address,
            "allowed": verdict.allowed,
            "rule": verdict.rule,
            "detail": verdict.detail,
            "allow_line": verdict.allow_line,
        }
        for address, verdict in found.verdicts
    ]


def _print(found: Explanation) -> None:
    if found.problem is not None:
        say(mark(is_good=False), found.url)
        say("  " + found.problem)
    else:
        say(mark(found.allowed), found.url, "may be posted to" if found.allowed else "may not be posted to")
    for address, verdict in found.verdicts:
        if str(verdict) not in str(found.problem):
            _print_verdict(address, verdict)


def _print_verdict(address: str, verdict: Verdict) -> None:
    say(" ", mark(verdict.allowed), address, verdict.detail, f"[rule: {verdict.rule}]")
    if verdict.allow_line and not verdict.allowed:
        say("      to allow it:", verdict.allow_line)
