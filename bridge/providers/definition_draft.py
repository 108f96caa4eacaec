"""A first definition from recorded answers. Guessing belongs here, once, with a comment for each guess; never at run time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from bridge.definitions.check import word_text
from bridge.definitions.schema import STATUSES
from bridge.domain.definition import names_in
from bridge.domain.run import Json

_DEPTH_MAX: Final = 3
_WORDS: Final = {
    "queued": "queued pending submitted created new scheduled notstarted accepted inqueue enqueued todo waitingtorun",
    "running": "running inprogress processing started starting executing active working validating finalizing",
    "waiting": "waiting paused needsreview inreview awaitingapproval requiresaction blocked suspended onhold ask",
    "succeeded": "succeeded success successful completed complete done finished ok ready passed",
    "partial": "partial partiallysucceeded partialsuccess completedwitherrors incomplete",
    "failed": "failed failure fail error errored crashed timedout timeout bad rejected expired",
    "cancelled": "cancelled canceled cancelling aborted stopped terminated killed revoked",
}
_MEANING: Final = {word: status for status, words in _WORDS.items() for word in words.split()}
_STATUS: Final = ("status", "state", "phase", "lifecycle_state", "run_status", "job_status", "result_state", "kind")
_NAMES: Final = {
    "id": (
        "id",
        "run_id",
        "job_id",
        "jid",
        "task_id",
        "execution_id",
        "build_id",
        "batch_id",
        "submission_id",
        "uuid",
        "request_id",
    ),
    "workflow": (
        "workflow_id",
        "workflow",
        "workflow_name",
        "pipeline_id",
        "pipeline",
        "flow_id",
        "model_id",
        "model",
        "job_name",
    ),
    "created_at": (
        "created_at",
        "created",
        "create_time",
        "creation_time",
        "creation_timestamp",
        "submitted_at",
        "queued_at",
    ),
    "started_at": ("started_at", "start_time", "started", "start", "start_timestamp", "run_started_at", "date_started"),
    "finished_at": (
        "finished_at",
        "completed_at",
        "ended_at",
        "end_time",
        "completion_time",
        "date_ended",
        "finish_time",
        "finished",
        "end",
        "stop_time",
        "stopped_at",
        "end_at",
    ),
    "output": ("output", "outputs", "result", "results", "response"),
    "error": ("error", "error_message", "failure_reason", "failure", "errors", "reason_for_incompletion"),
    "progress": ("progress", "percent_complete", "percent_completed", "percentage", "percent"),
    "link": ("html_url", "web_url", "run_url", "permalink", "link", "href"),
}
_NULL_AT_FIRST: Final = frozenset(
    {"output", "error", "started_at", "finished_at"}
)  # in answers about a run that goes on
_COUNTS: Final = (("completed", "total"), ("done", "total"), ("done", "all"), ("steps_completed", "steps"))
_UNITS: Final = ((1e17, "ns"), (1e14, "us"), (1e11, "ms"), (1e8, "s"))
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_PLAIN: Final = re.compile(r"[A-Za-z_]\w*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Draft:
    """The text of a definition, and the fixtures of the answers by name."""

    text: str
    fixtures: dict[str, dict[str, Any]]


def draft_of(name: str, answers: list[Json], *, base_url: str, get: str, checked: str) -> Draft:
    """A definition that reads the answers. `get` is the address of a run; a part that is not known is marked `TODO`."""
    pages = [page for answer in answers if (page := _page_of(answer)) is not None]
    runs: list[Json] = [answer for answer in answers if _page_of(answer) is None]
    items = [item for page in pages for item in page.items]
    read = _Reading(runs or items)
    read.add(items)
    lines = [
        "schema   = 1",
        f"name     = {json.dumps(name)}",
        'version  = "0.1.0"',
        f"checked  = {checked}",
        f"base_url = {json.dumps(base_url)}",
        'auth     = "bearer"   # or "basic", "none", { header = "X-Api-Key" }, { query = "token" }',
        "",
        "[run]",
        f"get = {json.dumps(get)}" + ("   # TODO: the path of one run" if "TODO" in get else ""),
        _id_line(get, read),
        "",
        *read.lines(),
    ]
    if pages:
        lines += _list_lines(pages[0], get)
    return Draft("\n".join(lines) + "\n", dict(_fixtures(read, runs or items)))


def _id_line(get: str, read: _Reading) -> str:
    """The kind of the run's id, or its parts, which are the names in the address."""
    parts = dict.fromkeys(names_in(get))
    if [*parts] not in ([], ["id"]):
        kinds = ", ".join(f'{part} = "slug"' for part in parts)
        return f"id  = {{ {kinds} }}   # guessed: every name in the address is a part"
    return f'id  = "{read.id_kind()}"   # {read.id_reason}'


class _Reading:
    """Where the answers about a run have its status, id, times and other values."""

    def __init__(self, runs: list[Json]) -> None:
        self._found: dict[str, list[tuple[str, Json]]] = {}
        for run in runs:
            for path, key, value in _leaves(run, "", 0):
                self._found.setdefault(key, []).append((path, value))
        self.id_reason = "a text of one path segment; no id was found in the answers"
        first = self._first(_STATUS, lambda value: _normal(word_text(value)) in _MEANING) or self._first(
            _STATUS[:-1], lambda value: isinstance(value, str | bool | int)
        )
        self.status = [first[0]] if first else []  # paths: an answer may have its status elsewhere
        self.words: list[str] = []
        self.add(runs)

    def word_in(self, run: Json) -> str | None:
        """The status of a run as text; None if it has none at the paths."""
        leaves = {path: value for path, _, value in _leaves(run, "", 0)}
        words = (leaves.get(path) for path in self.status)
        return next((word_text(word) for word in words if isinstance(word, str | int | bool)), None)

    def add(self, runs: Iterable[Json]) -> None:
        """Take the words of these runs, or items of a list, and where they stand."""
        for run in runs:
            if self.status and self.word_in(run) is None:
                self.status += _Reading([run]).status
            if (word := self.word_in(run)) is not None and word not in self.words:
                self.words.append(word)

    def _first(self, names: tuple[str, ...], fits: Any) -> tuple[str, str, Json] | None:
        """Path, normal name and value of the first of the names that has a fitting value, the least deep."""
        for name in names:
            key = _normal(name)
            found = [(path, value) for path, value in self._found.get(key, ()) if fits(value)]
            if found:
                path, value = min(found, key=lambda one: one[0].count("."))
                return path, key, value
        return None

    def id_found(self) -> tuple[str, str, Json] | None:
        """Path, normal name and value of an id: by a usual name, a UUID beside the status, or a name."""
        beside = self.status[0].rpartition(".")[0] if self.status else ""
        uuids = (
            (path, key, value)
            for key, found in self._found.items()
            for path, value in found
            if key.endswith("id") and path.rpartition(".")[0] == beside and _UUID.fullmatch(str(value))
        )
        return self._first(_NAMES["id"], _is_id) or next(uuids, None) or self._first(("name",), _is_id)

    def id_kind(self) -> str:
        found = self.id_found()
        if found is None:
            return "slug"
        path, _, value = found
        kind = "int" if isinstance(value, int) else "uuid" if _UUID.fullmatch(value) else "slug"  # type: ignore[arg-type]
        self.id_reason = f"guessed from {path} = {_shown(value)}"
        return kind

    def lines(self) -> list[str]:
        lines = ["[read]"]
        if self.status:
            paths = ", ".join(map(_quoted, self.status))
            lines.append(
                f"status = {paths if len(self.status) == 1 else f'[{paths}]'}   # seen: {', '.join(self.words)}"
            )
        else:
            lines.append(
                'status = "status"   # TODO: no status was found in the answers; rules over several fields: [[status.when]]'
            )
        run_id = self.id_found()
        for key, several in _NAMES.items():
            names = tuple(name for name in several if run_id is None or _normal(name) != run_id[1])
            found = run_id if key == "id" else self._first(names, lambda value, key=key: _fits(key, value))
            if found is None and key in _NULL_AT_FIRST:
                found = self._first(names, lambda value: value is None)
            if found is not None:
                lines.append(self._line(key, *found))
        counts = [
            (done, total)
            for pair in _COUNTS
            if (done := self._first(pair[:1], _is_number)) and (total := self._first(pair[1:], _is_number))
        ]
        if counts and not any(line.startswith("progress") for line in lines):
            done, total = counts[0]
            lines.append(f"progress = {{ completed = {_quoted(done[0])}, total = {_quoted(total[0])} }}   # guessed")
        return [*lines, "", *self._status_lines()]

    def _line(self, key: str, path: str, _normal_name: str, value: Json) -> str:
        given = _quoted(path)
        if key.endswith("_at") and isinstance(value, int | float):
            unit = next((unit for least, unit in _UNITS if value >= least), "s")
            given = f'{{ path = {given}, time = "{unit}" }}'
        elif key == "output" and isinstance(value, str) and value.lstrip().startswith(("{", "[")):
            given = f'{{ path = {given}, decode = "json" }}'
        elif key == "error" and isinstance(value, dict):
            inner = [(part, name) for part in ("message", "code", "step") for name in value if _normal(name) == part]
            if any(part == "message" for part, _ in inner):
                given = "{ " + ", ".join(f"{part} = {_quoted(f'{path}.{_part(name)}')}" for part, name in inner) + " }"
        elif key == "progress":
            form = (
                "ratio"
                if isinstance(value, str)
                else "fraction"
                if isinstance(value, float) and value <= 1
                else "percent"
            )
            given = f'{{ path = {given}, as = "{form}" }}'
        return f"{key} = {given}   # guessed from {_shown(value)}"

    def _status_lines(self) -> list[str]:
        by_status: dict[str, list[str]] = {status: [] for status in STATUSES}
        strange: list[str] = []
        for word in self.words:
            meaning = _MEANING.get(_normal(word))
            (by_status[meaning] if meaning else strange).append(word)
        lines = ["[status]   # add the words of the documentation that no answer shows; an unlisted one is `unknown`"]
        lines += [f"{status:9} = {json.dumps(words, ensure_ascii=False)}" for status, words in by_status.items()]
        lines += [
            f"# TODO: what does {json.dumps(word, ensure_ascii=False)} mean? Put it into one of the lists."
            for word in strange
        ]
        return lines


def _fits(key: str, value: Json) -> bool:
    if value is None or value == "" or isinstance(value, bool):
        return False
    match key:
        case "workflow":
            return isinstance(value, str | int)
        case "created_at" | "started_at" | "finished_at":
            return (isinstance(value, str) and value[:4].isdigit()) or (_is_number(value) and value >= 1e8)  # type: ignore[operator]
        case "progress":
            return _is_number(value) or (isinstance(value, str) and re.fullmatch(r"\d+/\d+", value) is not None)
        case "link":
            return isinstance(value, str) and value.startswith("http")
    return True


def _is_id(value: Json) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and value != ""


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _leaves(value: Json, at: str, depth: int) -> Iterator[tuple[str, str, Json]]:
    """Path, normal name and value of every member, the containers, too."""
    if not isinstance(value, dict) or depth >= _DEPTH_MAX:
        return
    for name, inner in value.items():
        path = f"{at}.{_part(name)}" if at else _part(name)
        yield path, _normal(name), inner
        yield from _leaves(inner, path, depth + 1)


@dataclass(frozen=True, slots=True)
class _Page:
    """An answer that shows many runs: the path of the list or map, what is beside it, and the items."""

    path: str
    beside: dict[str, Json]
    items: list[Json]
    is_map: bool = False


def _page_of(answer: Json) -> _Page | None:
    """The answer as a page of runs; None if it is not one."""
    if isinstance(answer, dict) and _has_status(answer, 1):
        return None
    inside = [(_part(name), inner) for name, inner in answer.items()] if isinstance(answer, dict) else []
    beside = answer if isinstance(answer, dict) else {}
    for path, found in [("@", answer), *inside]:
        if isinstance(found, list):
            items: list[Json] = [item for item in found if isinstance(item, dict)]
            if any(map(_has_status, items)):
                return _Page(path, beside, items)
        elif isinstance(found, dict):
            names = [set(run) for run in found.values() if isinstance(run, dict) and _has_status(run, 1)]
            if 1 < len(names) == len(found) and 2 * len(set.intersection(*names)) > len(set.union(*names)):
                return _Page(path, {} if path == "@" else beside, [*found.values()], is_map=True)
    return None


def _has_status(run: Json, depth: int = _DEPTH_MAX) -> bool:
    """Whether something in the outer `depth` levels has a name as of a status."""
    return any(key in map(_normal, _STATUS) for _, key, _ in _leaves(run, "", _DEPTH_MAX - depth))


def _list_lines(page: _Page, get: str) -> list[str]:
    beside = page.beside
    before, name, after = get.partition("?")[0].rpartition("{")
    slash = "/" if name and after.endswith("/") else ""
    guessed = bool(name) and "TODO" not in get and after.rstrip("/").endswith("}")
    address = f"{before.rstrip('/')}{slash}" if guessed and before.strip("/") else "/TODO"
    found = _Reading(page.items).id_found()
    run_id = found[0] if found else "id"
    keys = {_normal(name): name for name in beside}
    more = next((keys[_normal(name)] for name in ("has_more", "more", "has_next") if _normal(name) in keys), None)
    cursor = next(
        (
            keys[_normal(name)]
            for name in ("next_cursor", "cursor", "next_page_token", "next_token")
            if _normal(name) in keys
        ),
        None,
    )
    following = keys.get("next")
    lines = [
        "",
        "[list]",
        f"get   = {json.dumps(address)}   # {'TODO: ' if address == '/TODO' else 'guessed: '}the path of the list",
        f"items = {_quoted(page.path)}",
        'items_as = "map"' if page.is_map else f"id    = {_quoted(run_id)}",
    ]
    if cursor:
        lines.append(f'next  = {{ cursor = {_quoted(_part(cursor))}, query = "cursor" }}   # TODO: the query parameter')
    elif following and str(beside[following] or "").startswith(("http", "/")):
        lines.append(f"next  = {{ url = {_quoted(_part(following))} }}   # guessed")
    elif more:
        lines.append(
            f'next  = {{ last = {_quoted(run_id)}, query = "after", while = {_quoted(_part(more))} }}   # TODO: the query parameter'
        )
    return lines


def _fixtures(read: _Reading, runs: list[Json]) -> Iterator[tuple[str, dict[str, Any]]]:
    """One fixture for each word that the answers show; where no status was found, one for each answer."""
    if not read.status:
        yield from (
            (f"answer-{at}", {"request": "run", "http": 200, "body": run, "expect": {}})
            for at, run in enumerate(runs, 1)
        )
        return
    for run in runs:
        text = read.word_in(run)
        if text is None:
            continue
        meaning = _MEANING.get(_normal(text))  # what a strange word means is left to the author
        expect = {**({"status": meaning} if meaning else {}), "provider_status": text}
        yield (
            re.sub(r"[^\w-]+", "-", text).strip("-") or "word",
            {"request": "run", "http": 200, "body": run, "expect": expect},
        )


def _normal(name: str) -> str:
    """A name without capitals and separators: `createdAt` and `created_at` are the same."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _part(name: str) -> str:
    return name if _PLAIN.fullmatch(name) else json.dumps(name, ensure_ascii=False)


def _quoted(path: str) -> str:
    """A path as TOML text."""
    return f"'{path}'" if '"' in path and "'" not in path else json.dumps(path, ensure_ascii=False)


def _shown(value: Json) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 50 else f"{text[:49]}..."
