"""Read an answer as a definition says: compiled once, then a pure function of the body.

An expression that fails is a remark and counts as nothing found; it is never a value.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Final

from bridge.definitions.check import word_text
from bridge.definitions.expressions import ExpressionFailed, Notes, Search, find, is_true, paths_of, search
from bridge.definitions.schema import STATUSES
from bridge.domain.errors import BadPayload
from bridge.domain.frozen import frozen
from bridge.domain.observation import Observation
from bridge.domain.run import Json, Progress, RunError, RunStatus
from bridge.domain.timestamps import instant_from_ns, provider_instant
from bridge.providers.fields import WORD_CHARS_MAX, error_of, progress_of, short_text, text_of, unpack_json
from bridge.providers.partial_json import RunFields

Find = Callable[[Json, Notes], Any]
_KIND: Final = {str: "text", int: "a number", float: "a number", bool: "a boolean", dict: "an object", list: "a list"}
_UNITS_NS: Final = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_NUMBER: Final = re.compile(r"\s*-?\d+(?:\.\d+)?\s*", re.ASCII)
_NO_PATHS: Final = frozenset({"as", "time", "decode", "is", "when"})
_RATIO: Final = re.compile(r"\s*(\d{1,15})\s*/\s*(\d{1,15})\s*", re.ASCII)
_NOTHING: Final = "null"  # the word that a missing status is shown as
_EXACT_FLOAT_MAX: Final = 2**53
_RULE_FAILED: Final = "status.when"  # begins a note about a rule
_NO_TIME: Final = ("0000-", "0001-", "1970-01-01")  # how "not yet" is written by those who write a time for it


@frozen
class Reading:
    """What an answer says about a run, and what could not be evaluated.

    `rule` is what decided the status: `when[0]`, a canonical status whose list has the word, `absent` or nothing.
    `told_id` is the id in the answer, if [read] names one.
    """

    observation: Observation
    remarks: tuple[str, ...] = ()
    rule: str = ""
    told_id: str | None = None
    link: str | None = None


@dataclass(slots=True)
class DefinitionReader:
    """The tables `read` and `status` of a definition, compiled."""

    tables: Mapping[str, Any]
    fields: RunFields | None = field(init=False)
    _status: Find = field(init=False)
    _finds: dict[str, Find] = field(init=False)
    _words: dict[str, RunStatus] = field(init=False)
    _folds: bool = field(init=False)
    _absent: RunStatus | None = field(init=False)
    _needs_status: bool = field(init=False)
    _error_when: frozenset[RunStatus] | None = field(init=False)
    _rules: list[tuple[Search, str, RunStatus, Search | None]] = field(init=False)
    _output_after: frozenset[RunStatus] = field(init=False)  # none without [output]

    def __post_init__(self) -> None:
        """Compile every expression once."""
        read, status = self.tables["read"], self.tables["status"]
        self._status = _status(read["status"])
        self._finds = {
            name: compile_(f"read.{name}", read[name]) for name, compile_ in _COMPILERS.items() if name in read
        }
        self._folds = status.get("case") == "ignore"
        self._words = {
            self._folded(word_text(word)): RunStatus(name) for name in STATUSES for word in status.get(name, ())
        }
        absent = status.get("absent")
        self._needs_status = absent == "unusable"
        self._absent = RunStatus(absent) if absent and not self._needs_status else None
        error = read.get("error")
        self._error_when = (
            frozenset(map(RunStatus, error["when"])) if isinstance(error, dict) and "when" in error else None
        )
        self._rules = [
            (search(rule["if"]), rule["if"], RunStatus(rule["is"]), search(rule["raw"]) if "raw" in rule else None)
            for rule in status.get("when", ())
        ]
        output = self.tables.get("output")
        after = () if output is None else output.get("when", ("succeeded", "partial"))
        self._output_after = frozenset(map(RunStatus, after))
        self.fields = _fields_of(self.tables)

    def _folded(self, word: str) -> str:
        return word.strip().casefold() if self._folds else word

    def read(self, body: Json, notes: Notes | None = None) -> Reading:
        """What the body of an answer says about a run. Raises BadPayload if it lacks a status that it must have."""
        notes = Notes() if notes is None else notes
        status, word, rule = self._judge(body, notes)
        if status.is_settled and any(note.startswith(_RULE_FAILED) for note in notes):
            status, rule = RunStatus.UNKNOWN, ""  # an outcome is not believed where a rule could not be evaluated
        get = {name: find_(body, notes) for name, find_ in self._finds.items()}.get
        output, error = get("output"), get("error")
        observation = Observation(  # by position, as a keyword costs as much as a field
            status,
            word,
            get("workflow"),
            get("progress"),
            output,
            error if self._error_when is None or status in self._error_when else None,
            get("created_at"),
            get("started_at"),
            get("finished_at"),
            output is None and status in self._output_after,
            False,
            get("generation"),
        )
        told = tuple(dict.fromkeys(notes)) if notes else ()
        return Reading(observation, told, rule, get("id"), get("link"))

    def needs_output(self, status: RunStatus) -> bool:
        """Whether [output] is asked for after this status."""
        return status in self._output_after

    def _judge(self, body: Json, notes: Notes) -> tuple[RunStatus, str, str]:
        """Canonical status, the word to show, and what decided: the first rule that is true, else the word."""
        raw = self._status(body, notes)
        word = raw if isinstance(raw, str) else _word_of(raw)
        for number, (condition, text, status, shown) in enumerate(self._rules):
            if is_true(_evaluated(condition, body, notes, f"status.when[{number}].if")):
                own = _word_of(_evaluated(shown, body, notes, f"status.when[{number}].raw")) if shown else None
                return status, (own or word or _NOTHING)[:WORD_CHARS_MAX], f"when[{number}]: {text}"
        if word is None:
            if self._needs_status:
                raise BadPayload("the answer has no status")
            if self._absent is not None and raw is None:
                return self._absent, _NOTHING, "absent"
            notes.append(f"read.status finds {'nothing' if raw is None else 'no single word'} in the answer")
            return RunStatus.UNKNOWN, _NOTHING, ""
        known = self._words.get(self._folded(word))
        return known or RunStatus.UNKNOWN, word[:WORD_CHARS_MAX], known.value if known else ""


def _word_of(raw: Any) -> str | None:
    """A status as text: numbers and booleans by their JSON; None for null and for what is no single value."""
    if raw is None or isinstance(raw, dict | list):
        return None
    return raw if isinstance(raw, str) else json.dumps(raw)


def _evaluated(one: Search, body: Json, notes: Notes, key: str) -> Any:
    try:
        return one(body, notes)
    except ExpressionFailed as failed:
        notes.append(f"{key}: {failed}")
        return None


def _found(key: str, paths: str | list[str] | Mapping[str, Any]) -> Find:
    """The first value of the paths that is not null; `decode` unpacks text that holds JSON."""
    if isinstance(paths, Mapping):
        packed = _found(key, paths["path"])
        return (lambda body, notes: unpack_json(packed(body, notes))) if "decode" in paths else packed
    if isinstance(paths, str) and paths.isidentifier():  # a plain name cannot fail
        return lambda body, _notes: body.get(paths) if isinstance(body, dict) else None
    several = [paths] if isinstance(paths, str) else paths
    return lambda body, notes: find(several, body, notes, key)


def _status(given: Any) -> Find:
    """The word, or what stands in its place; with `as = "text"` only text that is not blank."""
    find_status = _found("read.status", given)
    if not isinstance(given, dict) or "as" not in given:
        return find_status

    def find_text(body: Json, notes: Notes) -> str | None:
        found = find_status(body, notes)
        return found if isinstance(found, str) and found.strip() else None

    return find_text


def _text(key: str, given: Any) -> Find:
    found = _found(key, given)
    return lambda body, notes: text_of(found(body, notes))


def _name(key: str, given: Any) -> Find:
    found = _found(key, given)
    return lambda body, notes: short_text(found(body, notes))


def _error(key: str, given: Any) -> Find:
    if not isinstance(given, dict) or "path" in given:
        whole = _found(key, given)
        return lambda body, notes: error_of(whole(body, notes))
    parts = {name: _found(f"{key}.{name}", paths) for name, paths in given.items() if name not in _NO_PATHS}

    def find_error(body: Json, notes: Notes) -> RunError | None:
        found = {name: find_part(body, notes) for name, find_part in parts.items()}
        code, step = short_text(found.get("code")), short_text(found.get("step"))
        error = error_of(found["message"])
        if error is None:
            return RunError(code or step or "", code, step) if code else None
        return RunError(error.message, code or error.code, step or error.step)

    return find_error


def _progress(key: str, given: Mapping[str, Any]) -> Find:
    if "completed" in given:
        completed, total = _found(f"{key}.completed", given["completed"]), _found(f"{key}.total", given["total"])

        def find_counts(body: Json, notes: Notes) -> Progress | None:
            done, all_ = completed(body, notes), total(body, notes)
            if type(done) is int and type(all_) is int:  # as nearly always
                return progress_of(done, all_)
            return progress_of(_number(done), _number(all_))

        return find_counts
    found, form = _found(f"{key}.path", given["path"]), given["as"]

    def find_progress(body: Json, notes: Notes) -> Progress | None:
        value = found(body, notes)
        if form == "ratio":
            parts = _RATIO.fullmatch(value) if isinstance(value, str) else None
            return progress_of(int(parts[1]), int(parts[2])) if parts else None
        return progress_of(_number(value), 100 if form == "percent" else 1)

    return find_progress


def _number(value: Any) -> Any:
    """A number, also one that is given as text, with a percent sign or not."""
    if not isinstance(value, str):
        return value
    try:
        number = float(value.strip().removesuffix("%"))
    except ValueError:
        return None
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() else number


def _instant(key: str, given: Any) -> Find:
    is_table = isinstance(given, dict)
    found, form = _found(key, given["path"] if is_table else given), given.get("time", "iso") if is_table else "iso"

    def find_instant(body: Json, notes: Notes) -> str | None:
        value = found(body, notes)
        if value is None:
            return None
        instant = instant_of(value, form)
        if instant is None and value not in (0, "", "0") and not str(value).startswith(_NO_TIME):
            notes.append(
                f"{key} finds {_KIND[type(value)]} that is no time of the form {form}; `time` says which it is"
            )
        return instant

    return find_instant


def instant_of(value: Any, form: str) -> str | None:
    """A time in the given form as canonical text; None for 0, year 1 and what is no such time."""
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


_COMPILERS: Final[dict[str, Callable[[str, Any], Find]]] = {
    "id": _text,
    "workflow": _name,
    "output": _found,
    "error": _error,
    "progress": _progress,
    "created_at": _instant,
    "started_at": _instant,
    "finished_at": _instant,
    "generation": _name,
    "link": _text,
}


def _fields_of(tables: Mapping[str, Any]) -> RunFields | None:
    """The members to keep of an answer that is too large or damaged; None if an expression may read any."""
    texts = [*_expressions(tables["read"]), *_expressions(tables["status"].get("when", ()))]
    texts += [answer["if"] for answer in tables.get("answer", ()) if "if" in answer]
    texts += [
        hint["path"] for hint in tables.get("pace", {}).get("hint", ()) if isinstance(hint, dict) and "path" in hint
    ]
    found = [paths_of(text) for text in texts]
    if any(paths is None for paths in found):
        return None
    paths = [path for several in found for path in several or ()]
    whole = {path[0] for path in paths if len(path) == 1}
    nested = {path[0] for path in paths if len(path) > 1} - whole
    output, error = (_only_name(tables["read"].get(key)) for key in ("output", "error"))
    return RunFields(
        names=frozenset(whole | {path[1] for path in paths if path[0] in nested}),
        output=output if output not in nested else None,
        error=error,
        nested=frozenset(nested),
    )


def _expressions(value: Any) -> list[str]:
    """Every expression in the table."""
    match value:
        case str():
            return [value]
        case dict():
            inner = (each for key, each in value.items() if key not in _NO_PATHS)
            return [text for each in inner for text in _expressions(each)]
        case list():
            return [text for each in value for text in _expressions(each)]
    return []


def _only_name(given: Any) -> str | None:
    """The name at the top of the answer that a single path begins with."""
    path = given.get("path", given.get("message")) if isinstance(given, dict) else given
    if not isinstance(path, str):
        return None
    paths = paths_of(path)
    return paths[0][0] if paths else None
