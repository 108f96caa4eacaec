"""Read an answer as a definition says: compiled once, then a pure function of the body.

An expression that fails is a remark and counts as nothing found; it is never a value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Final

from bridge.definitions.check import word_text
from bridge.definitions.expressions import Find, Notes, finder, is_true, paths_of
from bridge.definitions.schema import STATUSES
from bridge.domain.errors import BadPayload
from bridge.domain.frozen import frozen
from bridge.domain.observation import Observation
from bridge.domain.run import Json, Progress, RunError, RunStatus
from bridge.domain.timestamps import instant_from_ns, provider_instant
from bridge.providers.fields import WORD_CHARS_MAX, error_of, id_of, link_of, progress_of, short_text, unpack_json
from bridge.providers.partial_json import RunFields

Convert = Callable[[Any], Any]
_KIND: Final = {str: "text", int: "a number", float: "a number", bool: "a boolean", dict: "an object", list: "a list"}
_UNITS_NS: Final = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_NUMBER: Final = re.compile(r"\s*-?\d+(?:\.\d+)?\s*", re.ASCII)
_NO_PATHS: Final = frozenset({"as", "time", "decode", "is", "when", "http", "header", "means"})
_RATIO: Final = re.compile(r"\s*(\d{1,15})\s*/\s*(\d{1,15})\s*", re.ASCII)
_NOTHING: Final = "null"  # the word that a missing status is shown as
_EXACT_FLOAT_MAX: Final = 2**53
_NO_TIME: Final = ("0000-", "0001-", "1970-01-01")  # how "not yet" is written by those who write a time for it
_NO_NUMBER: Final = (0, -1, "", "0", "-1")  # the same as a number
_OBSERVED: Final = [field.name for field in fields(Observation)]
_PLACES: Final = {name.removesuffix("_id"): at for at, name in enumerate([*_OBSERVED, "id"])}
_ERROR, _OUTPUT, _ELSEWHERE = _PLACES["error"], _PLACES["output"], _PLACES["output_is_elsewhere"]
_BLANK: Final = [False if name.startswith("output_") else None for name in list(_PLACES)[2:]]
_CONVERT: Final[Mapping[str, Convert]] = {
    "id": id_of, "workflow": short_text, "error": error_of, "generation": short_text, "link": link_of,
}  # fmt: skip


@frozen
class Reading:
    """The reading of an answer about a run, and the expressions that could not be evaluated.

    `rule` is what decided the status: `when[0]`, a canonical status whose list has the word, `absent` or nothing.
    `answered_id` is the id in the answer, if [read] names one.
    """

    observation: Observation
    remarks: tuple[str, ...] = ()
    rule: str = ""
    answered_id: str | None = None


class DefinitionReader:
    """The tables `read` and `status` of a definition, compiled. `fields` are the members to keep of a damaged answer."""

    def __init__(self, tables: Mapping[str, Any]) -> None:
        read, status, output = tables["read"], tables["status"], tables.get("output")
        self.fields = _fields_of(tables)
        self._status, self._unpack = _field("status", read["status"])
        self._is_text_only = isinstance(read["status"], dict) and "as" in read["status"]
        found = {key: _field(key, given) for key, given in read.items() if key != "status"}
        self._fields = [(_PLACES[key], *one) for key, one in found.items() if not key.endswith("_at")]
        self._instants = [
            (_PLACES[key], key, one, read[key].get("time", "iso") if isinstance(read[key], dict) else "iso")
            for key, (one, _) in found.items()
            if key.endswith("_at")
        ]
        self._folds = status.get("case") == "ignore"
        self._words = {
            form: (RunStatus(name), name)
            for name in STATUSES
            for word in status.get(name, ())
            for form in (word_text(word), self._folded(word_text(word)))
        }
        self._absent = status.get("absent")
        self._rules = [_rule(f"when[{number}]", rule) for number, rule in enumerate(status.get("when", ()))]
        error = read.get("error")
        self._error_when = tuple(map(RunStatus, error["when"])) if isinstance(error, dict) and "when" in error else None
        after = () if output is None else output.get("when", ("succeeded", "partial"))
        self.output_after = tuple(map(RunStatus, after))  # no set: a tuple compares by identity first

    def _folded(self, word: str) -> str:
        return word.strip().casefold() if self._folds else word

    def read(self, body: Json, notes: Notes | None = None) -> Reading:
        """Read the body of an answer about a run. Raises BadPayload if it lacks a status that it must have."""
        notes = Notes() if notes is None else notes
        status, word, rule = self._judge(body, notes)
        if notes and status.is_settled and any(note.startswith("status.when") for note in notes):
            status, rule = RunStatus.UNKNOWN, ""  # an outcome is not believed where a rule could not be evaluated
        values: list[Any] = [status, word, *_BLANK]
        for at, find_, convert in self._fields:
            value = find_(body, notes)
            if value is not None:
                values[at] = value if convert is None else convert(value)
        for at, key, find_, form in self._instants:
            value = find_(body, notes)
            if value is not None:
                values[at] = instant_of(value, form)
                if values[at] is None and value not in _NO_NUMBER and not str(value).startswith(_NO_TIME):
                    notes.append(
                        f"read.{key} finds {_KIND[type(value)]} that is not a time in the form {form}; set `time`"
                    )
        if status in self.output_after:
            values[_ELSEWHERE] = values[_OUTPUT] is None
        if self._error_when is not None and status not in self._error_when:
            values[_ERROR] = None
        *seen, answered_id = values
        return Reading(Observation(*seen), tuple(dict.fromkeys(notes)) if notes else (), rule, answered_id)

    def _judge(self, body: Json, notes: Notes) -> tuple[RunStatus, str, str]:
        """Canonical status, the word to show, and what decided: the first rule that is true, else the word."""
        raw = self._status(body, notes) if self._unpack is None else self._unpack(self._status(body, notes))
        if self._is_text_only and not (isinstance(raw, str) and raw.strip()):
            raw = None
        word = raw if isinstance(raw, str) else _word_of(raw)
        for condition, status, shown, rule in self._rules:
            if is_true(condition(body, notes)):
                return status, (_word_of(shown(body, notes)) or word or _NOTHING)[:WORD_CHARS_MAX], rule
        if word is None:
            if self._absent == "unusable":
                raise BadPayload("the answer has no status")
            if self._absent is not None and raw is None:
                return RunStatus(self._absent), _NOTHING, "absent"
            notes.append(f"read.status finds {'nothing' if raw is None else 'no single word'} in the answer")
            return RunStatus.UNKNOWN, _NOTHING, ""
        status, name = self._words.get(word) or self._words.get(self._folded(word)) or (RunStatus.UNKNOWN, "")
        return status, word[:WORD_CHARS_MAX], name


def _rule(name: str, given: Mapping[str, str]) -> tuple[Find, RunStatus, Find, str]:
    """A rule of [[status.when]]: its condition, the status, the word to show, and the rule as `try` names it."""
    condition, raw = (finder(given.get(key, "`null`"), f"status.{name}.{key}") for key in ("if", "raw"))
    return condition, RunStatus(given["is"]), raw, f"{name}: {given['if']}"


def _word_of(raw: Any) -> str | None:
    """A status as text: numbers and booleans by their JSON; None for null and for what is not a single value."""
    if raw is None or isinstance(raw, dict | list):
        return None
    return raw if isinstance(raw, str) else json.dumps(raw)


def _field(key: str, given: Any) -> tuple[Find, Convert | None]:
    """How a value of [read] is found in an answer, and what is made of it if it is not null."""
    if key == "progress":
        return _progress(given), None
    if isinstance(given, dict) and "message" in given:
        return _error(given), None
    find, convert = finder(given["path"] if isinstance(given, dict) else given, f"read.{key}"), _CONVERT.get(key)
    if not isinstance(given, dict) or "decode" not in given:
        return find, convert
    return find, unpack_json if convert is None else lambda value: convert(unpack_json(value))


def _error(given: Mapping[str, Any]) -> Find:
    parts = {name: finder(paths, f"read.error.{name}") for name, paths in given.items() if name not in _NO_PATHS}

    def find_error(body: Json, notes: Notes) -> RunError | None:
        found = {name: find_part(body, notes) for name, find_part in parts.items()}
        code, step = short_text(found.get("code")), short_text(found.get("step"))
        error = error_of(found["message"])
        if error is None:
            return RunError(code or step or "", code, step) if code else None
        return RunError(error.message, code or error.code, step or error.step)

    return find_error


def _progress(given: Mapping[str, Any]) -> Find:
    parts = {name: finder(paths, f"read.progress.{name}") for name, paths in given.items() if name not in _NO_PATHS}
    form = given.get("as")

    if form is None:
        completed, total = parts["completed"], parts["total"]
        return lambda body, notes: progress_of(number_of(completed(body, notes)), number_of(total(body, notes)))

    def find_progress(body: Json, notes: Notes) -> Progress | None:
        value = parts["path"](body, notes)
        if form == "ratio":
            counts = _RATIO.fullmatch(value) if isinstance(value, str) else None
            return progress_of(int(counts[1]), int(counts[2])) if counts else None
        return progress_of(number_of(value), 100 if form == "percent" else 1)

    return find_progress


def number_of(value: Any) -> Any:
    """A number, also one that is given as text, with a percent sign or not."""
    if not isinstance(value, str):
        return value
    try:
        number = float(value.strip().removesuffix("%"))
    except ValueError:
        return None
    return int(number) if number.is_integer() else number


def instant_of(value: Any, form: str) -> str | None:
    """A time in the given form as canonical text; None for 0, year 1 and what is not such a time."""
    if form == "any":
        return provider_instant(value)
    if form not in _UNITS_NS:
        return _written_instant(value, form) if isinstance(value, str) else None
    try:
        if type(value) is int:
            return instant_from_ns(value * _UNITS_NS[form])
        if not isinstance(value, str | float) or (isinstance(value, float) and value >= _EXACT_FLOAT_MAX):
            return None  # such a double has lost digits
        return instant_from_ns(int(Decimal(str(value).strip()) * _UNITS_NS[form]))
    except (InvalidOperation, ValueError, OverflowError):
        return None


@lru_cache(maxsize=1024)  # a run is polled repeatedly
def _written_instant(text: str, form: str) -> str | None:
    is_date = not _NUMBER.fullmatch(text) and text.strip()[:4].isdigit() is (form == "iso")
    return provider_instant(text) if is_date else None


def _fields_of(tables: Mapping[str, Any]) -> RunFields | None:
    """The members to keep of an answer that is too large or damaged; None if an expression may read any."""
    hints = [hint for hint in tables.get("pace", {}).get("hint", ()) if isinstance(hint, dict)]
    texts = _expressions([tables["read"], tables["status"].get("when"), tables.get("answer"), hints])
    found = [paths_of(text) for text in texts]
    if None in found:
        return None
    paths = [path for several in found for path in several or ()]
    whole = {path[0] for path in paths if len(path) == 1}
    nested = {path[0] for path in paths if len(path) > 1} - whole
    output, error = (paths_of(next(iter(_expressions(tables["read"].get(key))), "@")) for key in ("output", "error"))
    return RunFields(
        names=frozenset(whole | {path[1] for path in paths if path[0] in nested}),
        output=output[0][0] if output and output[0][0] not in nested else None,
        error=error[0][0] if error else None,
        nested=frozenset(nested),
    )


def _expressions(value: Any) -> list[str]:
    """Every expression in a table; that of an error's message comes first."""
    if isinstance(value, dict):
        value = [value[key] for key in sorted(value.keys() - _NO_PATHS, key=lambda key: key != "message")]
    if isinstance(value, list):
        return [text for each in value for text in _expressions(each)]
    return [value] if isinstance(value, str) else []
