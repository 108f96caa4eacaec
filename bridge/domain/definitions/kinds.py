"""The kinds of value that a key of a definition may have. Each checks a value, and describes itself as JSON Schema."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final, Protocol

from bridge.domain.suggestions import closest

Path = tuple[str | int, ...]
Fault = tuple[Path, str]  # where, and a sentence: what was found, what is allowed
_SHOWN_CHARS_MAX: Final = 60


class Kind(Protocol):
    """What a key may hold. `names` are the TOML types, for a person."""

    @property
    def names(self) -> str:
        """The types that are allowed, such as `text or a list`."""
        ...

    def fits(self, value: object) -> bool:
        """Whether the value has the right type, so that `faults` can look into it."""
        ...

    def faults(self, value: Any, at: Path) -> Iterator[Fault]:
        """Everything that is wrong with a value of the right type."""
        ...

    def schema(self) -> dict[str, Any]:
        """JSON Schema (draft 7) of the kind."""
        ...


def faults_of(kind: Kind, value: object, at: Path) -> Iterator[Fault]:
    """Everything that is wrong with a value."""
    if kind.fits(value):
        yield from kind.faults(value, at)
    else:
        yield at, f"found {shown(value)}; allowed: {kind.names}"


def shown(value: object) -> str:
    """A value as a message quotes it, on one line and not too long."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except ValueError:
        text = repr(value)
    return text if len(text) <= _SHOWN_CHARS_MAX else f"{text[: _SHOWN_CHARS_MAX - 1]}…"


@dataclass(frozen=True, slots=True)
class Text:
    """Text: one of `choices`, or of the form `pattern`, or what `check` accepts (it raises a ValueError that says why)."""

    about: str = ""
    choices: tuple[str, ...] = ()
    pattern: str | None = None
    form: str = ""
    check: Callable[[str], None] | None = None
    names: str = "text"

    def fits(self, value: object) -> bool:
        """Whether it is text."""
        return isinstance(value, str)

    def faults(self, value: str, at: Path) -> Iterator[Fault]:
        """A word that is no choice, another form, what `check` says."""
        if self.choices and value not in self.choices:
            yield at, f"found {shown(value)}; allowed: {', '.join(self.choices)}{_nearest(value, self.choices)}"
        elif self.pattern and not re.fullmatch(self.pattern, value):
            yield at, f"found {shown(value)}; allowed: {self.form}"
        elif self.check:
            try:
                self.check(value)
            except ValueError as error:
                yield at, f"found {shown(value)}; {error}"

    def schema(self) -> dict[str, Any]:
        """Text with its choices or pattern."""
        more: dict[str, Any] = {"enum": list(self.choices)} if self.choices else {}
        more |= {"pattern": f"^(?:{self.pattern})$"} if self.pattern else {}
        return {"type": "string", **more, **_described(self.about)}


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number of at least `minimum`."""

    minimum: int
    maximum: int
    about: str = ""

    @property
    def names(self) -> str:
        """The range, unless it is that of whole numbers in JSON."""
        if self.minimum == self.maximum:
            return f"{self.minimum}, which is what this runbridge reads"
        return "a whole number" + (f" from {self.minimum} to {self.maximum}" if self.maximum < 2**53 else "")

    def fits(self, value: object) -> bool:
        """Whether it is a number in the range."""
        return isinstance(value, int) and not isinstance(value, bool) and self.minimum <= value <= self.maximum

    def faults(self, value: int, at: Path) -> Iterator[Fault]:
        """None beyond the range."""
        return iter(())

    def schema(self) -> dict[str, Any]:
        """A number with its range."""
        return {"type": "integer", "minimum": self.minimum, "maximum": self.maximum, **_described(self.about)}


@dataclass(frozen=True, slots=True)
class YesNo:
    """true or false."""

    about: str = ""
    names: str = "true or false"

    def fits(self, value: object) -> bool:
        """Whether it is one of both."""
        return isinstance(value, bool)

    def faults(self, value: bool, at: Path) -> Iterator[Fault]:
        """None."""
        return iter(())

    def schema(self) -> dict[str, Any]:
        """A boolean."""
        return {"type": "boolean", **_described(self.about)}


@dataclass(frozen=True, slots=True)
class Day:
    """A date without quotes."""

    about: str = ""
    names: str = "a date such as 2026-11-29, without quotes"

    def fits(self, value: object) -> bool:
        """Whether it is a TOML date without a time."""
        return type(value) is date

    def faults(self, value: date, at: Path) -> Iterator[Fault]:
        """None."""
        return iter(())

    def schema(self) -> dict[str, Any]:
        """A TOML date; editors show it as text."""
        return {"type": "string", "format": "date", **_described(self.about)}


@dataclass(frozen=True, slots=True)
class Anything:
    """Any JSON."""

    about: str = ""
    names: str = "anything"

    def fits(self, value: object) -> bool:
        """Always."""
        return True

    def faults(self, value: object, at: Path) -> Iterator[Fault]:
        """A date, which JSON does not have; anywhere inside."""
        match value:
            case dict():
                for name, inner in value.items():
                    yield from self.faults(inner, (*at, name))
            case list():
                for number, inner in enumerate(value):
                    yield from self.faults(inner, (*at, number))
            case str() | int() | float():
                pass
            case _:
                yield at, f"found {shown(value)}, which JSON does not have; write it as text"

    def schema(self) -> dict[str, Any]:
        """No limits."""
        return _described(self.about)


@dataclass(frozen=True, slots=True)
class Items:
    """A list of at least one of a kind; `is_empty_allowed` says where none is fine."""

    of: Kind
    about: str = ""
    is_empty_allowed: bool = False

    @property
    def names(self) -> str:
        """A list of what."""
        return "a list: [[…]]" if isinstance(self.of, Table) else f"a list of {self.of.names}"

    def fits(self, value: object) -> bool:
        """Whether it is a list."""
        return isinstance(value, list)

    def faults(self, value: list[Any], at: Path) -> Iterator[Fault]:
        """Those of every item."""
        if not value and not self.is_empty_allowed:
            yield at, "the list is empty; leave the key out instead"
        for number, item in enumerate(value):
            yield from faults_of(self.of, item, (*at, number))

    def schema(self) -> dict[str, Any]:
        """An array."""
        return {"type": "array", "items": self.of.schema(), **_described(self.about)}


@dataclass(frozen=True, slots=True)
class Named:
    """A table whose keys the author chooses; each holds the same kind."""

    of: Kind
    about: str = ""

    @property
    def names(self) -> str:
        """A table of what."""
        return f"a table whose values are {self.of.names}"

    def fits(self, value: object) -> bool:
        """Whether it is a table."""
        return isinstance(value, dict)

    def faults(self, value: dict[str, Any], at: Path) -> Iterator[Fault]:
        """Those of every value."""
        if not value:
            yield at, "the table is empty; leave it out instead"
        for name, inner in value.items():
            yield from faults_of(self.of, inner, (*at, name))

    def schema(self) -> dict[str, Any]:
        """An object with free names."""
        return {"type": "object", "additionalProperties": self.of.schema(), **_described(self.about)}


@dataclass(frozen=True, slots=True)
class Table:
    """A table with fixed keys. `required` must be there; of each group in `one_of` exactly one."""

    keys: Mapping[str, Kind]
    required: tuple[str, ...] = ()
    one_of: tuple[tuple[str, ...], ...] = ()
    about: str = ""
    moved: Mapping[str, str] = field(default_factory=dict)  # a key that belongs elsewhere, and where
    names: str = "a table"

    def fits(self, value: object) -> bool:
        """Whether it is a table."""
        return isinstance(value, dict)

    def faults(self, value: dict[str, Any], at: Path) -> Iterator[Fault]:
        """Unknown keys, missing ones, too many of a group, and those of every value."""
        for name, inner in value.items():
            if name in self.keys:
                yield from faults_of(self.keys[name], inner, (*at, name))
            else:
                where = f"; `{name}` belongs into {self.moved[name]}" if name in self.moved else ""
                allowed = where or f"; allowed: {', '.join(self.keys)}{_nearest(name, self.keys)}"
                yield (*at, name), f"unknown key `{name}`{allowed}"
        for name in self.required:
            if name not in value:
                yield (*at, name), f"the key `{name}` is missing"
        for group in self.one_of:
            given = [name for name in group if name in value]
            if len(given) != 1:
                found = " and ".join(f"`{name}`" for name in given) or "none of them"
                yield at, f"exactly one of {', '.join(group)} is needed; found {found}"

    def schema(self) -> dict[str, Any]:
        """An object without further properties."""
        more = {"required": list(self.required)} if self.required else {}
        properties = {name: kind.schema() for name, kind in self.keys.items()}
        return {
            "type": "object",
            "properties": properties,
            "additionalProperties": False,
            **more,
            **_described(self.about),
        }


@dataclass(frozen=True, slots=True)
class Either:
    """One of several kinds, of different TOML types, so that the value's type chooses."""

    kinds: tuple[Kind, ...]
    about: str = ""

    @property
    def names(self) -> str:
        """All of them."""
        return " or ".join(kind.names for kind in self.kinds)

    def fits(self, value: object) -> bool:
        """Whether one fits."""
        return any(kind.fits(value) for kind in self.kinds)

    def faults(self, value: object, at: Path) -> Iterator[Fault]:
        """Those of the kind that fits."""
        for kind in self.kinds:
            if kind.fits(value):
                return kind.faults(value, at)
        raise AssertionError("`fits` was asked first")

    def schema(self) -> dict[str, Any]:
        """One of several types."""
        return {"anyOf": [kind.schema() for kind in self.kinds], **_described(self.about)}


def _described(about: str) -> dict[str, str]:
    return {"description": about} if about else {}


def _nearest(word: str, known: Any) -> str:
    meant = closest(word, known)
    return f"; did you mean `{meant}`?" if meant else ""
