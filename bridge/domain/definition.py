"""A provider definition as the rest of the program has it, and the mistakes in one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Final

from bridge.domain.errors import BridgeError

METHODS: Final = ("get", "post", "put", "patch", "delete")
_PIECE: Final = re.compile(r"\{(\{\w+\})\}|\{([A-Za-z_]\w*)\}|([^{]+|\{)", re.ASCII)


@lru_cache(maxsize=4096)
def pieces(template: str) -> tuple[str, ...]:
    """A text by turns: as it is, and the name of a value that stands there in braces. `{{id}}` is `{id}` as it is."""
    found = [""]
    for escaped, name, text in _PIECE.findall(template):
        if name:
            found += [name, ""]
        else:
            found[-1] += escaped or text
    return tuple(found)


def names_in(template: str) -> tuple[str, ...]:
    """The names of the values in a text."""
    return pieces(template)[1::2]


def id_parts(run: Mapping[str, Any]) -> dict[str, str]:
    """The parts of a run's id with their kinds, in order."""
    kinds = run.get("id", "slug")
    return kinds if isinstance(kinds, dict) else {"id": kinds}


def key_place(tables: Mapping[str, Any]) -> Mapping[str, str]:
    """Where a request has the key, or the token for it: a `header`, with a `scheme` or without, a `query`, or nowhere."""
    match tables.get("auth", "bearer"):
        case "none":
            return {}
        case str() as scheme:
            return {"header": "Authorization", "scheme": scheme.capitalize()}
        case auth:
            place: Mapping[str, str] = auth if "exchange" not in auth else auth.get("send") or key_place({})
            return place


def key_header(place: Mapping[str, str], secret: str) -> dict[str, str]:
    """The header that has the key as it is; none where it goes another way."""
    text = f"{place['scheme']} {secret}" if "scheme" in place else secret
    return {place["header"]: text} if "header" in place else {}


def parts_elsewhere(tables: Mapping[str, Any]) -> list[str]:
    """The parts of a run's id that the items of [list] do not have, so that variables give them."""
    found = tables.get("list", {}).get("id", "")
    return [part for part in id_parts(tables["run"]) if part not in found] if isinstance(found, dict) else []


@dataclass(frozen=True)
class Definition:
    """A definition without mistakes. `tables` is the file, with what its base gives.

    `origin` is where it was found, `digest` of its bytes and those of its base.
    """

    name: str
    version: str
    origin: str
    digest: str
    tables: dict[str, Any] = field(repr=False, compare=False)

    @property
    def base_url(self) -> str | None:
        """The base URL; None if each connection gives its own."""
        return self.tables.get("base_url")

    @cached_property
    def variables(self) -> dict[str, dict[str, Any]]:
        """The variables that a connection gives beside its key: by name whether it is required, its default, what it is.

        The parts of a run's id that the items of [list] do not have are among them. One that the path of a run needs is
        required.
        """
        known = {part: {"about": "for the list"} for part in parts_elsewhere(self.tables)} | self.tables.get("vars", {})
        needed = set(_names_in_path(self.tables["run"])) - id_parts(self.tables["run"]).keys()
        return {
            name: {**spec, "required": True} if name in needed and "default" not in spec else spec
            for name, spec in known.items()
        }

    def values(self, given: Mapping[str, str]) -> dict[str, str]:
        """The values of the variables at a connection that gives these: with their defaults, else empty."""
        return {name: given.get(name, spec.get("default", "")) for name, spec in self.variables.items()}

    def list_lacks(self, given: Mapping[str, str]) -> list[str]:
        """The variables without which a connection has no list."""
        values = self.values(given)
        needed = dict.fromkeys((*parts_elsewhere(self.tables), *_names_in_path(self.tables.get("list", {}))))
        return [name for name in needed if not values[name]]


def _names_in_path(table: Mapping[str, Any]) -> tuple[str, ...]:
    """The names in the path of a request's address."""
    address: str = table.get("get") or table.get("post") or ""
    return names_in(address.partition("?")[0])


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake in a file: the line if known, the key, and a sentence."""

    file: str
    line: int | None
    key: str
    message: str

    @property
    def place(self) -> str:
        """`FILE:LINE`, or the file alone."""
        return f"{self.file}:{self.line}" if self.line else self.file

    @property
    def said(self) -> str:
        """The key and the sentence."""
        return f"{self.key}: {self.message}" if self.key else self.message

    def __str__(self) -> str:
        return f"{self.place}: {self.said}"


class DefinitionInvalid(BridgeError):
    """One or more definitions cannot be used."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        self.mistakes = mistakes
        super().__init__("; ".join(map(str, mistakes)))
