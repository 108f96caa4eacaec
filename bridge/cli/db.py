"""`runbridge db …`: upgrade, check, back up and re-encrypt the database.

The only command that opens the database itself; it never writes while a daemon runs.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import click
import sqlalchemy as sa
from rich.progress import Progress
from sqlalchemy.engine import URL, make_url

from bridge.cli.options import Settings, combined, config_option, json_option, pass_settings
from bridge.cli.output import console, mark, note, print_value, say
from bridge.config.locate import find_config
from bridge.config.reach import read_database_url, read_secrets
from bridge.domain.clock import SystemClock
from bridge.domain.encryption import EncryptionKey
from bridge.domain.errors import Conflict, InvalidInput, NotFound, Problem, Unsupported
from bridge.maintenance.key_rotation import reencrypt_all
from bridge.store import migrate, nodes
from bridge.store.database import Database
from bridge.store.inspection import Inspection, inspect_database
from bridge.store.sqlite import database_file, key_file
from bridge.store.sqlite.backup import back_up, name_at

_database_option = combined(
    config_option,
    json_option,
    click.option("--database", "database_url", metavar="URL", help="This database instead of [database] url."),
    pass_settings,
)


@click.group
def db() -> None:
    """Upgrade, check and back up the database."""


@db.command
@_database_option
def upgrade(settings: Settings, database_url: str | None) -> None:
    """Upgrade the schema. `serve` does so too when it starts."""
    url = _url(settings, database_url)
    asyncio.run(_open_once(url))
    if settings.as_json:
        print_value({"database": _shown(url), "schema": migrate.HEAD})
    else:
        say(mark(is_good=True), _shown(url), f"has schema {migrate.HEAD}, which this version needs")


async def _open_once(url: URL) -> None:
    database = Database(url.render_as_string(hide_password=False), SystemClock())
    await database.open()
    await database.close()


@db.command
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@_database_option
def check(settings: Settings, file: Path | None, database_url: str | None) -> int:
    """Read the whole database, or the copy FILE, and check that it is sound; exit 1 if not. The daemon may run."""
    if file is not None and database_url is not None:
        raise click.UsageError("give either FILE or --database")
    url = _url(settings, database_url if file is None else f"sqlite:///{file.absolute()}")
    found = asyncio.run(inspect_database(url))
    if settings.as_json:
        print_value({"database": _shown(url), "ok": not found.problems, **_described(found)})
        return 1 if found.problems else 0
    for problem in found.problems:
        say(mark(is_good=False), problem)
    if not found.problems:
        say(mark(is_good=True), _shown(url), f"is sound: {_in_words(found)}")
    return 1 if found.problems else 0


@db.command
@click.argument("file", type=click.Path())
@_database_option
def backup(settings: Settings, file: str, database_url: str | None) -> None:
    """Copy the SQLite database to FILE and check the copy. The daemon may run."""
    url = _url(settings, database_url)
    if url.get_backend_name() != "sqlite":
        raise Unsupported(f"PostgreSQL has its own backup tool: pg_dump --format=custom --file={file} '{_shown(url)}'")
    target = Path(file)
    if target.is_dir():
        target /= name_at(SystemClock().now())
    elif file.endswith("/"):
        raise NotFound(f"there is no folder {file}; create it, or mount it, first")
    with Progress(console=console(is_error=True), transient=True, disable=not os.isatty(2)) as bar:
        task = bar.add_task("copying")
        found = back_up(
            database_file.path_of(url), target, lambda done, total: bar.update(task, completed=done, total=total)
        )
    if settings.as_json:
        print_value({"file": str(target), **_described(found)})
    else:
        say(mark(is_good=True), str(target), f"is a sound copy: {_in_words(found)}")
        note(
            "the copy does not hold the key of its secrets ([secrets] key, or secrets.key beside the database); "
            "back it up separately"
        )


@db.command("rotate-key")
@_database_option
def rotate_key(settings: Settings, database_url: str | None) -> int:
    """Encrypt the secrets in the database with a new key; the daemon must be stopped.

    Without [secrets] key, a new key is put first in secrets.key beside the SQLite file. With it, set the new key as
    key and the present one in old_keys first; a daemon that is then started or reloaded re-encrypts too. An
    interrupted run can be repeated.
    """
    url = _url(settings, database_url)
    configured = read_secrets(find_config(settings.config_path, os.environ), env=os.environ).vault_keys
    count, unreadable = asyncio.run(_rotate(url, configured))
    if settings.as_json:
        print_value({"database": _shown(url), "sealed": count, "unreadable": unreadable})
        return 1 if unreadable else 0
    say(mark(is_good=True), f"{count} values in {_shown(url)} are encrypted with the new key")
    if unreadable:
        say(mark(is_good=False), f"no key opens {len(unreadable)} more: {', '.join(unreadable[:20])}")
    elif configured:
        say("old_keys is now needed only for earlier backups")
    return 1 if unreadable else 0


async def _rotate(url: URL, configured: list[EncryptionKey]) -> tuple[int, list[str]]:
    database = Database(url.render_as_string(hide_password=False), SystemClock())
    if not configured and not database.is_sqlite:
        raise Conflict("PostgreSQL needs [secrets] key; create one with `openssl rand -base64 32`")
    await database.open()
    try:
        if not database.is_sqlite and (alive := await database.read(nodes.list_alive)):
            raise Conflict(f"a daemon uses this database ({', '.join(alive)}); stop it first")
        beside = None if configured else key_file.path_beside(database_file.path_of(url))
        database.keyring.use(configured if beside is None else key_file.add_new_key(beside))
        return await reencrypt_all(database)
    finally:
        await database.close()


def _url(settings: Settings, given: str | None) -> URL:
    try:
        text = given or read_database_url(find_config(settings.config_path, os.environ), env=os.environ)
        database_file.refuse_query(text)
        return make_url(text)
    except sa.exc.ArgumentError:
        raise InvalidInput([Problem("--database", "expected sqlite:///PATH or postgresql://…")]) from None


def _shown(url: URL) -> str:
    return url.render_as_string(hide_password=True)


def _described(found: Inspection) -> dict[str, Any]:
    return {
        "schema": found.schema,
        "pending": list(found.pending),
        "problems": list(found.problems),
        "size_bytes": found.size_bytes,
    }


def _in_words(found: Inspection) -> str:
    size = f"{(found.size_bytes or 0) / 1e6:.1f} MB, schema {found.schema or 'not created yet'}"
    return size + (f", pending upgrades: {', '.join(found.pending)}" if found.pending else "")
