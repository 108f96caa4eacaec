"""`runbridge providers …`: the kinds of API that can be watched."""

from __future__ import annotations

from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from bridge.cli.connections import check_connections
from bridge.cli.options import Settings, common_options, json_option, pass_settings
from bridge.cli.output import mark, print_facts, print_table, print_value, say, say_heading
from bridge.domain.errors import BadPayload, NotFound
from bridge.domain.strict_json import parse_json
from bridge.providers import REGISTRY
from bridge.providers.base import Provider, ProviderDefaults
from bridge.providers.fields import json_object

_ALWAYS = ("watch", "trigger", "check")
_SETTINGS = {"instabase": "ib_context", "retab": "auth_scheme", "dibby": "workflow_key"}  # of one provider only


@click.group
def providers() -> None:
    """The kinds of API that can be watched."""


@providers.command("list")
@json_option
@pass_settings
def list_providers(settings: Settings) -> None:
    """List them with their default address and what the daemon can do there."""
    described = [_described(provider) for provider in REGISTRY.values()]
    if settings.as_json:
        print_value({"data": described, "next_cursor": None})
    else:
        rows = ((each["name"], each["base_url"], ", ".join(each["can"])) for each in described)
        print_table(("PROVIDER", "BASE URL", "CAN"), rows)


@providers.command
@click.argument("name")
@json_option
@pass_settings
def show(settings: Settings, name: str) -> None:
    """Show provider NAME and its lines of configuration."""
    provider = _described(_find(name))
    if settings.as_json:
        print_value(provider)
        return
    print_facts([("provider", name), ("base URL", provider["base_url"]), ("can", ", ".join(provider["can"]))])
    say_heading("in the configuration file")
    for line in (f"[connections.my-{name}]", f'provider = "{name}"', f'api_key_env = "{name.upper()}_API_KEY"'):
        say(f"  {line}")
    if name in _SETTINGS:
        say(f'  # {_SETTINGS[name]} = "…"   for {name} only; see config.example.toml')


@providers.command
@click.argument("name")
@click.option(
    "--body",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Show how this recorded response about one run is read, without any request.",
)
@common_options
@pass_settings
def check(settings: Settings, name: str, body: Path | None) -> int:
    """Make one authenticated request through every connection of provider NAME; exit 1 if one fails."""
    provider = _find(name)
    if body is not None:
        return _read_body(settings, provider, body)
    client = settings.client()
    names = [c["name"] for c in client.get("v1", "connections").rows() if c.get("provider") == name]
    results = check_connections(client, names)
    if settings.as_json:
        print_value({"provider": name, "connections": results})
    elif not names:
        say(
            mark(None), f"no connection at {name} is configured; `runbridge providers show {name}` shows how to add one"
        )
    else:
        for each, result in results.items():
            say(mark(bool(result["ok"])), each, result.get("detail"), f"({result.get('duration_ms')} ms)")
    return 0 if names and all(result["ok"] for result in results.values()) else 1


def _find(name: str) -> Provider:
    if name not in REGISTRY:
        raise NotFound(f"there is no provider {name}; known: {', '.join(REGISTRY)}")
    return REGISTRY[name]


def _described(provider: Provider) -> dict[str, Any]:
    can = [*_ALWAYS]
    if getattr(type(provider), "cancel", None) is not ProviderDefaults.cancel:
        can.append("cancel")
    return {"name": provider.name, "base_url": provider.default_base_url, "can": can}


def _read_body(settings: Settings, provider: Provider, body: Path) -> int:
    normalise = import_module(f"bridge.providers.{provider.name}").normalise
    try:
        facts = asdict(normalise(json_object(parse_json(body.read_bytes()))))
    except BadPayload as error:
        say(mark(is_good=False), f"{body} cannot be read as a response of {provider.name}: {error}")
        return 1
    if settings.as_json:
        print_value(facts)
    else:
        print_facts([(key.replace("_", " "), str(value)) for key, value in facts.items() if value not in (None, False)])
    return 0
