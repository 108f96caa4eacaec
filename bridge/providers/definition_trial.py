"""One real request of a definition, shown as it was sent and read; nothing is stored but a masked fixture, if wanted."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, quote_plus, urlencode, urlsplit, urlunsplit

from bridge.definitions.expressions import Notes, find
from bridge.domain.connection import Connection
from bridge.domain.errors import BridgeError
from bridge.domain.observation import PollResult
from bridge.domain.run import Json, RunStatus
from bridge.providers.defined import DefinedProvider
from bridge.providers.definition_answers import Answer
from bridge.providers.fixtures import Fixture, facts_of, paths_in
from bridge.providers.http import ProviderFailure, ProviderHttp, ProviderResponse, ProviderSessions, Route

MASK: Final = "****"
_SECRET_NAME: Final = re.compile(
    r"secret|token|passw|api[-_]?key|authorization|cookie|credential|signature|private[-_]?key|^key$", re.IGNORECASE
)
_SECRET_TEXT: Final = re.compile(
    r"\b(?:Bearer|Basic)\s+[\w.~+/=-]{6,}"
    r"|\beyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]+)?"  # a JSON Web Token
    r"|\b(?:sk|pk|rk|ghp|gho|ghs|xox[abp]|whsec|glpat|hf|r8)[-_][\w-]{8,}"
    r"|\bAKIA[0-9A-Z]{12,}"
    r"|[\w.+-]+@[\w-]+\.[\w.]+"
)
_ADDRESS: Final = re.compile(r"https?://[^\s\"'<>]+\?[^\s\"'<>]+")
_NOT_KEPT: Final = frozenset({"workflow", "pause", "provider_run_id", "settled"})  # said by other facts, or by headers
_KEPT_HEADERS: Final = frozenset({"content-type", "date", "etag", "last-modified", "link", "retry-after", "location"})


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request as it was sent, and its answer if there was one; not masked yet."""

    method: str
    address: str
    headers: dict[str, str]
    body: Json
    answer: Answer | None
    seconds: float


class RecordingHttp(ProviderHttp):
    """The HTTP of a connection that keeps every exchange, and what is secret in them."""

    def __init__(self, sessions: ProviderSessions, provider: DefinedProvider, connection: Connection) -> None:
        key = connection.api_key.reveal()
        self.exchanges: list[Exchange] = []
        self.secrets = {key, key.partition(":")[2]}
        self.own_headers = {**connection.headers, **provider.headers(connection)}
        super().__init__(
            sessions,
            provider.base_url(connection),
            self.own_headers,
            connection.timeout_s,
            options=connection.options,
            route=Route(connection.ca_file, connection.proxy),
            key=connection.api_key,
        )

    def hide(self, secret: str) -> None:
        """As ProviderHttp."""
        self.secrets.add(secret)
        super().hide(secret)

    async def request(
        self, method: str, path: str, *, query: Sequence[tuple[str, str]] = (), json_body: Json = None, **more: Any
    ) -> ProviderResponse:
        """As ProviderHttp."""
        started = time.monotonic()
        address = self.address_of(path)
        if query:
            address += f"{'&' if '?' in address else '?'}{urlencode(query)}"
        headers, answer = {**self.own_headers, **(more.get("headers") or {})}, None
        try:
            response = await super().request(method, path, query=query, json_body=json_body, **more)
            answer = Answer(response.status, response.headers, response.body)
        except ProviderFailure as failure:
            if failure.failed.status is not None:
                answer = Answer(failure.failed.status, failure.headers, failure.body)
            raise
        else:
            return response
        finally:
            self.exchanges.append(Exchange(method, address, headers, json_body, answer, time.monotonic() - started))


@dataclass(frozen=True, slots=True)
class Trial:
    """The requests of one poll and its result. `values` are the paths of [read] with what each finds."""

    provider: DefinedProvider
    exchanges: tuple[Exchange, ...]
    result: PollResult
    secrets: frozenset[str] = field(repr=False)

    @property
    def answer(self) -> Answer | None:
        """The answer about the run; None if there was none."""
        return self.exchanges[-1].answer if self.exchanges else None

    @property
    def rule(self) -> str:
        """The rule that decided: of [[answer]], of [status], or none."""
        if self.answer is None:
            return ""
        if meaning := self.provider.answers.meaning_of(self.answer).rule:
            return meaning
        _, reading = self.provider.answers.result_of(self.answer)
        return reading.rule if reading else "by default"

    def values(self) -> Iterator[tuple[str, str, str]]:
        """Key, path and value of everything that [read] names, masked."""
        body = self.answer.body if self.answer else None
        for key, given in self.provider.tables["read"].items():
            for name, path in paths_in(key, given):
                notes = Notes()
                shown = _shown(masked(find(path, body, notes, f"read.{name}"), self.secrets))
                yield name, path, notes[0] if notes else shown

    def fixture(self) -> dict[str, Any]:
        """The answer as a fixture, masked, with what is read in it. Raises BridgeError if there was no answer."""
        if self.answer is None:
            raise BridgeError("there was no answer to keep")
        kept = _KEPT_HEADERS | {name.lower() for name in _names_of_headers(self.provider.tables)}
        headers = {
            name: masked_text(value, self.secrets)
            for name, value in self.answer.headers.items()
            if name.lower() in kept
        }
        body = masked(self.answer.body, self.secrets)
        answer = Answer(self.answer.status, headers, body)
        facts, _ = facts_of(self.provider.answers, Fixture("new", "run", answer, {}))
        expect = {
            name: value
            for name, value in facts.items()
            if value is not None and name not in _NOT_KEPT and value != RunStatus.UNKNOWN
        }
        return {"request": "run", "http": self.answer.status, "headers": headers, "body": body, "expect": expect}

    def save(self, folder: Path, name: str) -> Path:
        """Write the fixture `name` into `folder`. Raises BridgeError if there is one already."""
        if not re.fullmatch(r"[\w.-]{1,100}", name) or name.startswith("."):
            raise BridgeError(f"a fixture's name is of letters, digits, `-`, `_` and `.`, not {name!r}")
        path = folder / f"{name}.json"
        text = json.dumps(self.fixture(), indent=2, ensure_ascii=False) + "\n"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            raise BridgeError(f"there is a fixture {path}; choose another name, or remove it") from None
        return path


async def try_once(provider: DefinedProvider, connection: Connection, provider_run_id: str) -> Trial:
    """Poll one run once, by the code that polls."""
    async with ProviderSessions() as sessions:
        http = RecordingHttp(sessions, provider, connection)
        result = await provider.fetch_run(http, provider_run_id)
    return Trial(provider, tuple(http.exchanges), result, frozenset(http.secrets))


def masked(value: Json, secrets: frozenset[str]) -> Json:
    """JSON without the secrets, and without what looks like one by its name or its form."""
    match value:
        case dict():
            return {
                masked_text(name, secrets): MASK
                if isinstance(inner, str) and inner and _SECRET_NAME.search(name)
                else masked(inner, secrets)
                for name, inner in value.items()
            }
        case list():
            return [masked(inner, secrets) for inner in value]
        case str():
            return masked_text(value, secrets)
    return value


def masked_text(text: str, secrets: frozenset[str]) -> str:
    """A text without the secrets, the values in the queries of addresses, and what has the form of a secret."""
    text = _secrets_pattern(secrets).sub(MASK, text)
    return _SECRET_TEXT.sub(MASK, _ADDRESS.sub(_without_query_values, text))


def masked_address(address: str, secrets: frozenset[str]) -> str:
    """The address of a request without the secrets; its query is ours, so it stays otherwise."""
    return _secrets_pattern(secrets).sub(MASK, address)


@lru_cache(maxsize=1)
def _secrets_pattern(secrets: frozenset[str]) -> re.Pattern[str]:
    """The secrets as they are, percent-encoded, in Base64 and in JSON; one of two characters at most as a whole word."""
    forms = {form for secret in secrets if secret for form in _forms_of(secret)}
    found = (
        re.escape(form) if len(form) > 2 else rf"(?<!\w){re.escape(form)}(?!\w)"
        for form in sorted(forms, key=len, reverse=True)
    )
    return re.compile("|".join(found) or r"(?!)")


def _forms_of(secret: str) -> Iterator[str]:
    data = secret.encode()
    for encoded in (base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()):
        yield from (encoded, encoded.rstrip("="))
    yield from (secret, quote(secret), quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1])


def _without_query_values(found: re.Match[str]) -> str:
    parts = urlsplit(found[0])
    query = "&".join(f"{pair.partition('=')[0]}={MASK}" for pair in parts.query.split("&"))
    return urlunsplit(parts._replace(query=query))


def _names_of_headers(value: Any) -> Iterator[str]:
    """The names of the headers that a definition reads."""
    match value:
        case {"header": str() as name}:
            yield name
        case dict():
            for key, inner in value.items():
                yield from inner if key == "header" and isinstance(inner, dict) else _names_of_headers(inner)
                if key == "hint":
                    yield from (one for one in inner if isinstance(one, str))
        case list():
            for inner in value:
                yield from _names_of_headers(inner)


def _shown(value: Json) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return "nothing" if value is None else text if len(text) <= 120 else f"{text[:119]}…"


def required_variables(provider: DefinedProvider, given: Mapping[str, str]) -> list[str]:
    """The variables that are required and not given."""
    known = provider.definition.variables.items()
    return [name for name, spec in known if spec.get("required") and not given.get(name)]
