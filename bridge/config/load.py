"""Load the configuration: file, environment and command line become one frozen value, or every mistake at once.

Loading reads files and changes nothing, so that a reload applies completely or not at all.
"""

from __future__ import annotations

import os
import re
import ssl
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from bridge.config.connection_sections import CadenceTable, ConnectionTable
from bridge.config.layers import Given, Layer, Layers, TablePath, place, variants
from bridge.config.locate import home_of
from bridge.config.secret_sources import odd_secrets, readable_secrets, sources_for
from bridge.config.sections import (
    SECTIONS,
    AlertTable,
    BackupSettings,
    DashboardSettings,
    DatabaseSettings,
    DeliverySettings,
    EndpointTable,
    LogSettings,
    OtelSettings,
    ProvidersSettings,
    RetentionSettings,
    SecretsSettings,
    ServerSettings,
    TokenTable,
    otel_lacks,
)
from bridge.config.values import Table
from bridge.definitions.files import Definitions
from bridge.domain.addresses.policy import AddressPolicy, AllowRule, Trust
from bridge.domain.alert import ChannelKind
from bridge.domain.api_token import ApiToken, Scope
from bridge.domain.connection import CadenceSettings, Connection
from bridge.domain.definition import Definition, DefinitionInvalid
from bridge.domain.endpoint import Endpoint, EndpointSource
from bridge.domain.errors import InvalidInput, Problem
from bridge.domain.secret import Secret
from bridge.domain.validation import describe
from bridge.domain.webhook_url import check_target

TOKENS = "server.tokens"
FILE_BYTES_MAX = 4 * 1024 * 1024
_WORDS = {
    "string_type": "expected text in quotes",
    "tuple_type": 'expected a list such as ["…", "…"]',
    "dict_type": 'expected a table such as { name = "value" }',
}
_TUPLE = re.compile(r"\('(.*)',?\)")  # how tomllib writes the name of a table
_AT = re.compile(r"(?P<what>.*?) ?\(at (?P<where>.*)\)", re.DOTALL)

SomeTable = TypeVar("SomeTable", bound=Table)


class ConfigInvalid(InvalidInput):
    """The configuration cannot be used; every mistake is named with its key and the remedy."""


class FileEndpoint(Endpoint):
    """An endpoint from the operator's file; its name is its id, and its secret is not stored."""

    secret: Secret


@dataclass(frozen=True, slots=True)
class Config:
    """Every setting in effect, checked. `origins` maps each dotted key without its default to its source."""

    path: Path | None
    server: ServerSettings
    tokens: tuple[ApiToken, ...]
    database: DatabaseSettings
    secrets: SecretsSettings
    retention: RetentionSettings
    backup: BackupSettings
    alerts: dict[str, AlertTable]
    connections: dict[str, Connection]
    endpoints: dict[str, FileEndpoint]
    delivery: DeliverySettings
    cadence: CadenceSettings
    dashboard: DashboardSettings
    otel: OtelSettings | None
    """None: no spans are sent."""
    log: LogSettings
    warnings: tuple[Problem, ...]
    origins: dict[str, str]
    definitions: frozenset[str]
    """The names of all definitions that can be found."""


def load_config(path: Path | None, *, env: Mapping[str, str], flags: Mapping[str, str] | None = None) -> Config:
    """The configuration in effect; `flags` holds dotted keys (`server.listen`) given on the command line.

    Raises ConfigInvalid, which names every mistake at once.
    """
    return load_document(_read_document(path) if path else {}, path, env=env, flags=flags or {})


def load_document(
    document: Mapping[str, object], path: Path | None, *, env: Mapping[str, str], flags: Mapping[str, str]
) -> Config:
    """As `load_config`, for a document that has been read from `path` already."""
    layers = Layers()
    layers.add_document(document, f"file:{path}")
    layers.add_env(env)
    layers.add_flags(flags)
    return _Loading(path, layers, env).config()


def changes_that_need_restart(old: Config, new: Config) -> list[str]:
    """The keys that differ and that a reload cannot put into effect."""
    changed = {
        "server.listen": old.server.listen != new.server.listen,
        "database.url": old.database.url != new.database.url,
        "database.lease": old.database.lease_s != new.database.lease_s,
        "otel": old.otel != new.otel,
        "log": old.log != new.log,
    }
    return [key for key, is_changed in changed.items() if is_changed]


class _Loading:
    """One pass over the layers: resolve secrets, validate table by table, collect every problem."""

    def __init__(self, path: Path | None, layers: Layers, env: Mapping[str, str]) -> None:
        self._path = path
        self._env = env
        self._problems = layers.all_problems()
        self._warnings = readable_secrets(path, layers)
        self._tables: dict[TablePath, dict[str, Given]] = {}
        self._faulty_keys: set[str] = set()
        self._sources = sources_for(path, env)
        self._definitions = Definitions()
        for at, given in layers.tables.items():
            self._tables[at], problems = self._sources.resolve(at, given)
            self._problems += problems
            self._faulty_keys |= {_stem(problem.field) for problem in problems}
        self._provide_database()
        self._definitions = Definitions(self._definitions_folder())
        for at, table in self._tables.items():
            definition = self._definition(str(table["provider"].value)) if "provider" in table else None
            is_login = definition is not None and definition.tables.get("auth") == "basic"
            self._warnings += odd_secrets(at, table, is_login=is_login)

    def _definitions_folder(self) -> Path | None:
        """The folder of provider definitions; another one than the default must be there."""
        settings = self._validated(ProvidersSettings, ("providers",))
        if settings is None or (self._path is None and "folder" not in settings.model_fields_set):
            return None
        folder = (self._path.parent if self._path else Path.cwd()) / settings.folder
        if settings.folder != ProvidersSettings().folder and not folder.is_dir():
            self._problems.append(Problem("providers.folder", f"there is no folder {folder}; create it or correct it"))
        return folder

    def config(self) -> Config:
        """The complete configuration. Raises ConfigInvalid if there is any problem."""
        cadence_table = self._validated(CadenceTable, ("cadence",), CadenceSettings())
        cadence = cadence_table.over(CadenceSettings()) if cadence_table else CadenceSettings()
        server = self._validated(ServerSettings, ("server",))
        tokens = self._tokens(server)
        database = self._validated(DatabaseSettings, ("database",))
        connections = self._connections(cadence)
        delivery = self._validated(DeliverySettings, ("delivery",))
        endpoints = self._endpoints(delivery)
        secrets = self._validated(SecretsSettings, ("secrets",))
        retention = self._validated(RetentionSettings, ("retention",))
        backup = self._backup(database)
        alerts = self._alerts(delivery)
        dashboard = self._validated(DashboardSettings, ("dashboard",))
        otel = self._otel()
        log = self._validated(LogSettings, ("log",))
        if self._problems or not (server and database and secrets and retention and backup and delivery and log):
            raise ConfigInvalid(self._problems)
        assert dashboard is not None  # or there would be a problem
        return Config(
            path=self._path,
            server=server,
            tokens=tokens,
            database=database,
            secrets=secrets,
            retention=retention,
            backup=backup,
            alerts=alerts,
            connections=connections,
            endpoints=endpoints,
            delivery=delivery,
            cadence=cadence,
            dashboard=dashboard,
            otel=otel,
            log=log,
            warnings=tuple(self._warnings),
            origins={
                place(at, key): given.origin for at, table in self._tables.items() for key, given in table.items()
            },
            definitions=frozenset(self._definitions.names),
        )

    def _provide_database(self) -> None:
        table = self._tables.setdefault(("database",), {})
        if "url" not in table and "database.url" not in self._faulty_keys:
            table["url"] = Given(default_database_url(self._env), Layer.FILE, "default")

    def _tokens(self, server: ServerSettings | None) -> tuple[ApiToken, ...]:
        names = [at[1] for at in self._tables if at[0] == TOKENS]
        tables = {name: self._validated(TokenTable, (TOKENS, name)) for name in names}
        tokens = [ApiToken(name, table.token, Scope(table.scope)) for name, table in tables.items() if table]
        taken = {server.api_token.reveal(): "server.api_token"} if server else {}
        for each in tokens:
            at = place((TOKENS, each.name), "token")
            other = taken.setdefault(each.token.reveal(), at)
            if other != at:
                self._problems.append(Problem(at, f"is the same as {other}; give each its own"))
        return tuple(tokens)

    def _backup(self, database: DatabaseSettings | None) -> BackupSettings | None:
        backup = self._validated(BackupSettings, ("backup",))
        if backup and backup.schedule and database and not database.url.startswith("sqlite"):
            self._problems.append(
                Problem(
                    "backup.schedule",
                    "copies SQLite databases only; leave [backup] out and back PostgreSQL up with pg_dump",
                )
            )
        elif backup and backup.schedule and database:
            self._check_backup_folder(backup.folder, database.url)
        return backup

    def _check_backup_folder(self, folder: str, database_url: str) -> None:
        """A file in its place is a mistake; one that we may not write in is a warning: the daemon has another user."""
        file = database_url.removeprefix("sqlite:///")
        path = Path(file).absolute().parent / folder
        nearest = next(place for place in (path, *path.parents) if os.access(place, os.F_OK))
        at = "backup.folder"
        if not nearest.is_dir():
            self._problems.append(Problem(at, f"{nearest} is a file, so no folder can be made there; name another"))
        elif not os.access(nearest, os.W_OK | os.X_OK):
            said = f"{nearest} cannot be written by this user; give the daemon's user write permission there"
            self._warnings.append(Problem(at, said))

    def _connections(self, cadence: CadenceSettings) -> dict[str, Connection]:
        names = [at[1] for at in self._tables if at[0] == "connections"]
        self._problems += [
            Problem(mistake.place, mistake.said) for mistake in dict.fromkeys(self._definitions.mistakes)
        ]
        for name in names:
            self._need_no_key(name)
        tables = {name: self._validated(ConnectionTable, ("connections", name), cadence) for name in names}
        connections = {
            name: table.connection(name, cadence, self._definition(table.provider))
            for name, table in tables.items()
            if table
        }
        return {name: self._with_certificates(connection) for name, connection in connections.items()}

    def _need_no_key(self, name: str) -> None:
        """Give a connection whose definition sends no key one that is never sent."""
        table = self._tables["connections", name]
        provider = table.get("provider")
        definition = self._definition(str(provider.value)) if provider else None
        if definition is not None and definition.tables.get("auth") == "none":
            table.setdefault("api_key", Given(Secret("none"), Layer.FILE, "default"))

    def _definition(self, provider: str) -> Definition | None:
        """The definition of that name; None for a provider in code. Its mistakes are collected."""
        if provider not in self._definitions.files:
            return None
        try:
            return self._definitions.get(provider)
        except DefinitionInvalid as invalid:
            known = {problem.field for problem in self._problems}
            self._problems += [
                Problem(mistake.place, mistake.said) for mistake in invalid.mistakes if mistake.place not in known
            ]
            return None

    def _with_certificates(self, connection: Connection) -> Connection:
        """The connection with the path of its `ca_file`, which must hold certificates."""
        if connection.ca_file is None:
            return connection
        try:
            path = str(self._sources.find(connection.ca_file))
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
        except (ValueError, OSError) as error:  # an SSLError is an OSError
            why = "it is not a PEM file" if isinstance(error, ssl.SSLError) else getattr(error, "strerror", None)
            said = str(error) if isinstance(error, ValueError) else f"holds no certificate that can be read: {why}"
            self._problems.append(Problem(place(("connections", connection.name), "ca_file"), said))
            return connection
        return replace(connection, ca_file=path)

    def _endpoints(self, delivery: DeliverySettings | None) -> dict[str, FileEndpoint]:
        names = [at[1] for at in self._tables if at[0] == "endpoints"]
        tables = {name: self._validated(EndpointTable, ("endpoints", name)) for name in names}
        self._check_reach("endpoints", {name: table.url for name, table in tables.items() if table}, delivery)
        source = EndpointSource.CONFIG
        return {name: FileEndpoint(id=name, source=source, **dict(table)) for name, table in tables.items() if table}

    def _alerts(self, delivery: DeliverySettings | None) -> dict[str, AlertTable]:
        names = [at[1] for at in self._tables if at[0] == "alerts"]
        tables = {name: table for name in names if (table := self._validated(AlertTable, ("alerts", name)))}
        urls = {name: table.url.reveal() for name, table in tables.items() if table.kind is not ChannelKind.EMAIL}
        self._check_reach("alerts", urls, delivery)
        return tables

    def _otel(self) -> OtelSettings | None:
        """The settings if spans are sent.

        A missing extra is a mistake, or a warning where only the environment names a collector.
        """
        otel = self._validated(OtelSettings, ("otel",))
        if otel is None or not otel.sends(self._env):
            return None
        if (lacks := otel_lacks()) is None:
            return otel
        (self._problems if otel.endpoint else self._warnings).append(Problem("otel.endpoint", lacks))
        return None

    def _check_reach(self, section: str, urls: Mapping[str, str], delivery: DeliverySettings | None) -> None:
        """Collect the reasons why an address can never be dialled, as far as they are known without DNS."""
        if delivery is None:
            return
        policy = AddressPolicy(Trust.CONFIG, tuple(map(AllowRule.parse, delivery.allow)), delivery.allow_http)
        for name, url in urls.items():
            try:
                check_target(url, policy)
            except InvalidInput as invalid:
                self._problems += [Problem(place((section, name), "url"), each.message) for each in invalid.problems]

    def _validated(
        self, table: type[SomeTable], at: TablePath, cadence: CadenceSettings | None = None
    ) -> SomeTable | None:
        """The validated table at `at`; None if it has problems, which are collected."""
        given = self._tables.get(at, {})
        try:
            return table.model_validate(
                {key: value.value for key, value in given.items()},
                context={"cadence": cadence or CadenceSettings(), "definitions": self._definitions},
            )
        except ValidationError as invalid:
            errors = invalid.errors(include_url=False, include_input=False)
        for error in errors:
            key = _key_of(table, error)
            if place(at, key) not in self._faulty_keys:
                words = {**_WORDS, "missing": _missing(table, key)}
                said = _elsewhere(table, key) if error["type"] == "extra_forbidden" else ""
                message = said or describe(error, "key", table.known_keys(), words)
                message += self._origin_of(given.get(key))
                self._problems.append(Problem(place(at, key, *error["loc"][1:]), message))
        return None

    def _origin_of(self, given: Given | None) -> str:
        """The origin of a wrong value, unless it is the file itself."""
        if given is None or given.origin in (f"file:{self._path}", "default"):
            return ""
        return f" (from {given.origin})"


def _read_document(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise _unreadable(path, f"cannot read the file: {error.strerror}; name another with --config") from None
    if len(content) > FILE_BYTES_MAX:
        raise _unreadable(path, f"more than {FILE_BYTES_MAX // 1024**2} MiB; this is not a configuration file")
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _unreadable(path, f"line {line} is not UTF-8; save the file as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise _unreadable(path, _syntax_complaint(str(error))) from None
    except RecursionError:
        raise _unreadable(path, "lists or tables are nested too deeply") from None


def _unreadable(path: Path, message: str) -> ConfigInvalid:
    return ConfigInvalid([Problem(str(path), message)])


def _syntax_complaint(text: str) -> str:
    """The parser's `What (at line 3, column 5)` with the position first."""
    found = _AT.fullmatch(_TUPLE.sub(lambda names: "[" + names[1].replace("', '", ".") + "]", text))
    return f"not TOML at {found['where']}: {found['what']}" if found else f"not TOML: {text}"


def default_database_url(env: Mapping[str, str]) -> str:
    """A SQLite file in systemd's state directory, or in the user's."""
    if state := env.get("STATE_DIRECTORY", "").partition(":")[0]:
        folder = Path(state)
    elif (state := env.get("XDG_STATE_HOME", "")).startswith("/"):  # the XDG rules: a relative one is ignored
        folder = Path(state) / "runbridge"
    else:
        folder = home_of(env) / ".local/state/runbridge"
    return f"sqlite:///{folder / 'runbridge.db'}"


def _missing(table: type[Table], key: str) -> str:
    if key == "api_token":
        return "missing; run `runbridge init` for a configuration with a fresh one, or set RUNBRIDGE_SERVER__API_TOKEN"
    if key in table.secrets:
        return f"missing; give one of {', '.join(variants(key))}"
    if key == "provider":
        return "missing; one of dibby, retab, dify, instabase, or another definition: runbridge providers list"
    return "missing; it is required"


def _elsewhere(table: type[Table], key: str) -> str:
    """The sentence for a section of the file that was put into a table; empty if the key is none."""
    if key == "cadence" and issubclass(table, CadenceTable):
        return 'unknown key; the keys of [cadence] stand in the connection itself, as in min_interval = "1s"'
    return f"unknown key; [{key}] is a table of its own, at the top of the file" if key in SECTIONS else ""


def _key_of(table: type[Table], error: ErrorDetails) -> str:
    """The key as in the file; pydantic names the attribute if a default conflicts with a given value."""
    first = str(error["loc"][0])
    by_attribute = {attribute: key for key, attribute in table.attributes().items()}
    return first if error["type"] == "extra_forbidden" else by_attribute.get(first, first)


def _stem(name: str) -> str:
    return name.removesuffix("_env").removesuffix("_file")
