"""`runbridge config …`: check the configuration, and show what is in effect."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from bridge.cli.options import Settings, file_options
from bridge.cli.output import clean, mark, print_table, print_value, say
from bridge.domain.errors import Problem

if TYPE_CHECKING:
    from bridge.config.load import Config


@click.group
def config() -> None:
    """Check and show the configuration."""


@config.command
@file_options
def check(settings: Settings) -> int:
    """Read the configuration with its secrets, and list every mistake; exit 1 if there is one."""
    from bridge.config.load import ConfigInvalid
    from bridge.config.locate import find_config

    path = find_config(settings.config_path, os.environ)
    problems: list[Problem] = []
    warnings: list[Problem] = []
    try:
        loaded = load(settings)
        warnings += [*loaded.warnings, *_unreachable(settings, loaded)]
    except ConfigInvalid as invalid:
        problems = invalid.problems
    if settings.as_json:
        print_value(
            {"path": path and str(path), "ok": not problems, "errors": _shown(problems), "warnings": _shown(warnings)}
        )
    else:
        for is_good, found in ((False, problems), (None, warnings)):
            for problem in found:
                say(mark(is_good), f"{problem.field}: {problem.message}")
        if not problems:
            say(
                mark(is_good=True),
                str(path) if path else "no configuration file, only the environment:",
                "no mistakes",
            )
    return 1 if problems else 0


def _unreachable(settings: Settings, config: Config) -> list[Problem]:
    """Endpoints that will get nothing as things are: the daemon itself, and ports of this machine without a listener."""
    import socket
    from dataclasses import replace

    from bridge.cli.guard import own_addresses
    from bridge.domain.addresses.policy import AddressPolicy, AllowRule, Trust
    from bridge.domain.errors import InvalidInput
    from bridge.domain.webhook_url import check_target, is_localhost, literal_address

    allow = tuple(AllowRule.parse(line) for line in config.delivery.allow)
    policy = AddressPolicy(Trust.CONFIG, allow, config.delivery.allow_http)
    found = []
    for name, endpoint in config.endpoints.items():
        target, at = check_target(endpoint.url, policy), f"endpoints.{name}.url"
        try:
            check_target(endpoint.url, replace(policy, own=own_addresses(settings)))
        except InvalidInput as invalid:
            found += [Problem(at, problem.message) for problem in invalid.problems]
            continue
        address = literal_address(target.host)
        if is_localhost(target.host) or (address is not None and address.is_loopback):
            try:
                socket.create_connection((target.host, target.port), timeout=1).close()
            except OSError:
                said = f"nothing listens at {target.host}:{target.port} now; start the receiver, or correct the port"
                found.append(Problem(at, said))
    return found


def _shown(problems: list[Problem]) -> list[dict[str, str]]:
    return [{"field": problem.field, "message": problem.message} for problem in problems]


@config.command
@click.option("--origin", "with_origin", is_flag=True, help="Show where each value comes from.")
@file_options
def show(settings: Settings, with_origin: bool) -> None:
    """Show every setting in effect, secrets as ****."""
    from bridge.config.show import show_config

    rows = show_config(load(settings))
    if settings.as_json:
        origins = [{"origin": row.origin} if with_origin else {} for row in rows]
        print_value([{"key": row.key, "value": row.value, **origin} for row, origin in zip(rows, origins, strict=True)])
    elif with_origin:
        print_table(("KEY", "VALUE", "FROM"), ((row.key, clean(row.value), row.origin) for row in rows))
    else:
        print_table(("KEY", "VALUE"), ((row.key, clean(row.value)) for row in rows))


def load(settings: Settings) -> Config:
    """Load the configuration as `serve` does; raises ConfigInvalid with every mistake."""
    from bridge.config.load import load_config
    from bridge.config.locate import find_config

    return load_config(find_config(settings.config_path, os.environ), env=os.environ)
