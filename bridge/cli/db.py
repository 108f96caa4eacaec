"""`runbridge db …`: the one command that opens the database itself, and never to write while a daemon runs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import sqlalchemy as sa
from rich.progress import Progress
from sqlalchemy.engine import URL, make_url

from bridge.cli.options import Settings, config_option, json_option, pass_settings
from bridge.cli.output import console, mark, print_value, say
from bridge.config import find_config
from bridge.config.reach import read_database_url
from bridge.domain.clock import SystemClock
from bridge.domain.errors import InvalidInput, Problem, Unsupported
from bridge.store import migrate, sqlite_file
from bridge.store.backup import back_up
from bridge.store.database import Database
from bridge.store.examine import Examination, examine

F = TypeVar("F", bound=Callable[..., Any])


def _database_option(function: F) -> F:
    option = click.option("--database", "database_url", metavar="URL", help="Instead of [database] url.")
    return config_option(json_option(option(function)))


@click.group
def command() -> None:
    """Upgrade, check and back up the database."""


@command.command
@_database_option
@pass_settings
def upgrade(settings: Settings, database_url: str | None) -> None:
    """Bring the schema up to date. `serve` does so itself; this is for doing it beforehand."""
    url = _url(settings, database_url)
    asyncio.run(_open_once(url))
    if settings.as_json:
        print_value({"database": _shown(url), "schema": migrate.HEAD})
    else:
        say(mark(is_good=True), _shown(url), f"has schema {migrate.HEAD}, which is what this version needs")


async def _open_once(url: URL) -> None:
    database = Database(url.render_as_string(hide_password=False), SystemClock())
    await database.open()
    await database.close()


@command.command
@_database_option
@pass_settings
def check(settings: Settings, database_url: str | None) -> int:
    """Read the whole database and say whether it is sound; exit 1 if not. Works beside a running daemon."""
    url = _url(settings, database_url)
    found = asyncio.run(examine(url))
    if settings.as_json:
        print_value({"database": _shown(url), "ok": not found.problems, **_described(found)})
        return 1 if found.problems else 0
    for problem in found.problems:
        say(mark(is_good=False), problem)
    if not found.problems:
        say(mark(is_good=True), _shown(url), f"is sound: {_in_words(found)}")
    return 1 if found.problems else 0


@command.command
@click.argument("file", type=click.Path(path_type=Path))
@_database_option
@pass_settings
def backup(settings: Settings, file: Path, database_url: str | None) -> None:
    """Copy the SQLite database to FILE, also while the daemon runs; the copy is checked."""
    url = _url(settings, database_url)
    if url.get_backend_name() != "sqlite":
        raise Unsupported(f"PostgreSQL has its own tool: pg_dump --format=custom --file={file} '{_shown(url)}'")
    target = file / f"runbridge-{SystemClock().now():%Y%m%dT%H%M%SZ}.db" if file.is_dir() else file
    with Progress(console=console(is_error=True), transient=True, disable=not os.isatty(2)) as bar:
        task = bar.add_task("copying")
        found = back_up(
            sqlite_file.path_of(url), target, lambda done, total: bar.update(task, completed=done, total=total)
        )
    if settings.as_json:
        print_value({"file": str(target), **_described(found)})
    else:
        say(mark(is_good=True), str(target), f"is a sound copy: {_in_words(found)}")


def _url(settings: Settings, given: str | None) -> URL:
    try:
        return make_url(given or read_database_url(find_config(settings.config_path, os.environ), env=os.environ))
    except sa.exc.ArgumentError:
        raise InvalidInput([Problem("--database", "expected sqlite:///PATH or postgresql://…")]) from None


def _shown(url: URL) -> str:
    return url.render_as_string(hide_password=True)


def _described(found: Examination) -> dict[str, Any]:
    return {
        "schema": found.schema,
        "pending": list(found.pending),
        "problems": list(found.problems),
        "size_bytes": found.size_bytes,
    }


def _in_words(found: Examination) -> str:
    size = f"{(found.size_bytes or 0) / 1e6:.1f} MB, schema {found.schema or 'not yet made'}"
    return size + (f", to be upgraded by {', '.join(found.pending)}" if found.pending else "")
