"""`runbridge connections …`: accounts at providers, and whether they answer."""

from __future__ import annotations

from typing import Any

import click

from bridge.cli.client import Client, Object
from bridge.cli.connection_report import print_connection, print_distribution
from bridge.cli.options import Settings, common_options, pass_settings
from bridge.cli.output import mark, print_json, print_table, print_value, say, status_text

CHECK_TIMEOUT_S = 60.0  # the provider's own deadline lies below


@click.group
def command() -> None:
    """Accounts at providers, and whether they answer."""


@command.command("list")
@common_options
@pass_settings
def list_connections(settings: Settings) -> None:
    """The configured connections, their health and limits."""
    answer = settings.client().get("v1", "connections")
    if settings.as_json:
        print_json(answer.body)
        return
    print_table(("CONNECTION", "PROVIDER", "BASE URL", "HEALTH", "SINCE", "WHY"), (_row(c) for c in answer.rows()))


def _row(connection: Object) -> tuple[Any, ...]:
    return (
        connection["name"],
        connection.get("provider"),
        connection.get("base_url"),
        status_text(connection["health"]),
        connection.get("since"),
        connection.get("reason"),
    )


@command.command
@click.argument("name")
@click.option("--workflow", metavar="ID", help='Plot how long its runs take, and its polls; "" for runs without one.')
@common_options
@pass_settings
def show(settings: Settings, name: str, workflow: str | None) -> None:
    """How NAME stands, its limits, and what was learned of each of its workflows."""
    answer = settings.client().get("v1", "connections", name, workflow=workflow)
    if settings.as_json:
        print_json(answer.body)
    elif workflow is None:
        print_connection(answer.object())
    else:
        print_distribution(answer.object())


@command.command
@click.argument("name", nargs=-1)
@common_options
@pass_settings
def check(settings: Settings, name: tuple[str, ...]) -> int:
    """One real authenticated call through each NAME (all without any); exit 1 if one fails."""
    client = settings.client()
    names = list(name) or [connection["name"] for connection in client.get("v1", "connections").rows()]
    if not names:
        say("no connections are configured; add one to the configuration file under [connections.NAME]")
    results = check_connections(client, names)
    for each, result in results.items():
        if settings.as_json:
            print_value({"connection": each, **result})
        else:
            say(mark(bool(result["ok"])), each, result.get("detail"), f"({result.get('duration_ms')} ms)")
    return 0 if all(result["ok"] for result in results.values()) else 1


def check_connections(client: Client, names: list[str]) -> dict[str, Object]:
    """What the daemon says about each, in the order given."""
    return {name: client.post("v1", "connections", name, "check", timeout_s=CHECK_TIMEOUT_S).object() for name in names}
