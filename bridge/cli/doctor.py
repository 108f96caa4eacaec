"""`runbridge doctor`: check configuration, SQLite, daemon, database, disk, clocks and accounts.

Each check returns findings and does not raise.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import platform
import shutil
import sqlite3
import ssl
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import click
from sqlalchemy.engine import make_url

from bridge.cli.client import Client
from bridge.cli.connections import check_connections
from bridge.cli.daemon_address import DaemonUnreachable
from bridge.cli.options import Settings, common_options, pass_settings
from bridge.cli.output import mark, print_value, say
from bridge.config.load import Config, ConfigInvalid, load_config
from bridge.config.locate import find_config
from bridge.config.reach import read_database_url
from bridge.domain.errors import BridgeError, NotFound
from bridge.store import migrate
from bridge.store.inspection import inspect_database
from bridge.store.sqlite import database_file

if TYPE_CHECKING:
    from collections.abc import Iterable

DISK_LOW_BYTES: Final = 1024**3
DISK_OUT_BYTES: Final = 100 * 1024**2
SKEW_REMARK_S: Final = 5.0
SKEW_WRONG_S: Final = 60.0  # receivers refuse at 300 s
PROVIDER_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `is_good` is None for a remark."""

    is_good: bool | None
    what: str
    detail: str


@click.command
@click.option("--offline", is_flag=True, help="Make no request to a provider.")
@common_options
@pass_settings
def doctor(settings: Settings, offline: bool) -> int:
    """Check this installation and say what to repair; exit 1 if a check fails (✗), 0 for remarks only (!)."""
    findings: list[Finding] = []
    for finding in all_findings(settings, os.environ, is_offline=offline):
        findings.append(finding)
        if not settings.as_json:
            say(mark(finding.is_good), f"{finding.what}:", finding.detail)
    if settings.as_json:
        levels = {True: "ok", None: "remark", False: "wrong"}
        print_value([{"check": f.what, "result": levels[f.is_good], "detail": f.detail} for f in findings])
    return 1 if any(finding.is_good is False for finding in findings) else 0


def all_findings(settings: Settings, env: Mapping[str, str], *, is_offline: bool) -> Iterator[Finding]:
    """Run every check, in the order in which problems depend on each other."""
    path = find_config(settings.config_path, env)
    loaded = _load(path, env)
    yield from check_config(path, loaded)
    yield check_sqlite()
    try:
        client = settings.client()
    except BridgeError:
        if isinstance(loaded, ConfigInvalid):
            return  # without a readable file there is no address to try, and its mistakes are reported
        raise
    is_running = False
    for finding in check_daemon(client):
        is_running = is_running or finding.is_good is True
        yield finding
    yield from check_database(path, env, is_running=is_running)
    if not is_offline:
        yield from check_clocks(loaded)
        if is_running:
            yield from check_accounts(client)


def _load(path: Path | None, env: Mapping[str, str]) -> Config | ConfigInvalid:
    try:
        return load_config(path, env=env)
    except ConfigInvalid as invalid:
        return invalid


def check_config(path: Path | None, loaded: Config | ConfigInvalid) -> Iterator[Finding]:
    """Whether the configuration loads, and its warnings."""
    if isinstance(loaded, ConfigInvalid):
        for problem in loaded.problems:
            yield Finding(False, "configuration", f"{problem.field}: {problem.message}")
        return
    shown = str(path) if path else "no file, only the environment"
    counts = f"{len(loaded.connections)} connections, {len(loaded.endpoints)} endpoints"
    yield Finding(True, "configuration", f"{shown}: {counts}")
    for warning in loaded.warnings:
        yield Finding(None, "configuration", f"{warning.field}: {warning.message}")
    if not loaded.connections:
        yield Finding(None, "configuration", "there is no connection; add one under [connections.NAME] to watch runs")


def check_sqlite() -> Finding:
    """Version of SQLite, and whether it has the WAL-reset fault (fixed in 3.51.3)."""
    versions = f"{sqlite3.sqlite_version} (Python {platform.python_version()})"
    if database_file.has_wal_reset_fault():
        advice = "never let another program (Litestream, a shell) write to the file while the daemon runs"
        return Finding(None, "SQLite", f"{versions} has the WAL-reset fault; our single writer avoids it, but {advice}")
    return Finding(True, "SQLite", versions)


def check_daemon(client: Client) -> Iterator[Finding]:
    """Whether the daemon answers, is ready, and accepts our token."""
    try:
        version = client.get("healthz").object().get("version", "?")
        yield Finding(True, "daemon", f"version {version} answers at {client.address}")
    except DaemonUnreachable as error:
        yield Finding(None, "daemon", str(error))
        return
    except BridgeError as error:
        yield Finding(False, "daemon", str(error))
        return
    for what, path in (("readiness", ("readyz",)), ("token", ("v1", "connections"))):
        try:
            client.get(*path)
        except BridgeError as error:
            yield Finding(False, what, str(error))
        else:
            yield Finding(True, what, "in order")


def check_database(path: Path | None, env: Mapping[str, str], *, is_running: bool) -> Iterator[Finding]:
    """Whether the database is sound and current, and the disk has room. The file of a running daemon is not opened."""
    try:
        url = make_url(read_database_url(path, env=env))
    except ConfigInvalid as invalid:
        yield Finding(False, "database", str(invalid))
        return
    shown = url.render_as_string(hide_password=True)
    if is_running:
        yield Finding(True, "database", f"{shown}: in use by the daemon, see readiness")
    else:
        try:
            found = asyncio.run(inspect_database(url))
        except NotFound as error:
            yield Finding(None, "database", str(error))
        except BridgeError as error:
            yield Finding(False, "database", str(error))
        else:
            yield from (Finding(False, "database", problem) for problem in found.problems)
            pending = f"; `serve` will upgrade it to {migrate.HEAD}" if found.pending else ""
            if not found.problems:
                yield Finding(True, "database", f"{shown}: sound, schema {found.schema}{pending}")
    if url.get_backend_name() == "sqlite":
        yield check_disk(Path(url.database or "."))


def check_disk(database: Path) -> Finding:
    """Whether the disk of the database has room."""
    folder = next(parent for parent in (database.absolute().parent, *database.absolute().parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:.1f} GB free in {folder}"
    if free < DISK_OUT_BYTES:
        return Finding(False, "disk", f"{text}; make room, a full disk stops everything")
    return Finding(None if free < DISK_LOW_BYTES else True, "disk", text)


def check_clocks(loaded: Config | ConfigInvalid) -> Iterator[Finding]:
    """Whether our clock and those of the providers agree; receivers refuse signatures with a wrong time."""
    if isinstance(loaded, ConfigInvalid):
        return
    for base_url in sorted({connection.base_url for connection in loaded.connections.values()}):
        yield check_clock(base_url)


def check_clock(base_url: str) -> Finding:
    """Compare our clock with the `Date` header of one provider, whatever the status."""
    what = f"clock against {urlsplit(base_url).hostname}"
    try:
        theirs, ours = _ask_date(base_url)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        return Finding(None, what, f"not reachable from here ({reason})")
    if theirs is None:
        return Finding(None, what, "its response has no Date header")
    skew_s = (ours - theirs).total_seconds()
    if abs(skew_s) <= SKEW_REMARK_S:
        return Finding(True, what, f"they agree within {SKEW_REMARK_S:.0f} s")
    ahead = "ahead" if skew_s > 0 else "behind"
    is_good = False if abs(skew_s) > SKEW_WRONG_S else None
    return Finding(
        is_good, what, f"this machine is {abs(skew_s):.0f} s {ahead}; set its clock (timedatectl set-ntp true)"
    )


def _ask_date(base_url: str) -> tuple[datetime | None, datetime]:
    parts = urlsplit(base_url)
    port = parts.port
    host = parts.hostname or ""
    if parts.scheme == "https":
        tls = ssl.create_default_context()
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, port, timeout=PROVIDER_TIMEOUT_S, context=tls
        )
    else:
        connection = http.client.HTTPConnection(host, port, timeout=PROVIDER_TIMEOUT_S)
    with closing(connection):
        connection.request("HEAD", parts.path or "/")
        date = connection.getresponse().headers.get("Date")
        ours = datetime.now(UTC)
    theirs = parsedate_to_datetime(date) if date else None
    return (theirs.replace(tzinfo=theirs.tzinfo or UTC) if theirs else None), ours


def check_accounts(client: Client) -> Iterator[Finding]:
    """Have the daemon make one authenticated request through every connection."""
    try:
        names: Iterable[str] = [connection["name"] for connection in client.get("v1", "connections").rows()]
    except BridgeError as error:
        yield Finding(False, "connections", str(error))
        return
    for name in names:
        try:
            result = check_connections(client, [name])[name]
            yield Finding(bool(result["ok"]), f"connection {name}", f"{result.get('detail')}")
        except BridgeError as error:
            yield Finding(False, f"connection {name}", str(error))
