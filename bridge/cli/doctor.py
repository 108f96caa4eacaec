"""`runbridge doctor`: check the configuration, the daemon and what it finds about itself, clocks and accounts.

Without a daemon SQLite, database, disk, files and backups are checked here. Each check returns findings and does not
raise.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import os
import ssl
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, unquote, urlsplit

import click
from sqlalchemy.engine import make_url

from bridge import wiring
from bridge.cli.client import Client
from bridge.cli.connections import check_connections
from bridge.cli.daemon_address import DaemonUnreachable
from bridge.cli.options import Settings, common_options
from bridge.cli.output import mark, print_value, say
from bridge.config.load import Config, ConfigInvalid, load_config
from bridge.config.locate import find_config
from bridge.config.reach import read_database_url
from bridge.domain.connection import Connection
from bridge.domain.errors import BridgeError, NotFound
from bridge.domain.finding import IS_GOOD, Finding
from bridge.maintenance import backups
from bridge.store import migrate
from bridge.store.checks import check_disk, check_files, check_sqlite
from bridge.store.inspection import inspect_database
from bridge.store.sqlite import database_file

if TYPE_CHECKING:
    from collections.abc import Iterable

SKEW_REMARK_S: Final = 5.0
SKEW_WRONG_S: Final = 60.0  # receivers refuse at 300 s
PROVIDER_TIMEOUT_S: Final = 5.0
CLOCK_AGAINST: Final = "clock against "


@click.command
@click.option("--offline", is_flag=True, help="Make no request to a provider.")
@common_options
def doctor(settings: Settings, offline: bool) -> int:
    """Check this installation and say what to repair; exit 1 if a check fails (✗), 0 for remarks only (!)."""
    findings: list[Finding] = []
    for finding in all_findings(settings, os.environ, is_offline=offline):
        findings.append(finding)
        if not settings.as_json:
            say(mark(finding.is_good), f"{finding.what}:", finding.detail)
    if settings.as_json:
        print_value([{"check": f.what, "result": f.result, "detail": f.detail} for f in findings])
    return 1 if any(finding.is_good is False for finding in findings) else 0


def all_findings(settings: Settings, env: Mapping[str, str], *, is_offline: bool) -> Iterator[Finding]:
    """Run every check, in the order in which problems depend on each other.

    The daemon's finding about a connection is left out if it only has what the check of the key finds again.
    """
    path = find_config(settings.config_path, env)
    loaded = _load(path, env)
    is_elsewhere = path is None and bool(settings.url or env.get("RUNBRIDGE_URL"))
    if not is_elsewhere:
        yield from check_config(path, loaded)
    try:
        client = settings.client()
    except BridgeError:
        yield check_sqlite()
        if isinstance(loaded, ConfigInvalid):
            return  # without a readable file there is no address to try, and its mistakes are reported
        raise
    is_running, held = False, list[Finding]()
    for finding in check_daemon(client):
        is_running = is_running or finding.is_good is True
        yield finding
    if is_running:
        for finding in fetch_findings(client):
            if is_offline or finding.is_good is not False or not finding.what.startswith("connection "):
                yield finding
            else:
                held.append(finding)
    elif not is_elsewhere:
        yield check_sqlite()
        yield from check_database(path, env)
        yield from check_backups(loaded)
    if not is_offline:
        yield from () if is_elsewhere else check_clocks(loaded)
        if is_running:
            accounts = []
            for finding in check_accounts(client):
                accounts.append(finding)
                yield finding
            yield from (one for one in held if not any(each.detail in one.detail for each in accounts))


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


def check_daemon(client: Client) -> Iterator[Finding]:
    """Whether the daemon answers, is ready, and accepts our token."""
    try:
        answer, ours = client.get("healthz"), datetime.now(UTC)
        yield Finding(True, "daemon", f"version {answer.object().get('version', '?')} answers at {client.address}")
        yield from _clock_of_daemon(answer.date, ours)
    except DaemonUnreachable as error:
        yield Finding(False, "daemon", str(error))
        return
    except BridgeError as error:
        yield Finding(False, "daemon", str(error))
        return
    for what, path in (("readiness", ("readyz",)), ("token", ("v1", "connections"))):
        try:
            client.get(*path)
        except BridgeError as error:
            yield Finding(False, what, str(error))
            return  # the call that tries the token reads the database, too
        else:
            yield Finding(True, what, "in order")


def _clock_of_daemon(date: str | None, ours: datetime) -> Iterator[Finding]:
    """Whether the clock of a daemon elsewhere is another than ours: the clocks of providers are compared with ours."""
    try:
        theirs = _instant_of(date) or ours
    except ValueError:  # a proxy wrote it
        return
    skew_s = (ours - theirs).total_seconds()
    if abs(skew_s) > SKEW_REMARK_S:
        ahead, is_good = "behind" if skew_s > 0 else "ahead of", False if abs(skew_s) > SKEW_WRONG_S else None
        advice = "set the clock that is wrong (timedatectl set-ntp true); receivers refuse signatures at 300 s"
        yield Finding(is_good, "clock of the daemon", f"it is {abs(skew_s):.0f} s {ahead} this machine's; {advice}")


def fetch_findings(client: Client) -> Iterator[Finding]:
    """The daemon's findings about itself, its connections and its endpoints."""
    try:
        rows = client.get("v1", "doctor").rows()
    except BridgeError as error:
        yield Finding(False, "daemon", str(error))
        return
    for row in rows:
        yield Finding(IS_GOOD[row["result"]], row["check"], row["detail"])


def check_database(path: Path | None, env: Mapping[str, str]) -> Iterator[Finding]:
    """Whether the database of a daemon that is not running is sound and current, its disk has room, its files are its own."""
    try:
        url = make_url(read_database_url(path, env=env))
    except ConfigInvalid as invalid:
        yield Finding(False, "database", str(invalid))
        return
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
            shown = url.render_as_string(hide_password=True)
            yield Finding(True, "database", f"{shown}: sound, schema {found.schema}{pending}")
    if url.get_backend_name() == "sqlite":
        file = Path(url.database or ".")
        if holder := database_file.holder_of(file):
            advice = "if that is the daemon meant here, its log says why it does not answer; otherwise stop it"
            said = f"another runbridge ({holder}) is using it, and none answers at the address above"
            yield Finding(False, "database", f"{said}: {advice}, or give this one another [database] url")
        yield check_disk(file)
        yield from check_files(file)


def check_backups(loaded: Config | ConfigInvalid) -> Iterator[Finding]:
    """Whether the newest scheduled copy is as young as it should be; nothing on PostgreSQL."""
    if isinstance(loaded, ConfigInvalid):
        return
    url = make_url(loaded.database.url)
    if url.get_backend_name() == "sqlite":
        yield backups.check(wiring.backup_plan(loaded), Path(url.database or "."), now=datetime.now(UTC))


def check_clocks(loaded: Config | ConfigInvalid) -> Iterator[Finding]:
    """Whether our clock and those of the providers agree; receivers refuse signatures with a wrong time."""
    if isinstance(loaded, ConfigInvalid):
        return
    ways = defaultdict(list)
    for each in loaded.connections.values():
        ways[each.base_url, each.proxy or "", each.ca_file or ""].append(each)
    found = [(check_clock(connections[0]), connections) for _, connections in sorted(ways.items())]
    agreeing = sorted(finding.what.removeprefix(CLOCK_AGAINST) for finding, _ in found if finding.is_good)
    for finding, connections in found:
        by, told = ", ".join(sorted(each.name for each in connections)), finding
        if finding.is_good is False and agreeing:
            difference = finding.detail.partition(";")[0]
            told = replace(
                finding, is_good=None, detail=f"{difference}, but agrees with {agreeing[0]}; tell the provider"
            )
        yield replace(told, detail=f"{told.detail} (connections: {by})")


def check_clock(connection: Connection) -> Finding:
    """Compare our clock with the `Date` header of one provider, whatever the status; by its proxy, if it has one."""
    what = f"{CLOCK_AGAINST}{urlsplit(connection.base_url).hostname}"
    try:
        theirs, ours = _ask_date(connection)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        by = f" by the proxy {urlsplit(connection.proxy).hostname}" if connection.proxy else ""
        return Finding(None, what, f"not reachable from here{by} ({reason})")
    if theirs is None:
        return Finding(None, what, "its response has no Date header")
    skew_s = (ours - theirs).total_seconds()
    if abs(skew_s) <= SKEW_REMARK_S:
        return Finding(True, what, f"they agree within {SKEW_REMARK_S:.0f} s")
    ahead = "ahead" if skew_s > 0 else "behind"
    is_good = False if abs(skew_s) > SKEW_WRONG_S else None
    advice = "set its clock (timedatectl set-ntp true), unless the provider's is wrong"
    return Finding(is_good, what, f"this machine is {abs(skew_s):.0f} s {ahead}; {advice}")


def _ask_date(connection: Connection) -> tuple[datetime | None, datetime]:
    """The provider's `Date`, and our time when it came. An OSError if it cannot be asked."""
    parts = urlsplit(connection.base_url)
    path, is_tls = parts.path or "/", parts.scheme == "https"
    proxy = urlsplit(connection.proxy or "")
    host, port = (proxy.hostname, proxy.port or 80) if proxy.hostname else (parts.hostname, parts.port)
    login = _proxy_login(proxy)
    if is_tls:
        tls = ssl.create_default_context()
        if connection.ca_file:
            tls.load_verify_locations(connection.ca_file)
        client: http.client.HTTPConnection = http.client.HTTPSConnection(
            host or "", port, timeout=PROVIDER_TIMEOUT_S, context=tls
        )
        if proxy.hostname:
            client.set_tunnel(parts.hostname or "", parts.port or 443, headers=login)
            login = {}
    else:
        client = http.client.HTTPConnection(host or "", port, timeout=PROVIDER_TIMEOUT_S)
        path = f"{parts.scheme}://{parts.netloc}{path}" if proxy.hostname else path
    with closing(client):
        client.request("HEAD", path, headers=login)
        date = client.getresponse().headers.get("Date")
        ours = datetime.now(UTC)
    return _instant_of(date), ours


def _instant_of(date: str | None) -> datetime | None:
    """The instant in a `Date` header; None without one. Raises ValueError."""
    at = parsedate_to_datetime(date) if date else None
    return at and at.replace(tzinfo=at.tzinfo or UTC)


def _proxy_login(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    login = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}


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
            yield Finding(IS_GOOD[result["result"]], f"key of connection {name}", f"{result.get('detail')}")
        except BridgeError as error:
            yield Finding(False, f"key of connection {name}", str(error))
