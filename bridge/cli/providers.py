"""`runbridge providers …`: the kinds of API that can be watched."""

from __future__ import annotations

import os
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bridge import __version__
from bridge.cli.options import DurationText, Pair, Settings, common_options, config_option, file_options, pass_settings
from bridge.cli.output import mark, note, print_facts, print_table, print_value, say, say_heading
from bridge.config.locate import find_config
from bridge.definitions.check import hosts_of
from bridge.definitions.doubts import doubts_in
from bridge.definitions.files import IN_CODE, Definitions, definitions_folder
from bridge.definitions.schema import SCHEMA_TEXT
from bridge.domain.definition import Definition, DefinitionInvalid, key_place
from bridge.domain.errors import BadPayload, NotFound
from bridge.domain.strict_json import parse_json
from bridge.domain.suggestions import unknown
from bridge.providers.definition_answers import Answers
from bridge.providers.fields import json_object
from bridge.providers.fixtures import (
    Fixture,
    FixtureInvalid,
    compare,
    fixtures_beside,
    fixtures_folder,
    read_fixture,
    unseen_words,
)

if TYPE_CHECKING:
    from bridge.providers.base import Provider

_SETTINGS = {"instabase": "ib_context", "retab": "auth_scheme", "dibby": "workflow_key"}  # of one provider only


@click.group
def providers() -> None:
    """The kinds of API that can be watched."""


@providers.command("list")
@file_options
def list_providers(settings: Settings) -> None:
    """List them with their default address, what the daemon can do there, and where they come from."""
    found = _definitions(settings)
    described = [_described(_find(settings, name)) for name in IN_CODE if name not in found.files]
    for name in found.names:
        try:
            described.append(_described(found.get(name)))
        except DefinitionInvalid as invalid:
            described.append({"name": name, "origin": found.files[name].origin, "mistakes": len(invalid.mistakes)})
    if settings.as_json:
        print_value({"data": described, "next_cursor": None})
        return
    rows = (
        (
            each["name"], each.get("version") or "-", each.get("base_url") or "each connection's own",
            ", ".join(each.get("can", ())) or f"{each.get('mistakes')} mistakes: runbridge providers lint", each["origin"],
        )
        for each in described
    )  # fmt: skip
    print_table(("PROVIDER", "VERSION", "BASE URL", "CAN", "FROM"), rows)


@providers.command
@click.argument("name")
@file_options
def show(settings: Settings, name: str) -> None:
    """Show provider NAME and its lines of configuration."""
    provider = _find(settings, name)
    described = _described(provider)
    definition = provider if isinstance(provider, Definition) else None
    if definition:
        described |= {"digest": definition.digest, "hosts": sorted(hosts_of(definition.tables))}
        described |= {"vars": definition.variables, "docs": definition.tables.get("docs")}
        described |= {"checked": str(definition.tables["checked"]) if "checked" in definition.tables else None}
    if settings.as_json:
        print_value(described)
        return
    shown = ("name", "version", "origin", "digest", "docs", "checked", "base_url")
    facts = [
        ("provider" if key == "name" else key.replace("_", " ").replace("url", "URL"), described.get(key))
        for key in shown
    ]
    print_facts([(key, str(value)) for key, value in facts if value])
    print_facts([("can", ", ".join(described["can"]))])
    say_heading("in the configuration file")
    for line in (f"[connections.my-{name}]", f'provider = "{name}"', f'api_key_env = "{_variable(name)}_API_KEY"'):
        say(f"  {line}")
    if name in _SETTINGS:
        say(f'  # {_SETTINGS[name]} = "…"   for {name} only; see config.example.toml')
    if definition and definition.base_url is None:
        say('  base_url = "https://…"')
    if definition and definition.variables:
        say(f"  [connections.my-{name}.vars]")
        for variable, spec in definition.variables.items():
            must = "required" if spec.get("required") else f"{spec.get('default', '')!r} unless set"
            say(f'  {variable} = "…"   # {spec.get("about", "")} ({must})')


def _variable(name: str) -> str:
    return name.upper().replace("-", "_")


@providers.command
@click.argument("name")
@click.option(
    "--from",
    "answers",
    metavar="ANSWER.json",
    multiple=True,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A recorded answer about one run, or a page of the list; several show more words.",
)
@click.argument(
    "more", metavar="[ANSWER.json]...", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--base-url", default="https://api.example.com/TODO", help="What paths are appended to.")
@click.option("--get", "address", default="/TODO/{id}", help="The path of one run, with {id}.")
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), help="Where; providers/ unless given.")
@config_option
@pass_settings
def new(
    settings: Settings, name: str, answers: tuple[Path, ...], more: tuple[Path, ...], base_url: str, address: str,
    folder: Path | None,
) -> int:  # fmt: skip
    """Write a first definition NAME by guessing once from recorded answers, with a comment for each guess."""
    from bridge.cli.provider_authoring import write_draft

    place = folder or definitions_folder(find_config(settings.config_path, os.environ)) or Path("providers")
    return write_draft(name, answers + more, base_url, address, place)


@providers.command("try")
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@click.option("--id", "run_id", required=True, help="The id of a run at the provider.")
@click.option(
    "--key-file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    help="A file that holds the key; - for standard input.",
)
@click.option("--base-url", help="The address, where the definition leaves it to the connection.")
@click.option("--var", "variables", type=Pair("="), multiple=True, help="A variable of the definition.")
@click.option("--timeout", "timeout_s", type=DurationText(), default=30.0, help="For the whole answer.")
@click.option("--save", metavar="NAME", help="Keep the answer as fixture NAME, with secrets masked.")
@file_options
def try_(
    settings: Settings,
    file: Path,
    run_id: str,
    key_file: Path | None,
    base_url: str | None,
    variables: tuple[tuple[str, str], ...],
    timeout_s: float,
    save: str | None,
) -> int:
    """Poll one run once with the definition in FILE and show what was sent and how the answer was read."""
    from bridge.cli.provider_authoring import print_trial, read_key, run_trial
    from bridge.providers.defined import DefinedProvider

    path = _place(file)
    provider = DefinedProvider(_read(settings, path))
    trial = run_trial(provider, run_id, read_key(key_file), base_url, dict(variables), timeout_s)
    code = print_trial(trial, as_json=settings.as_json)
    if save is not None:
        note(f"kept, masked: {trial.save(fixtures_folder(path), save)}; read it before you publish it")
    return code


@providers.command
def schema() -> None:
    """Print the JSON Schema of definitions, for completion in editors (taplo, tombi)."""
    click.echo(SCHEMA_TEXT, nl=False)


@providers.command
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@file_options
def lint(settings: Settings, file: Path) -> int:
    """Check the definition in FILE (or in the folder FILE): every mistake at once; exit 1 if there is one."""
    path = _place(file)
    answers = Answers(_read(settings, path))
    fixtures, faults = _fixtures(path)
    hosts = sorted(hosts_of(answers.tables)) or ["each connection's own base_url"]
    warnings = [*faults, *doubts_in(answers.tables), *unseen_words(answers, fixtures)]
    if settings.as_json:
        facts = {"hosts": hosts, "key": key_sent(answers.tables), "fixtures": len(fixtures), "warnings": warnings}
        print_value({"ok": True, **facts})
        return 0
    say(
        mark(is_good=True),
        f"{answers.definition.name} {answers.definition.version}: no mistakes, {len(fixtures)} fixtures",
    )
    say(f"  hosts that see the key: {', '.join(hosts)}")
    say(f"  the key is sent: {key_sent(answers.tables)}")
    for warning in warnings:
        say(mark(None), warning)
    return 0


def key_sent(tables: dict[str, Any]) -> str:
    """Where a request carries the key, as text for people."""
    auth, place = tables.get("auth"), key_place(tables)
    key = "the token for KEY" if isinstance(auth, dict) and "exchange" in auth else "KEY"
    if "header" in place:
        return f"{place['header']}: {place['scheme']} {key}" if "scheme" in place else f"{place['header']}: {key}"
    return f"?{place['query']}=KEY" if place else "not at all"


@providers.command
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@file_options
def test(settings: Settings, file: Path) -> int:
    """Read the fixtures of the definition in FILE with the code that polls; exit 1 if one is read otherwise."""
    path = _place(file)
    answers = Answers(_read(settings, path))
    fixtures, faults = _fixtures(path)
    compared = [compare(answers, fixture) for fixture in fixtures]
    is_good = bool(compared) and not faults and not any(one.differences for one in compared)
    if settings.as_json:
        print_value({"ok": is_good, "fixtures": [asdict(one) for one in compared], "faults": faults})
        return 0 if is_good else 1
    rows = (
        (one.name, one.status or "-", one.rule or "-", "; ".join(one.differences) or "as expected") for one in compared
    )
    print_table(("FIXTURE", "STATUS", "RULE", "READ"), rows)
    for fault in faults:
        say(mark(is_good=False), fault)
    if not fixtures:
        say(mark(is_good=False), f"no fixtures beside {path}; `runbridge providers try … --save NAME` records one")
    for warning in unseen_words(answers, fixtures):
        say(mark(None), warning)
    return 0 if is_good else 1


def _place(file: Path) -> Path:
    """The definition's own file, where its folder was given."""
    return file / "definition.toml" if file.is_dir() else file


def _read(settings: Settings, path: Path) -> Definition:
    """The definition in a file; prints every mistake and ends the command with 1 if it has one."""
    try:
        return _definitions(settings).read(path.resolve(), f"file {path}")
    except DefinitionInvalid as invalid:
        _print_mistakes(settings, invalid)
        click.get_current_context().exit(1)


def _print_mistakes(settings: Settings, invalid: DefinitionInvalid) -> None:
    """Print every mistake, in the order of the lines."""
    mistakes = sorted(dict.fromkeys(invalid.mistakes), key=lambda one: (one.file, one.line or 0))
    if settings.as_json:
        print_value({"ok": False, "mistakes": [asdict(one) for one in mistakes]})
    for one in () if settings.as_json else mistakes:
        say(str(one))


def _fixtures(path: Path) -> tuple[list[Fixture], list[str]]:
    """The fixtures beside a definition, and what is wrong with those that are none."""
    fixtures, faults = [], []
    for file in fixtures_beside(path):
        try:
            fixtures.append(read_fixture(file))
        except FixtureInvalid as invalid:
            faults.append(str(invalid))
    return fixtures, faults


def _definitions(settings: Settings) -> Definitions:
    """The definitions that the configuration's folder, packages and runbridge itself have."""
    path = find_config(settings.config_path, os.environ)
    return Definitions(definitions_folder(path))


@providers.command
@click.argument("name")
@click.option(
    "--body",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Show how this recorded response about one run is read, without any request.",
)
@common_options
def check(settings: Settings, name: str, body: Path | None) -> int:
    """Prove the key of every connection of provider NAME by a real request; exit 1 if one is not proven."""
    from bridge.cli.connections import check_connections, say_check

    provider = _find(settings, name)
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
            say_check(each, result)
    return 0 if names and all(result["ok"] for result in results.values()) else 1


def _find(settings: Settings, name: str) -> Definition | Provider:
    """The definition of that name, or the provider in code, whose HTTP client is imported only here."""
    found = _definitions(settings)
    if name in found.files:
        return found.get(name)
    if name not in IN_CODE:
        raise NotFound(unknown("provider", name, [*IN_CODE, *found.names]))
    from bridge.providers.registry import REGISTRY

    return REGISTRY[name]


def _described(provider: Definition | Provider) -> dict[str, Any]:
    if isinstance(provider, Definition):
        can = ["watch", *(name for name in ("trigger", "cancel", "list", "output", "check") if name in provider.tables)]
        more = {"version": provider.version, "origin": provider.origin}
        return {"name": provider.name, "base_url": provider.base_url, "can": can, **more}
    can = ["watch", "trigger", "check", "cancel"]
    more = {"version": __version__, "origin": "built in"}
    return {"name": provider.name, "base_url": provider.default_base_url or None, "can": can, **more}


def _read_body(settings: Settings, provider: Definition | Provider, body: Path) -> int:
    try:
        body_json = json_object(parse_json(body.read_bytes()))
        if isinstance(provider, Definition):
            facts = asdict(Answers(provider).reader.read(body_json).observation)
        else:
            facts = asdict(import_module(f"bridge.providers.{provider.name}").normalise(body_json))
    except BadPayload as error:
        say(mark(is_good=False), f"{body} cannot be read as a response of {provider.name}: {error}")
        return 1
    if settings.as_json:
        print_value(facts)
    else:
        print_facts([(key.replace("_", " "), str(value)) for key, value in facts.items() if value not in (None, False)])
    return 0
