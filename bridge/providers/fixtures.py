"""Recorded answers of a definition: read, and compared with what they say is expected, by the code that polls."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from multidict import CIMultiDict

from bridge.definitions.check import word_text
from bridge.definitions.expressions import Notes, compared_names, find
from bridge.definitions.schema import STATUSES
from bridge.domain.errors import BadPayload, BridgeError
from bridge.domain.observation import Observed
from bridge.domain.run import Json, RunStatus
from bridge.domain.strict_json import parse_json
from bridge.domain.suggestions import closest
from bridge.domain.timestamps import provider_instant
from bridge.providers.definition_answers import Answer, Answers
from bridge.providers.definition_reader import Reading
from bridge.providers.definition_requests import Pages, allowed_address, rows_in

REQUESTS: Final = ("run", "list", "output", "trigger", "cancel", "check")
KEYS: Final = ("request", "http", "headers", "body", "expect", "about", "id", "vars")
EXPECTED: Final = (
    "status", "provider_status", "error", "output", "progress", "created_at", "started_at", "finished_at",
    "workflow", "workflow_id", "generation", "link", "means", "next", "items", "id", "provider_run_id", "settled", "pause",
)  # fmt: skip


_NO_PATHS: Final = frozenset({"time", "as", "decode", "when"})


class FixtureInvalid(BridgeError):
    """The file is not a fixture."""


@dataclass(frozen=True, slots=True)
class Fixture:
    """One recorded answer and what is expected of it."""

    name: str
    request: str
    answer: Answer
    expect: Mapping[str, Any]
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Compared:
    """The reading of a fixture: the differences, the status and the rule that decided."""

    name: str
    status: str | None
    rule: str
    differences: tuple[str, ...]


def read_fixture(path: Path) -> Fixture:
    """The fixture in a file. Raises FixtureInvalid with the file and what is wrong."""
    try:
        written = parse_json(path.read_bytes())
    except OSError as error:
        raise FixtureInvalid(f"{path}: cannot be read: {error.strerror}") from None
    except BadPayload as error:
        raise FixtureInvalid(f"{path}: is not JSON: {error}") from None
    if not isinstance(written, dict):
        raise FixtureInvalid(f"{path}: is not a JSON object")
    request, code, headers, expect = (
        written.get("request", "run"), written.get("http", 200), written.get("headers", {}), written.get("expect", {})
    )  # fmt: skip
    variables = written.get("vars", {})
    faults = [f"unknown key {name!r}{_meant(name, KEYS)}" for name in written.keys() - set(KEYS)]
    if request not in REQUESTS:
        faults.append(f"request is {request!r}; allowed: {', '.join(REQUESTS)}")
    if not isinstance(code, int) or isinstance(code, bool) or not 100 <= code <= 599:
        faults.append(f"http is {code!r}; allowed: a code such as 200")
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        faults.append("headers is a table of texts")
    if not isinstance(variables, dict) or not all(isinstance(value, str) for value in variables.values()):
        faults.append("vars is a table of texts")
    if not isinstance(expect, dict):
        faults.append("expect is a table")
    else:
        faults += [f"unknown key {name!r} in expect{_meant(name, EXPECTED)}" for name in expect.keys() - set(EXPECTED)]
    if faults:
        raise FixtureInvalid(f"{path}: {'; '.join(sorted(faults))}")
    return Fixture(path.stem, str(request), Answer(code, CIMultiDict(headers), written.get("body")), expect, variables)  # type: ignore[arg-type]


def fixtures_beside(definition: Path) -> list[Path]:
    """The fixtures of a definition, by name."""
    return sorted(fixtures_folder(definition).glob("*.json"))


def fixtures_folder(definition: Path) -> Path:
    """Where the fixtures of a definition are: `fixtures/` beside it, or `NAME/fixtures/` beside a NAME.toml."""
    own = definition.with_suffix("") / "fixtures"
    beside = definition.parent / "fixtures"
    return beside if definition.name == "definition.toml" or (beside.is_dir() and not own.is_dir()) else own


def compare(answers: Answers, fixture: Fixture) -> Compared:
    """The reading of a fixture by the definition, and where it differs from what is expected."""
    found, rule = facts_of(answers, fixture)
    differences = tuple(
        f"{key}: expected {_shown(wanted)}, read {_shown(found.get(key))}"
        for key, wanted in fixture.expect.items()
        if not _equal(wanted, found.get(key)) and not (key.endswith("_at") and _is_same_instant(wanted, found.get(key)))
    )
    status = found.get("status")
    return Compared(fixture.name, status if isinstance(status, str) else None, rule, differences)


def facts_of(answers: Answers, fixture: Fixture) -> tuple[dict[str, Any], str]:
    """The reading of a fixture by the definition, by the names of `expect`, and the rule that decided."""
    tables, answer = answers.tables, fixture.answer
    meaning = answers.meaning_of(answer, is_of_run=fixture.request in ("run", "output", "cancel"))
    facts: dict[str, Any] = {"means": meaning.means, "pause": meaning.pause_s}
    if fixture.request == "run":
        result, reading = answers.result_of(answer)
        rule = meaning.rule or (reading.rule if reading else "")
        return {**facts, **(_run_facts(result, reading) if isinstance(result, Observed) else {})}, rule
    try:
        match fixture.request:
            case "list" if "list" in tables:
                facts |= _list_facts(answers, fixture)
            case "output" if "output" in tables:
                facts["output"] = find(tables["output"].get("read", "@"), answer.body, Notes())
            case "trigger" if "trigger" in tables:
                values = answers.definition.values(fixture.variables)
                facts["id"] = facts["provider_run_id"] = answers.started(answer, values, _base_of(answers, answer))
    except BadPayload as error:
        facts["error"] = {"message": str(error)}
    return facts, ""


def _run_facts(result: Observed, reading: Reading | None) -> dict[str, Any]:
    seen = result.observation
    return {
        "status": seen.status.value,
        "settled": seen.status.is_settled,
        "provider_status": seen.provider_status,
        "error": _error(seen.error),
        "output": seen.output,
        "progress": {"completed": seen.progress.completed, "total": seen.progress.total} if seen.progress else None,
        "created_at": seen.created_at,
        "started_at": seen.started_at,
        "finished_at": seen.finished_at,
        "workflow": seen.workflow_id,
        "workflow_id": seen.workflow_id,
        "generation": seen.generation,
        "link": seen.link,
        "id": reading and reading.answered_id,
        "provider_run_id": reading and reading.answered_id,
    }


def _list_facts(answers: Answers, fixture: Fixture) -> dict[str, Any]:
    listing, answer = answers.tables["list"], fixture.answer
    rows = rows_in(listing, answer.body)
    runs, _ = answers.runs_in(rows, answers.definition.values(fixture.variables))
    absolute = partial(allowed_address, answers.tables, _base_of(answers, answer))
    shown = [
        {"id": run.provider_run_id, "status": run.observation.status.value if run.observation else None} for run in runs
    ]
    items = [item for _, item in rows]
    return {
        "items": shown,
        "next": Pages.of(listing).after(None, answer.headers, answer.body, items, absolute),
    }


def _base_of(answers: Answers, answer: Answer) -> str:
    """The base URL; where each connection has its own, that of the address in the answer."""
    if answers.definition.base_url:
        return answers.definition.base_url
    found = re.search(
        r"https?://[^/\"'<>\s]+", " ".join(answer.headers.values()) + json.dumps(answer.body, default=str)
    )
    return found[0] if found else "https://fixture.invalid"


def _error(error: Any) -> dict[str, Any] | None:
    return None if error is None else {"message": error.message, "code": error.code, "step": error.step}


def _equal(wanted: Any, found: Any) -> bool:
    """Whether the reading is as expected. An error may be given by its message, items by their ids or their number."""
    match wanted, found:
        case (str(), {"message": message}):
            return bool(wanted == message)
        case ({"message": _}, {"message": _}):
            return all(found.get(key) == value for key, value in wanted.items())
        case (int(), list()) if not isinstance(wanted, bool):
            return wanted == len(found)
        case ([*wanted_items], [*found_items]) if found_items and isinstance(found_items[0], dict):
            ids = [item.get("id") for item in found_items]
            return wanted_items in (ids, found_items) or (
                all(
                    isinstance(one, dict) and one.items() <= other.items()
                    for one, other in zip(wanted_items, found_items, strict=False)
                )
                and len(wanted_items) == len(found_items)
            )
        case (bool(), None | str()):
            return wanted is (found is not None)  # `"next": true` says that there is a further page
    return bool(wanted == found) or (isinstance(wanted, int) and not isinstance(wanted, bool) and str(wanted) == found)


def unseen_words(answers: Answers, fixtures: list[Fixture]) -> Iterator[str]:
    """The words, rules and answers of a definition that no fixture shows, and the words that only a fixture shows."""
    run = [facts_of(answers, fixture) for fixture in fixtures if fixture.request == "run"]
    for fixture in fixtures:
        facts, rule = facts_of(answers, fixture) if fixture.request == "run" else ({}, "")
        word = facts.get("provider_status")
        if (
            facts.get("status") == RunStatus.UNKNOWN
            and not rule
            and word is not None
            and "status" not in fixture.expect
        ):
            yield f"the word {word!r} of fixture {fixture.name} is in no list of [status]"
    yield from _unseen_paths(answers, fixtures)
    shown = {str(facts.get("provider_status")).casefold() for facts, _ in run}
    rules = {rule for _, rule in run} | {answers.meaning_of(fixture.answer).rule for fixture in fixtures}
    status = answers.tables["status"]
    for name in STATUSES:
        for word in status.get(name, ()):
            if word_text(word).casefold() not in shown:
                yield f"no fixture shows the word {word_text(word)!r} ({name})"
    for number, rule in enumerate(status.get("when", ())):
        if not any(one.startswith(f"when[{number}]") for one in rules):
            yield f"no fixture fits status.when[{number}]: {rule['if']}"
    for number in range(len(answers.tables.get("answer", ()))):
        if f"answer[{number}]" not in rules:
            yield f"no fixture fits answer[{number}]"


def _unseen_paths(answers: Answers, fixtures: list[Fixture]) -> Iterator[str]:
    """The paths of [read] at which no answer has something, and the names in rules that no answer has."""
    tables = answers.tables
    bodies = [fixture.answer.body for fixture in fixtures if fixture.request == "run"]
    for fixture in fixtures if "list" in tables else ():
        if fixture.request == "list":
            with suppress(BadPayload):
                rows = rows_in(tables["list"], fixture.answer.body)
                bodies += [item for _, item in rows]
                _, remark = answers.runs_in(rows, answers.definition.values(fixture.variables))
                yield from [f"fixture {fixture.name}: {remark}"] if remark else []
    for key, given in tables["read"].items() if bodies else ():
        for name, path in paths_in(key, given):
            if all(find(path, body, Notes()) is None for body in bodies):
                yield f"no fixture has anything at `{path}` (read.{name})"
    has = {name for body in bodies for name in _names_in(body)}
    rules = [(f"status.when[{at}].if", rule["if"]) for at, rule in enumerate(tables["status"].get("when", ()))]
    rules += [(f"answer[{at}].if", rule["if"]) for at, rule in enumerate(tables.get("answer", ())) if "if" in rule]
    for key, text in rules:
        for name in compared_names(text):
            if name not in has:
                yield f"{key}: no fixture has a member `{name}`; text stands in single quotes: '{name}'"


def paths_in(key: str, given: Any) -> Iterator[tuple[str, str]]:
    """The paths of a key of [read], each with the name of the key."""
    match given:
        case str():
            yield key, given
        case list():
            for path in given:
                yield key, path
        case dict():
            for name, inner in given.items():
                if name not in _NO_PATHS:
                    yield from paths_in(key if name == "path" else f"{key}.{name}", inner)


def _names_in(body: Json) -> Iterator[str]:
    match body:
        case dict():
            yield from body
            for inner in body.values():
                yield from _names_in(inner)
        case list():
            for inner in body:
                yield from _names_in(inner)


def _is_same_instant(wanted: Json, found: Json) -> bool:
    """Whether two spellings mean one time: `…:05Z` and `…:05.000Z`."""
    return wanted is not None and provider_instant(wanted) == provider_instant(found)


def _shown(value: Json) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 200 else f"{text[:199]}…"


def _meant(name: object, known: tuple[str, ...]) -> str:
    meant = closest(str(name), known)
    return f"; did you mean {meant!r}?" if meant else ""
