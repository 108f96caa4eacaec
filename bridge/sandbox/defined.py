"""A fake of any provider that has a definition: each run goes through the fixtures, from queued to an end.

A run begins when it is started or first asked for, whatever its id. Every step lasts `step_s`; the ends take turns, so
that all of them are seen. Only the key is checked: an answer without it is a 401.
"""

from __future__ import annotations

import base64
import copy
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from bridge.definitions.check import word_text
from bridge.definitions.expressions import Notes, find
from bridge.definitions.files import Definitions
from bridge.domain.clock import Clock, SystemClock
from bridge.domain.definition import METHODS, names_in, pieces
from bridge.domain.errors import BridgeError
from bridge.domain.run import Json, RunStatus
from bridge.providers.definition_answers import FAILURES, Answers
from bridge.providers.definition_requests import fill, fill_address, put
from bridge.providers.fixtures import Fixture, facts_of, fixtures_beside, read_fixture
from bridge.sandbox.http_server import HttpServer

TOKEN: Final = "sandbox-token"  # noqa: S105 - what a key is exchanged for
_BEFORE: Final = (RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.WAITING)
_NAME: Final = re.compile(r'"([^"]+)"|(\w+)')  # JMESPath puts a name with a dash in double quotes
_PLAIN: Final = re.compile(r'("[^"]+"|\w+)(\.("[^"]+"|\w+))*')
_HEADERS: Final = frozenset({"content-type", "content-length", "date", "etag", "last-modified", "link", "location"})


@dataclass(slots=True)
class _Life:
    """One run: the answers that it goes through, and when it began (monotonic)."""

    steps: Sequence[Fixture]
    began_at: float


class DefinedSandbox(HttpServer):
    """The fake of the provider that the definition in `file` describes."""

    def __init__(self, file: Path, *, key: str, step_s: float, clock: Clock | None = None) -> None:
        """Raises DefinitionInvalid, FixtureInvalid, or BridgeError where no fixture shows a run."""
        path = (file / "definition.toml" if file.is_dir() else file).resolve()
        folder = path.parent.parent if path.name == "definition.toml" else path.parent
        self._answers = Answers(Definitions(folder).read(path, f"file {path}"))
        self._tables = self._answers.tables
        self._key, self._step_s, self._clock = key, step_s, clock or SystemClock()
        fixtures = [read_fixture(each) for each in fixtures_beside(path)]
        read = [(each, facts_of(self._answers, each)[0]) for each in fixtures]
        self._others = {
            each.request: each for each, facts in read if each.request != "run" and facts["means"] not in FAILURES
        }
        shown = [(facts.get("status"), each) for each, facts in read if each.request == "run"]
        self._before = [each for wanted in _BEFORE for status, each in shown if status == wanted]
        self._ends = [each for status, each in shown if status is not None and RunStatus(status).is_settled]
        if not self._before and not self._ends:
            raise BridgeError(
                f"no fixture beside {path} shows a run; `runbridge providers try … --save NAME` records one"
            )
        self._cancelled = next((each for status, each in shown if status == RunStatus.CANCELLED), None)
        self._lives: dict[str, _Life] = {}
        self._numbers = count(1)

    @property
    def providers(self) -> tuple[str, ...]:
        """The one that it plays."""
        return (self._answers.definition.name,)

    def url(self, _name: str) -> str:
        """The base URL of a connection."""
        return self.origin

    def application(self) -> web.Application:
        """The one handler, which finds out what a request asks for."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        return app

    # -- which request it is

    async def _handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            sent = json.loads(body) if body else None
        except ValueError:
            return web.json_response({"message": "the body is not JSON"}, status=400)
        auth = self._tables.get("auth")
        if isinstance(auth, dict) and "exchange" in auth:
            method, _, address = auth["exchange"].partition(" ")
            if self._parts({method.lower(): address}, request, sent) is not None:
                return self._exchanged(auth, sent)
        if auth != "none" and not self._has_key(request):
            return web.json_response({"message": "the key is missing or wrong"}, status=401)
        fitting = [
            (name, self._tables[name], parts)
            for name in ("trigger", "cancel", "output", "check", "run", "list")
            if name in self._tables and (parts := self._parts(self._tables[name], request, sent)) is not None
        ]
        if fitting:
            return self._answer(*min(fitting, key=lambda one: bool(one[2])))  # /jobs/all is no run of /jobs/{id}
        tables = [table for table in self._tables.values() if isinstance(table, dict)]
        known = ", ".join(f"{one.upper()} {table[one]}" for table in tables for one in METHODS if one in table)
        return web.json_response({"message": f"the definition has no such request; it has {known}"}, status=404)

    def _parts(self, table: Mapping[str, Any], request: web.Request, sent: Json) -> dict[str, str] | None:
        """The parts of a run's id in a request of this table; None if it is another."""
        method = next(name for name in METHODS if name in table)
        address = table[method] if table[method].startswith("/") else "/" + table[method].split("/", 3)[-1]
        found = self._answers.run_id.parts_in(address, "", request.raw_path.partition("?")[0])
        if method.upper() != request.method or found is None or not _fits(table.get("body"), sent, found):
            return None
        _, query = fill_address(address, _Same(), {})
        for name, template in (*query, *((one, word_text(value)) for one, value in table.get("query", {}).items())):
            match pieces(template):
                case ("", one, "") if name in request.query:
                    found[one] = request.query[name]
                case (text,) if request.query.get(name) != text:
                    return None
        return found

    def _has_key(self, request: web.Request) -> bool:
        wanted = {self._key, base64.b64encode(self._key.encode()).decode(), TOKEN}
        given = [*request.headers.values(), *request.query.values()]
        return any(text.rpartition(" ")[2] in wanted for text in given)

    # -- what it answers

    def _exchanged(self, auth: Mapping[str, Any], sent: Json) -> web.Response:
        if self._key not in json.dumps(sent):
            return web.json_response({"message": "the key is missing or wrong"}, status=401)
        answer: dict[str, Json] = {}
        _set(answer, auth["token"], TOKEN)
        return web.json_response(answer)

    def _answer(self, name: str, table: Mapping[str, Any], parts: dict[str, str]) -> web.Response:
        kinds = self._answers.run_id.kinds
        known = {one: value for one, value in parts.items() if one in kinds}
        run_id = self._answers.run_id.join(known) if known.keys() == kinds.keys() else None
        match name:
            case "run" if run_id is not None:
                return _shown(self._fixture_of(run_id), self._body_of(run_id))
            case "output" if run_id is not None and (fixture := self._others.get("output")):
                body = self._with_id(fixture.answer.body, table.get("id", []), run_id)
                return _shown(fixture, _without_next(body, table.get("next")))
            case "trigger":
                return self._started(table)
            case "list":
                return self._listed(table)
            case "cancel" if run_id is not None and self._cancelled is not None:
                self._lives[run_id] = _Life([self._cancelled], self._clock.monotonic())
            case "check" if self._others.get("check") is None and _path(table) == _path(self._tables.get("list", {})):
                return self._listed(self._tables["list"])
        fixture = self._others.get(name)
        return _shown(fixture) if fixture else web.json_response({}, status=next(iter(table.get("ok", ())), 200))

    def _fixture_of(self, run_id: str) -> Fixture:
        now = self._clock.monotonic()
        if run_id not in self._lives:
            ends = [self._ends[len(self._lives) % len(self._ends)]] if self._ends else []
            self._lives[run_id] = _Life([*self._before, *ends], now)
        life = self._lives[run_id]
        step = int((now - life.began_at) / self._step_s) if self._step_s else len(life.steps)
        return life.steps[min(step, len(life.steps) - 1)]

    def _body_of(self, run_id: str) -> Json:
        """The body of the run's present fixture, with its own id."""
        return self._with_id(self._fixture_of(run_id).answer.body, self._tables["read"].get("id", []), run_id)

    def _with_id(self, body: Json, paths: Any, run_id: str) -> Json:
        """A body in which the id at the paths is the last part of this one, as a number where a number stands."""
        paths = paths["path"] if isinstance(paths, dict) else paths
        shown, last = find(paths, body, Notes()), list(self._answers.run_id.split(run_id).values())[-1]
        names = {name for path in ([paths] if isinstance(paths, str) else paths) for name in _names_of(path)[-1:]}
        return _replaced(body, names, shown, int(last) if isinstance(shown, int) and last.isdigit() else last)

    def _started(self, table: Mapping[str, Any]) -> web.Response:
        fixture, origin, number = self._others.get("trigger"), table["run_from"], next(self._numbers)
        made: dict[str, str] = {"uuid": str(uuid.uuid4()), "int": str(1000 + number)}
        parts = {name: made.get(kind, f"run-{number}") for name, kind in self._answers.run_id.kinds.items()}
        body = copy.deepcopy(fixture.answer.body) if fixture else {}
        headers: dict[str, str] = {}
        if isinstance(origin, dict) and origin.keys() <= {"header", "url"}:
            run = self._tables["run"]
            path, _ = fill_address(run.get("get") or run["post"], _Same(parts), self._answers.run_id.kinds)
            if "header" in origin:
                headers[origin["header"]] = self.origin + path
            elif isinstance(body, dict):
                _set(body, origin["url"], self.origin + path)
        elif isinstance(body, dict):
            for name, paths in origin.items() if isinstance(origin, dict) else [(next(iter(parts)), origin)]:
                _set(body, paths, parts[name])
        status = fixture.answer.status if fixture else next(iter(table.get("ok", ())), 200)
        return web.json_response(body, status=status, headers=headers)

    def _listed(self, table: Mapping[str, Any]) -> web.Response:
        """The runs that are known, the newest first, on one page: as items of the fixture's form."""
        fixture = self._others.get("list")
        shown = {run_id: self._body_of(run_id) for run_id in reversed(self._lives)}
        split = self._answers.run_id.split
        kept = {one: body for one, body in shown.items() if self._answers.listed(None, body, split(one), Notes())}
        items: Json = kept if table.get("items_as") == "map" else list(kept.values())
        if table["items"] == "@":
            return web.json_response(items)
        body = _without_next(fixture.answer.body if fixture else {}, table.get("next"))
        if isinstance(body, dict):
            _set(body, table["items"], items)
        return web.json_response(body)


def _shown(fixture: Fixture, body: Json = None) -> web.Response:
    headers = {name: value for name, value in fixture.answer.headers.items() if name.lower() not in _HEADERS}
    shown = fixture.answer.body if body is None else body
    if shown is None:
        return web.Response(status=fixture.answer.status, headers=headers)
    return web.json_response(shown, status=fixture.answer.status, headers=headers)


def _without_next(body: Json, following: Any) -> Json:
    """A page that is the last one."""
    page = copy.deepcopy(body)
    for path in (following.get(key) for key in ("url", "cursor", "while")) if isinstance(following, dict) else ():
        if path and isinstance(page, dict):
            _set(page, path, None)
    return page


def _replaced(body: Json, names: set[str], before: Json, after: Json) -> Json:
    """A copy in which the members of these names that are `before` are `after`, at any depth."""
    match body:
        case dict():
            return {
                name: after if name in names and inner == before else _replaced(inner, names, before, after)
                for name, inner in body.items()
            }
        case list():
            return [_replaced(inner, names, before, after) for inner in body]
    return body


class _Same(dict[str, str]):
    """A name without a value stays as it is, in braces."""

    def __missing__(self, name: str) -> str:
        return f"{{{name}}}"


def _set(body: dict[str, Json], paths: str | list[str], value: Json) -> None:
    """Set the first of the paths that is plain."""
    plain = next((path for path in ([paths] if isinstance(paths, str) else paths) if _PLAIN.fullmatch(path)), None)
    if plain is not None:
        put(body, _names_of(plain), value)


def _names_of(path: str) -> list[str]:
    """The names in a path, without the quotes that they may stand in."""
    return [quoted or plain for quoted, plain in _NAME.findall(path)]


def _path(table: Mapping[str, Any]) -> str | None:
    """The path of a table's address without its query."""
    return next((table[name].partition("?")[0] for name in METHODS if name in table), None)


def _fits(template: Json, sent: Json, found: dict[str, str]) -> bool:
    """Whether a body has the form of a template; what stands for its names goes into `found`."""
    match template:
        case None:
            return True
        case str() if names := names_in(template):
            pattern = "(.*)".join(map(re.escape, pieces(template)[::2]))
            values = re.fullmatch(pattern, sent if isinstance(sent, str) else json.dumps(sent), re.DOTALL)
            found |= dict(zip(names, values.groups(), strict=False)) if values else {}
            return values is not None
        case dict():
            return isinstance(sent, dict) and all(
                names_in(name) or (name in sent and _fits(inner, sent[name], found)) for name, inner in template.items()
            )
        case list():
            return isinstance(sent, list) and len(sent) == len(template) and all(
                _fits(inner, each, found) for inner, each in zip(template, sent, strict=True)
            )  # fmt: skip
        case str():
            return fill(template, {}) == sent
    return template == sent
