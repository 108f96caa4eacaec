"""Read an answer as a definition says: compiled once, then a pure function of the body.

An expression that fails is a remark and counts as nothing found; it is never a value.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from bridge.domain.definitions.check import id_parts, word_text
from bridge.domain.definitions.expressions import ExpressionFailed, Search, is_true, paths_of, search
from bridge.domain.definitions.keys import STATUSES
from bridge.domain.frozen import frozen
from bridge.domain.observation import Observation
from bridge.domain.run import Json, Progress, RunError, RunStatus
from bridge.domain.timestamps import instant_from_ns, provider_instant
from bridge.providers.fields import WORD_CHARS_MAX, error_of, progress_of, short_text, text_of, unpack_json
from bridge.providers.partial_json import RunFields

Remarks = list[str]
Find = Callable[[Json, Remarks], Any]
_UNITS_NS: Final = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_RATIO: Final = re.compile(r"\s*(\d{1,15})\s*/\s*(\d{1,15})\s*", re.ASCII)
_NOTHING: Final = "null"  # the word that a missing status is shown as


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
    generation: str | None = None
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
    _rules: list[tuple[Search, str, RunStatus, Search | None]] = field(init=False)
    _output_after: frozenset[RunStatus] = field(init=False)  # none without [output]

    def __post_init__(self) -> None:
        """Compile every expression once."""
        read, status = self.tables["read"], self.tables["status"]
        self._status = _found("read.status", read["status"])
        self._finds = {
            name: compile_(f"read.{name}", read[name]) for name, compile_ in _COMPILERS.items() if name in read
        }
        self._folds = status.get("case") == "ignore"
        self._words = {
            self._folded(word_text(word)): RunStatus(name) for name in STATUSES for word in status.get(name, ())
        }
        self._absent = RunStatus(status["absent"]) if "absent" in status else None
        self._rules = [
            (search(rule["if"]), rule["if"], RunStatus(rule["is"]), search(rule["raw"]) if "raw" in rule else None)
            for rule in status.get("when", ())
        ]
        output = self.tables.get("output")
        after = () if output is None else output.get("when", ("succeeded", "partial"))
        self._output_after = frozenset(map(RunStatus, after))
        self.fields = _fields_of(self.tables)

    def _folded(self, word: str) -> str:
        return word.casefold() if self._folds else word

    def read(self, body: Json) -> Reading:
        """What the body of an answer says about a run."""
        remarks: Remarks = []
        status, word, rule = self._judge(body, remarks)
        found = {name: find(body, remarks) for name, find in self._finds.items()}
        get = found.get
        output = get("output")
        observation = Observation(  # by position, as a keyword costs as much as a field
            status,
            word,
            get("workflow"),
            get("progress"),
            output,
            get("error"),
            get("created_at"),
            get("started_at"),
            get("finished_at"),
            output is None and status in self._output_after,
        )
        told = tuple(dict.fromkeys(remarks)) if remarks else ()
        return Reading(observation, told, rule, get("id"), get("generation"), get("link"))

    def _judge(self, body: Json, remarks: Remarks) -> tuple[RunStatus, str, str]:
        """Canonical status, the word to show, and what decided: the first rule that is true, else the word."""
        raw = self._status(body, remarks)
        word = raw if isinstance(raw, str) else _word_of(raw)
        for number, (condition, text, status, shown) in enumerate(self._rules):
            if _is_met(condition, body, remarks, f"status.when[{number}].if"):
                own = _word_of(_evaluated(shown, body, remarks, f"status.when[{number}].raw")) if shown else None
                return status, (own or word or _NOTHING)[:WORD_CHARS_MAX], f"when[{number}]: {text}"
        if word is None:
            if self._absent is not None:
                return self._absent, _NOTHING, "absent"
            remarks.append("read.status finds nothing in the answer")
            return RunStatus.UNKNOWN, _NOTHING, ""
        known = self._words.get(self._folded(word))
        return known or RunStatus.UNKNOWN, word[:WORD_CHARS_MAX], known.value if known else ""


def _word_of(raw: Any) -> str | None:
    """A status as text: numbers and booleans by their JSON; None for null and for what is no single value."""
    if raw is None or isinstance(raw, dict | list):
        return None
    return raw if isinstance(raw, str) else json.dumps(raw)


def _evaluated(find: Search, body: Json, remarks: Remarks, key: str) -> Any:
    try:
        return find(body)
    except ExpressionFailed as failed:
        remarks.append(f"{key}: {failed}")
        return None


def _is_met(condition: Search, body: Json, remarks: Remarks, key: str) -> bool:
    """Whether a condition is true; one that fails is not, and says so."""
    return is_true(_evaluated(condition, body, remarks, key))


def _found(key: str, paths: str | Sequence[str] | Mapping[str, Any]) -> Find:
    """The first value of the paths that is not null; `decode` unpacks text that holds JSON."""
    if isinstance(paths, Mapping):
        packed = _found(key, paths["path"])
        return (lambda body, remarks: unpack_json(packed(body, remarks))) if "decode" in paths else packed
    if isinstance(paths, str) and paths.isidentifier():  # a plain name cannot fail
        return lambda body, _remarks: body.get(paths) if isinstance(body, dict) else None
    searches = [search(path) for path in ([paths] if isinstance(paths, str) else paths)]

    def find(body: Json, remarks: Remarks) -> Any:
        for one in searches:
            value = _evaluated(one, body, remarks, key)
            if value is not None:
                return value
        return None

    return find


def _text(key: str, given: Any) -> Find:
    find = _found(key, given)
    return lambda body, remarks: text_of(find(body, remarks))


def _name(key: str, given: Any) -> Find:
    find = _found(key, given)
    return lambda body, remarks: short_text(find(body, remarks))


def _error(key: str, given: Any) -> Find:
    if not isinstance(given, dict):
        find = _found(key, given)
        return lambda body, remarks: error_of(find(body, remarks))
    parts = {name: _found(f"{key}.{name}", paths) for name, paths in given.items()}

    def find_error(body: Json, remarks: Remarks) -> RunError | None:
        found = {name: find(body, remarks) for name, find in parts.items()}
        code, step = short_text(found.get("code")), short_text(found.get("step"))
        error = error_of(found["message"])
        if error is None:
            return RunError(code or step or "", code, step) if code else None
        return RunError(error.message, code or error.code, step or error.step)

    return find_error


def _progress(key: str, given: Mapping[str, Any]) -> Find:
    if "completed" in given:
        completed, total = _found(f"{key}.completed", given["completed"]), _found(f"{key}.total", given["total"])
        return lambda body, remarks: progress_of(_number(completed(body, remarks)), _number(total(body, remarks)))
    find, form = _found(f"{key}.path", given["path"]), given["as"]

    def find_progress(body: Json, remarks: Remarks) -> Progress | None:
        value = find(body, remarks)
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
    find, form = _found(key, given["path"] if is_table else given), given.get("time", "iso") if is_table else "iso"
    if form not in _UNITS_NS:
        return lambda body, remarks: provider_instant(find(body, remarks))
    return lambda body, remarks: instant_of(find(body, remarks), form)


def instant_of(value: Any, form: str) -> str | None:
    """A time in the given form as canonical text; None for 0, year 1 and what is no time."""
    if form not in _UNITS_NS:
        return provider_instant(value)
    try:
        number = Decimal(str(value).strip()) if isinstance(value, str | int | float) else None
        return instant_from_ns(int(number * _UNITS_NS[form])) if number is not None else None
    except (InvalidOperation, ValueError, OverflowError):
        return None


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
    """Every expression in the table; the words that are no expression are those of `as`, `time`, `decode` and `is`."""
    match value:
        case str():
            return [value]
        case dict():
            inner = (each for key, each in value.items() if key not in {"as", "time", "decode", "is"})
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


@dataclass(frozen=True, slots=True)
class RunId:
    """The parts of a run's id: `provider_run_id` is them in this order, joined by a slash."""

    kinds: Mapping[str, str]

    @classmethod
    def of(cls, tables: Mapping[str, Any]) -> RunId:
        """Those of a definition."""
        return cls(id_parts(tables["run"]))

    def split(self, provider_run_id: str) -> dict[str, str]:
        """The parts by name. Raises ValueError with a sentence if this is no such id."""
        names = list(self.kinds)
        if len(names) == 1:
            values = [provider_run_id]
        else:
            at = next((number for number, name in enumerate(names) if self.kinds[name] == "path"), len(names) - 1)
            head = provider_run_id.split("/", at) if at else [provider_run_id]
            after = len(names) - 1 - at
            tail = head.pop().rsplit("/", after) if len(head) == at + 1 else []
            values = head + tail
            if len(values) != len(names):
                wanted = "/".join(f"{{{name}}}" for name in names)
                raise ValueError(f"a run id has the form {wanted}")
        for name, value in zip(names, values, strict=True):
            if problem := _problem_of(self.kinds[name], value):
                raise ValueError(problem if len(names) == 1 else f"{name}: {problem}")
        return dict(zip(names, values, strict=True))

    def join(self, values: Mapping[str, str]) -> str:
        """The id of the parts."""
        return "/".join(values[name] for name in self.kinds)


_UUID: Final = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")


def _problem_of(kind: str, value: str) -> str | None:
    match kind:
        case "int" if not re.fullmatch(r"-?\d{1,40}", value, re.ASCII):
            return "a run id is a whole number here"
        case "uuid" if not _UUID.fullmatch(value):
            return "a run id is a UUID here"
        case "path" if not value.strip("/") or ".." in value.split("/"):
            return "a run id is a path without `..` here"
        case "slug" if not value or value in (".", ".."):
            return "a run id is a name here"
    return None
