"""A provider made from a definition: sends the requests of its tables; `Answers` reads what comes back."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any, Final

from bridge.definitions.expressions import Notes, find, is_true
from bridge.domain.connection import Connection
from bridge.domain.definition import Definition, key_header, key_place
from bridge.domain.errors import BadPayload, ProviderRefused, Unsupported
from bridge.domain.failure import FailureKind
from bridge.domain.frozen import replaced
from bridge.domain.observation import LastResponse, Observed, PollFailed, PollResult, RunPage
from bridge.domain.run import Json
from bridge.domain.timestamps import provider_instant
from bridge.providers.base import (
    LAST_BODY_BYTES_MAX,
    LIST_TIMEOUT_S,
    ProviderDefaults,
    Triggered,
    action_error,
    etag_of,
    key_not_proven,
    started_nothing,
)
from bridge.providers.definition_answers import FAILURES, Answer, Answers, longest
from bridge.providers.definition_requests import (
    Pages,
    Request,
    allowed_address,
    fill,
    has_values,
    instant_as,
    list_fields,
    request_of,
    rows_in,
)
from bridge.providers.definition_token import TokenExchange, key_of
from bridge.providers.failures import MESSAGE_CHARS_MAX, error_text
from bridge.providers.http import ProviderFailure, ProviderHttp, ProviderResponse

OUTPUT_PAGES_MAX: Final = 1000
REQUESTS_KEPT: Final = 1024  # of each connection: a run is polled repeatedly
_MODIFIED: Final = "Last-Modified: "  # marks one that is kept in the place of an ETag
_LONG_AGO: Final = datetime(2000, 1, 1, tzinfo=UTC)


class DefinedProvider(ProviderDefaults):
    """A provider that a definition describes, for a connection with these variables."""

    def __init__(self, definition: Definition, given: Mapping[str, str] | None = None) -> None:
        self.definition = definition
        self.tables, self.name = definition.tables, definition.name
        self.default_base_url = definition.base_url or ""
        self.lists = "list" in self.tables and (given is None or not definition.list_lacks(given))
        self.answers = Answers(definition)
        auth = self.tables.get("auth")
        self._key_place = key_place(self.tables)
        self.sends_key = auth != "none"
        self.presents_wrong_key = self.tables.get("check", {}).get("wrong_key", True)
        self._exchange = TokenExchange(auth) if isinstance(auth, dict) and "exchange" in auth else None
        self._is_conditional = self.tables["run"].get("conditional", False)

    def base_url(self, connection: Connection) -> str:
        """The connection's own, else the definition's; with the variables filled in."""
        return fill(connection.base_url or self.default_base_url, self.definition.values(connection.options))

    def headers(self, connection: Connection) -> dict[str, str]:
        """The headers that every request has: the key, unless it goes another way, and the definition's own."""
        values = self.definition.values(connection.options)
        own = self.tables.get("headers", {}).items()
        headers = {name: fill(text, values) for name, text in own if has_values(text, values)}
        if self._exchange:
            return headers
        key = connection.api_key.reveal()
        if self.tables.get("auth") == "basic":
            key = base64.b64encode(key.encode()).decode()
        return headers | key_header(self._key_place, key)

    def check_run_id(self, provider_run_id: str) -> str | None:
        """Text of the kind, or of the parts, that the definition names."""
        return self.answers.check_run_id(provider_run_id)

    # --- Requests

    def _send(
        self, http: ProviderHttp, request: Request, *, headers: Mapping[str, str] | None = None, **more: Any
    ) -> Awaitable[ProviderResponse]:
        """Send a request with the key. Raises ProviderFailure."""
        query = request.query
        if "query" in self._key_place:
            query = [*query, (self._key_place["query"], key_of(http))]
        send = partial(http.request, request.method, request.path, query=query, json_body=request.body, **more)
        if self._exchange is not None:
            return self._exchange.with_token(send, http, self._variables(http), headers or {})
        return send(headers=headers)

    async def _ask(
        self, http: ProviderHttp, request: Request, *, is_of_run: bool = True, **more: Any
    ) -> ProviderResponse:
        """Send a request that is not a poll. Raises ProviderFailure, also where an [[answer]] says so."""
        try:
            response = await self._send(http, request, **more)
        except ProviderFailure as failure:
            failed = failure.failed
            if failed.status is None:
                raise
            answer = Answer(failed.status, failure.headers, failure.body)
            meaning = self.answers.meaning_of(answer, is_of_run=is_of_run)
            kind = FAILURES.get(meaning.means, failed.kind) if meaning.rule else failed.kind
            failed = replace(failed, kind=kind, retry_after_s=longest(failed.retry_after_s, meaning.pause_s))
            raise ProviderFailure(failed, failure.code, failure.body, failure.headers) from None
        answer = Answer(response.status, response.headers, response.body)
        meaning = self.answers.meaning_of(answer, is_of_run=is_of_run)
        if meaning.means in FAILURES:
            text, _ = error_text(response.body)
            quoted = f": {http.redacted(text)}" if text else ""
            said = f"{request.what}: HTTP {response.status} means {meaning.means} ({meaning.rule}){quoted}"
            kind = FAILURES[meaning.means]
            raise ProviderFailure(PollFailed(kind, said[:MESSAGE_CHARS_MAX], response.status, meaning.pause_s))
        return replaced(response, poll_after_s=longest(response.poll_after_s, meaning.pause_s))

    def _variables(self, http: ProviderHttp) -> dict[str, str]:
        return self.definition.values(http.options)

    def _values(self, http: ProviderHttp, provider_run_id: str) -> dict[str, Json]:
        return {**self._variables(http), **self.answers.run_id.split(provider_run_id)}

    def _poll_of(self, http: ProviderHttp, provider_run_id: str) -> Request:
        """The request of a poll; those for the runs that were polled lately are kept."""
        kept: Callable[[str], Request] | None = http.prepared.get(self)
        if kept is None:
            run, kinds = self.tables["run"], self.answers.run_id.kinds
            kept = lru_cache(REQUESTS_KEPT)(lambda run_id: request_of(run, self._values(http, run_id), kinds))
            http.prepared[self] = kept
        return kept(provider_run_id)

    def _absolute(self, http: ProviderHttp, request: Request) -> Callable[[str], str]:
        return partial(allowed_address, self.tables, http.base_url, asked=http.address_of(request.path))

    # --- One run

    async def fetch_run(self, http: ProviderHttp, provider_run_id: str, last: LastResponse | None = None) -> PollResult:
        """Poll one run; every fault of the provider is returned as `PollFailed`."""
        last_body = last.body if last and self.answers.is_by_body else None
        response = None
        try:
            request = self._poll_of(http, provider_run_id)
        except ValueError as error:
            return PollFailed(FailureKind.REJECTED, f"{provider_run_id[:100]}: {error}")
        try:
            headers = _condition_for(last) if last and self._is_conditional else None
            response = await self._send(
                http, request, headers=headers, last_body=last_body, fields=self.answers.reader.fields
            )
        except ProviderFailure as failure:
            if failure.failed.status is None:
                return failure.failed
            answer = Answer(failure.failed.status, failure.headers, failure.body, failed=failure.failed)
        else:
            if last and response.is_same_body:  # as after most polls
                etag = _mark_of(response.headers) if self._is_conditional else None
                return Observed(last.observation, response.poll_after_s, etag=etag, body=last_body)
            answer = Answer(response.status, response.headers, response.body, response.damaged)
        result, _ = self.answers.result_of(answer, run_id=provider_run_id, last=last, redacted=http.redacted)
        if isinstance(result, PollFailed):
            if response is None:
                return result
            said = f"{request.what}: {result.message}"[:MESSAGE_CHARS_MAX]
            return replace(result, message=said, retry_after_s=longest(result.retry_after_s, response.poll_after_s))
        result = replaced(result, answered_at=provider_instant(answer.headers.get("date")))
        if response is None:
            return result
        kept = response.data if 0 < len(response.data) <= LAST_BODY_BYTES_MAX else None
        etag = _mark_of(answer.headers) if self._is_conditional else None
        pause_s = longest(result.poll_after_s, response.poll_after_s)
        return replaced(result, poll_after_s=pause_s, etag=etag, body=kept)

    # --- Many runs

    async def list_runs(self, http: ProviderHttp, *, since: datetime, cursor: str | None = None) -> RunPage:
        """One page of [list]. Raises ProviderFailure, or Unsupported without a list."""
        listing = self.tables.get("list")
        if listing is None:
            return await super().list_runs(http, since=since, cursor=cursor)
        values, pages = self._variables(http), Pages.of(listing)
        page, address = pages.at(cursor), pages.address(cursor)
        if "since" in listing and address is None:
            page[listing["since"]["query"]] = instant_as(since, listing["since"].get("time", "iso"))
        request = request_of(listing, values, {}, page, address=address)
        fields = list_fields(listing)
        response = await self._ask(http, request, is_of_run=False, timeout_s=LIST_TIMEOUT_S, fields=fields)
        with _usable(f"the list of {self.name}", response):
            rows = rows_in(listing, response.body)
            items, absolute = [item for _, item in rows], self._absolute(http, request)
            following = pages.after(cursor, response.headers, response.body, items, absolute)
        runs, remark = self.answers.runs_in(rows, values)
        answered_at, newest_first = provider_instant(response.headers.get("date")), listing.get("newest_first", False)
        pause_s = response.poll_after_s
        return RunPage(runs, following, pause_s, answered_at, is_newest_first=newest_first, remark=remark)

    async def fetch_output(self, http: ProviderHttp, run_id: str) -> Json:
        """[output]: what `read` finds; of several pages their lists joined. Raises ProviderFailure."""
        table = self.tables.get("output")
        if table is None:
            return await super().fetch_output(http, run_id)
        values, pages = self._values(http, run_id), Pages.of(table)
        first, joined, cursor, room = None, list[Json](), None, http.body_bytes_max
        for number in range(OUTPUT_PAGES_MAX):
            address, kinds = pages.address(cursor), self.answers.run_id.kinds
            request = request_of(table, values, kinds, pages.at(cursor), address=address)
            response = await self._ask(http, request)
            room -= len(response.data)
            with _usable("the output", response):
                if room < 0:
                    raise BadPayload("it is too large")
                found, items = self._output_in(table, response.body, run_id)
                first = found if number == 0 else first
                if items is None:
                    return first if number == 0 else joined
                joined += items
                absolute = self._absolute(http, request)
                cursor = pages.after(cursor, response.headers, response.body, items, absolute) if items else None
            if cursor is None:
                break
        return joined if "join" not in table or not isinstance(first, dict) else _joined(table, first, joined)

    def _output_in(self, table: Mapping[str, Any], body: Json, run_id: str) -> tuple[Json, list[Json] | None]:
        """The values that `read` finds in a page, and its items if they are to be joined. Raises BadPayload."""
        notes = Notes()
        if "id" in table:
            self.answers.check_same_run(find(table["id"], body, notes), run_id)
        found = find(table["read"], body, notes, "output.read") if "read" in table else body
        if "join" in table:
            items = found.get(table["join"]) if isinstance(found, dict) else 0
            if not isinstance(items, list | None):
                raise BadPayload(f"the answer is not an object with a list `{table['join']}`")
            return found, items or []
        return found, found if "next" in table and isinstance(found, list) else None

    # --- Start, end, check

    async def trigger(self, http: ProviderHttp, workflow_id: str, inputs: Json, extra: dict[str, Json]) -> Triggered:
        """[trigger]. Raises as `Provider.trigger` does, Unsupported without that table."""
        table = self.tables.get("trigger")
        if table is None:
            raise Unsupported(f"the definition of {self.name} cannot start runs; start it there and register its id")
        values, given = self._variables(http), table.get("inputs", {})
        members = inputs if given.get("merge") else {}
        if not isinstance(members, dict):
            about = f": {given['about']}" if "about" in given else ""
            raise ProviderRefused(f"{self.name} takes inputs as an object{about}")
        if inputs and not members and '"{inputs}"' not in json.dumps(table.get("body")):
            raise ProviderRefused(f"the definition of {self.name} has no place for inputs; leave them out")
        kinds = {"workflow": table.get("workflow", "slug")}
        request = request_of(table, {**values, "workflow": workflow_id, "inputs": inputs}, kinds)
        body = {} if request.body is None else request.body
        if isinstance(body, dict):
            body = {**extra, **members, **body}
        answer, unread = await self._act(http, table, replace(request, body=body))
        try:
            return Triggered(self.answers.started(answer, values, http.base_url))
        except BadPayload as error:
            if unread and not (isinstance(table["run_from"], dict) and "header" in table["run_from"]):
                raise unread from None
            what = started_nothing(http, answer.body, str(error))
            raise _unusable(f"{request.what}: {what}", answer.status) from None

    async def cancel(self, http: ProviderHttp, provider_run_id: str, provider_ref: str | None) -> None:
        """[cancel]. Raises as `Provider.cancel` does."""
        table = self.tables.get("cancel")
        if table is None:
            await super().cancel(http, provider_run_id, provider_ref)  # raises
            return
        request = request_of(table, self._values(http, provider_run_id), self.answers.run_id.kinds)
        has_body = request.method in {"POST", "PUT", "PATCH"}
        await self._act(http, table, replace(request, body={}) if has_body and request.body is None else request)

    async def _act(
        self, http: ProviderHttp, table: Mapping[str, Any], request: Request
    ) -> tuple[Answer, ProviderFailure | None]:
        """A request that changes something; its `ok` says which codes mean that it was done.

        With the answer comes the reason why its body could not be read, if there is one.
        """
        allowed = table.get("ok")
        try:
            response = await self._ask(http, request, is_of_run=table is not self.tables.get("trigger"))
        except ProviderFailure as failure:
            status = failure.failed.status or 0
            is_refused = 200 <= status < 300 and failure.failed.kind in FAILURES.values()  # by a rule: only they say so
            is_done = status in allowed if allowed else 200 <= status < 300  # without readable JSON
            if is_done and not is_refused:
                return Answer(status, failure.headers, failure.body), failure
            raise action_error(failure) from None
        if allowed and response.status not in allowed:
            raise _unusable(f"the answer has code {response.status}, not {allowed}", response.status)
        return Answer(response.status, response.headers, response.body), None

    async def check(self, http: ProviderHttp) -> None:
        """[check], else the first page of [list]; raises Unsupported without both, otherwise ProviderFailure."""
        if (table := self.tables.get("check")) is None:
            if "list" not in self.tables:
                raise Unsupported(f"key not proven: the definition of {self.name} has neither [check] nor [list]")
            await self.list_runs(http, since=_LONG_AGO)
            return
        request = request_of(table, self._variables(http), {})
        try:
            response = await self._ask(http, request, is_of_run=False)
        except ProviderFailure as failure:
            if failure.failed.status not in table.get("ok", ()):
                raise
            return
        if "if" in table and not is_true(find(table["if"], response.body, Notes())):
            said = http.redacted(error_text(response.body)[0] or f"not with what [check] expects: {table['if']}")
            raise key_not_proven(f"{request.what} answered {response.status}, {said}")

    async def present_key(self, http: ProviderHttp) -> None:
        """The exchange of the key for a token, if there is one, else `check`."""
        if self._exchange is None:
            await self.check(http)
        else:
            await self._exchange.header(http, self._variables(http), renew=False)


@contextmanager
def _usable(what: str, response: ProviderResponse) -> Iterator[None]:
    """Turns BadPayload into a ProviderFailure that says what the answer was."""
    try:
        yield
    except BadPayload as error:
        raise _unusable(f"{what}: {error}", response.status) from None


def _unusable(message: str, status: int) -> ProviderFailure:
    return ProviderFailure(PollFailed(FailureKind.BAD_PAYLOAD, message[:MESSAGE_CHARS_MAX], status))


def _joined(table: Mapping[str, Any], first: dict[str, Json], items: list[Json]) -> Json:
    """The object of the first page with the items of all; its own word that more follow is no longer true."""
    following = table["next"].get("while") if isinstance(table["next"], dict) else None
    over = {following: False} if following in first else {}
    return {**first, table["join"]: items, **over}


def _condition_for(last: LastResponse) -> dict[str, str]:
    """The header that asks for a change only."""
    if last.etag is None:
        return {}
    if last.etag.startswith(_MODIFIED):
        return {"If-Modified-Since": last.etag.removeprefix(_MODIFIED)}
    return {"If-None-Match": last.etag}


def _mark_of(headers: Mapping[str, str]) -> str | None:
    """The ETag, else the Last-Modified behind its own mark."""
    modified = headers.get("last-modified", "").strip()
    return etag_of(headers) or (f"{_MODIFIED}{modified}" if 0 < len(modified) < 100 and modified.isascii() else None)
