"""Layers of configuration: file, environment and command line.

    command line  >  environment (RUNBRIDGE_SECTION__KEY)  >  file  >  default

Every value keeps its origin. Values are validated elsewhere; here only keys that have no place are reported.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import UnionType
from typing import Annotated, Union, get_args, get_origin

from bridge.config.sections import NAMED_SECTIONS, SECTIONS
from bridge.config.values import Table
from bridge.domain.errors import Problem
from bridge.domain.suggestions import closest, dotted, unknown

PREFIX = "RUNBRIDGE_"
_FOR_THE_CLI = {"RUNBRIDGE_CONFIG", "RUNBRIDGE_URL", "RUNBRIDGE_TOKEN"}
# Kubernetes sets these in every pod beside a Service whose name is `runbridge` or begins with `runbridge-`.
_SERVICE_LINK = re.compile(
    r"RUNBRIDGE_PORT|RUNBRIDGE_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_SERVICE_URL = re.compile(r"(tcp|udp|sctp)://")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)

TablePath = tuple[str, ...]


class Layer(IntEnum):
    """Precedence: the higher one wins."""

    FILE = 0
    ENV = 1
    FLAG = 2


@dataclass(frozen=True, slots=True)
class Given:
    """One value as given; `origin` is `file:PATH`, `env:NAME` or `flag`. The repr hides the value."""

    value: object
    layer: Layer
    origin: str

    def __repr__(self) -> str:
        return f"Given({self.origin})"


class Layers:
    """All given values by table path and key, and the keys that have no place."""

    def __init__(self) -> None:
        self.tables: dict[TablePath, dict[str, Given]] = {}
        self.problems: list[Problem] = []
        self._unplaced_env: dict[str, Problem] = {}

    def add_document(self, document: Mapping[str, object], origin: str) -> None:
        """Add the values of the file."""
        for section, content in document.items():
            known = SECTIONS.keys() | {name for name in NAMED_SECTIONS if "." not in name}
            if section not in known:
                self._complain(section, unknown("section", section, sorted(known)))
            elif not isinstance(content, dict):
                self._complain(section, f"expected a table, written {_heading(section)}")
            elif section in SECTIONS:
                self._add_section(section, content, origin)
            else:
                self._add_named_tables(section, content, origin)

    def add_env(self, env: Mapping[str, str]) -> None:
        """Add the RUNBRIDGE_… variables, which override the file."""
        for variable in sorted(env):
            name = variable.upper()
            if not name.startswith(PREFIX) or name in _FOR_THE_CLI or _is_service_link(name, env[variable]):
                continue
            place = self._place_of(name.removeprefix(PREFIX))
            if isinstance(place, Problem):
                self._unplaced_env[variable] = Problem(variable, place.message)
            else:
                self._put(*place, Given(_read_text(*place, env[variable]), Layer.ENV, f"env:{variable}"))

    def add_flags(self, flags: Mapping[str, str]) -> None:
        """Add the values of the command line (`server.listen`), which override everything."""
        for flag, text in flags.items():
            section, _, rest = flag.partition(".")
            name, _, key = rest.rpartition(".")
            path = (section, name) if name else (section,)
            table = find_schema(path)
            if table is None or key not in table.known_keys():
                self._complain(flag, "unknown key on the command line")
            else:
                self._put(path, key, Given(_read_text(path, key, text), Layer.FLAG, "flag"))

    def all_problems(self) -> list[Problem]:
        """Every key that has no place, except variables that some X_env key names."""
        named = [given.value for table in self.tables.values() for key, given in table.items() if key.endswith("_env")]
        return self.problems + [problem for name, problem in self._unplaced_env.items() if name not in named]

    def _add_section(self, section: str, content: dict[str, object], origin: str) -> None:
        """Add a section and the named tables inside it (`[server.tokens.NAME]`)."""
        inner = {f"{section}.{key}" for key in content} & NAMED_SECTIONS.keys()
        self._add_table(
            (section,), {key: value for key, value in content.items() if f"{section}.{key}" not in inner}, origin
        )
        for nested in sorted(inner):
            tables = content[nested.removeprefix(f"{section}.")]
            if isinstance(tables, dict):
                self._add_named_tables(nested, tables, origin)
            else:
                self._complain(nested, f"expected tables, written {_heading(nested)}")

    def _add_named_tables(self, section: str, content: dict[str, object], origin: str) -> None:
        for name, table in content.items():
            shown = name if _NAME.fullmatch(name) else repr(name)
            if not isinstance(table, dict):
                self._complain(f"{section}.{name}", f"expected a table, written [{section}.NAME]")
                continue
            if shown != name:
                self._complain(
                    f"{section}.{shown}",
                    "a name has 1 to 64 letters, digits, dots, dashes and underscores and starts with a letter or digit",
                )
            self._add_table((section, shown), table, origin)

    def _add_table(self, path: TablePath, content: dict[str, object], origin: str) -> None:
        self.tables.setdefault(path, {})
        for key, value in content.items():
            self._put(path, key, Given(value, Layer.FILE, origin))

    def _put(self, path: TablePath, key: str, given: Given) -> None:
        table = self.tables.setdefault(path, {})
        for rival in _rivals(path, key) & table.keys():
            if table[rival].layer < given.layer:
                del table[rival]
        table[key] = given

    def _place_of(self, name: str) -> tuple[TablePath, str] | Problem:
        """The table and key that `SECTION__KEY` or `CONNECTIONS__NAME__KEY` means, or why there is none."""
        first, *middle, last = name.lower().split("__") if "__" in name else (name.lower(), "")
        if middle and f"{first}.{middle[0]}" in NAMED_SECTIONS:
            first, *middle = f"{first}.{middle[0]}", *middle[1:]
        path: TablePath = (first,)
        if first in NAMED_SECTIONS and middle:
            existing = self._tables_spelled(first, "__".join(middle))
            if len(existing) > 1:
                return Problem(name, f"means several tables: {', '.join(existing)}; set it in the file")
            path = (first, existing[0] if existing else "__".join(middle))
        elif middle or first in NAMED_SECTIONS:
            path = ()
        table = find_schema(path)
        if table is None or last not in table.known_keys() or not _NAME.fullmatch(path[-1]):
            return Problem(name, self._unknown_variable(name))
        return path, last

    def _tables_spelled(self, section: str, name: str) -> list[str]:
        found = [path[1] for path in self.tables if path[0] == section and len(path) > 1]
        return [candidate for candidate in found if _as_variable(candidate) == name.upper()]

    def _unknown_variable(self, name: str) -> str:
        known = [_as_variable(f"{section}__{key}") for section, table in SECTIONS.items() for key in table.known_keys()]
        for path in self.tables:
            if path[0] in NAMED_SECTIONS:
                known += [
                    _as_variable("__".join((path[0].replace(".", "__"), *path[1:], key)))
                    for key in schema_of(path).known_keys()
                ]
        meant = closest(name, known)
        hint = f"did you mean `{PREFIX}{meant}`?" if meant else "settings are named RUNBRIDGE_SECTION__KEY"
        return f"unknown variable; {hint}"

    def _complain(self, field: str, message: str) -> None:
        self.problems.append(Problem(field, message))


def _is_service_link(name: str, text: str) -> bool:
    return bool(_SERVICE_URL.match(text) or (_SERVICE_LINK.fullmatch(name) and "__" not in name))


def find_schema(path: TablePath) -> type[Table] | None:
    """The schema of the table at `path`; None if there can be no such table."""
    match path:
        case (section,):
            return SECTIONS.get(section)
        case (section, _):
            return NAMED_SECTIONS.get(section)
        case _:
            return None


def schema_of(path: TablePath) -> type[Table]:
    """The schema of a given table."""
    return NAMED_SECTIONS[path[0]] if len(path) > 1 else SECTIONS[path[0]]


def place(path: TablePath, *parts: object) -> str:
    """The dotted name of a key in a table."""
    return dotted((*path, *parts))


def variants(key: str) -> tuple[str, str, str]:
    """The three ways to give a secret."""
    return key, f"{key}_env", f"{key}_file"


def _rivals(path: TablePath, key: str) -> set[str]:
    """Keys that exclude `key`; a higher layer that sets `key` unsets them."""
    table = schema_of(path)
    groups = [set(table.rivals), *(set(variants(name)) for name in table.secrets)]
    return {rival for group in groups if key in group for rival in group} - {key}


def _read_text(path: TablePath, key: str, text: str) -> object:
    """The value of a text: a TOML literal unless the key wants text; lists may use commas."""
    literal = _literal(text)
    kind = _kind(path, key)
    if kind in (tuple, list):
        if isinstance(literal, list):
            return literal
        return [part.strip() for part in text.split(",") if part.strip()]
    if kind in (int, float, bool, dict):
        return text if literal is None else literal
    return literal if isinstance(literal, str) else text


def _literal(text: str) -> object:
    try:
        document = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return None
    return document["value"] if len(document) == 1 else None


def _kind(path: TablePath, key: str) -> object:
    """The plain type of a key, without Optional and Annotated; str if it is not a field."""
    table = schema_of(path)
    attribute = table.attributes().get(key)
    wanted: object = table.model_fields[attribute].annotation if attribute else str
    while get_origin(wanted) in (Union, UnionType, Annotated):
        wanted = get_args(wanted)[0]
    return get_origin(wanted) or wanted


def _as_variable(name: str) -> str:
    return re.sub(r"[^A-Z0-9]", "_", name.upper())


def _heading(section: str) -> str:
    return f"[{section}]" if section in SECTIONS else f"[{section}.NAME]"
