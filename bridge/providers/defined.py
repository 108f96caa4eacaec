"""A provider made from a definition: the requests of its tables, read by `DefinitionReader`."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from bridge.domain.connection import Connection
from bridge.domain.definitions.check import word_text
from bridge.domain.definitions.definition import Definition
from bridge.domain.errors import BadPayload, Unsupported
from bridge.domain.frozen import replaced
from bridge.domain.ids import comparable_run_id
from bridge.domain.observation import (
    FailureKind,
    LastResponse,
    ListedRun,
    Observation,
    Observed,
    PollFailed,
    PollResult,
    RunPage,
)
from bridge.domain.run import Json, RunStatus
from bridge.domain.timestamps import provider_instant
from bridge.providers.base import (
    LAST_BODY_BYTES_MAX,
    LIST_TIMEOUT_S,
    ProviderDefaults,
    RunFormat,
    Triggered,
    action_error,
    checked_404,
    key_not_proven,
    run_id_in,
    without_damage,
)
from bridge.providers.definition_answers import Answer, Meaning, condition_for, hint_of, is_error, mark_of, meaning_of
from bridge.providers.definition_reader import DefinitionReader, Reading, RunId
from bridge.providers.definition_requests import (
    ForeignHost,
    Hosts,
    Pages,
    Query,
    fill,
    fill_address,
    fill_body,
    id_in_address,
    instant_as,
    items_in,
    list_fields,
    unusable,
    value_at,
)
from bridge.providers.definition_token import TokenExchange, key_of
from bridge.providers.failures import error_text
from bridge.providers.fields import check_id, check_same_run, text_of
from bridge.providers.http import ProviderFailure, ProviderHttp, ProviderResponse
from bridge.providers.partial_json import RunFields

OUTPUT_PAGES_MAX: Final = 1000


class DefinedProvider(ProviderDefaults):
    """A provider that a definition describes, for a connection with these variables."""

    def __init__(self, definition: Definition, given: Mapping[str, str] | None = None) -> None:
        self.definition = definition
        self.tables = definition.tables
        self.name = definition.name
        self.default_base_url = definition.base_url or ""
        self.lists = definition.lists and (given is None or not definition.list_lacks(given))
        self.reader = DefinitionReader(self.tables)
        self.run_id = RunId.of(self.tables)
        self._form = RunFormat(lambda body: self.reader.read(body).observation, self.reader.fields or _NO_FIELDS)
        auth = self.tables.get("auth")
        self._exchange = TokenExchange(auth) if isinstance(auth, dict) and "exchange" in auth else None

    def base_url(self, connection: Connection) -> str:
        """The connection's own, else the definition's; with the variables filled in."""
        return fill(connection.base_url or self.default_base_url, self.variables(connection.options))

    def headers(self, connection: Connection) -> dict[str, str]:
        """The headers that every request has: the key, unless it goes another way, and the definition's own."""
        key, auth = connection.api_key.reveal(), self.tables.get("auth", "bearer")
        variables = self.variables(connection.options)
        headers = {name: fill(value, variables) for name, value in self.tables.get("headers", {}).items()}
        match auth:
            case "bearer":
                headers["Authorization"] = f"Bearer {key}"
            case "basic":
                headers["Authorization"] = f"Basic {base64.b64encode(key.encode()).decode()}"
            case {"header": str() as name}:
                headers[name] = f"{auth['scheme']} {key}" if "scheme" in auth else key
        return headers

    def variables(self, given: Mapping[str, str]) -> dict[str, str]:
        """The variables of a connection that gives these: with their defaults, else empty."""
        known = self.definition.variables
        defaults = {name: spec["default"] for name, spec in known.items() if "default" in spec}
        return {**dict.fromkeys(known, ""), **defaults, **{name: given[name] for name in known if name in given}}

    def check_run_id(self, provider_run_id: str) -> str | None:
        """Text of the kind, or of the parts, that the definition names."""
        if problem := check_id(provider_run_id):
            return problem
        try:
            self.run_id.split(provider_run_id)
        except ValueError as error:
            return str(error)
        return None

    # --- Requests

    async def _send(
        self,
        http: ProviderHttp,
        table: Mapping[str, Any],
        values: Mapping[str, Json],
        *,
        more_query: Query | None = None,
        address: str | None = None,
        headers: Mapping[str, str] | None = None,
        last_body: bytes | None = None,
        fields: RunFields | None = None,
        timeout_s: float | None = None,
        body: Json = None,
    ) -> ProviderResponse:
        """Send a request of a table. `address` replaces its own, `body` too. Raises ProviderFailure."""
        method = next(name for name in ("get", "post", "put", "delete") if name in table)
        texts = {name: str(value) for name, value in values.items() if isinstance(value, str | int)}
        path, query = fill_address(table[method], texts, self.run_id.kinds)
        if address is not None:
            path, query = (address, [])
        else:
            query += [(name, fill(word_text(value), texts)) for name, value in table.get("query", {}).items()]
        named = {name for name, _ in more_query or ()}
        query = [pair for pair in query if pair[0] not in named] + (more_query or [])
        auth = self.tables.get("auth")
        if isinstance(auth, dict) and "query" in auth:
            query.append((auth["query"], key_of(http)))
        if body is None and "body" in table:
            body = fill_body(table["body"], values, self.run_id.kinds)
        if body is None and method in {"post", "put"} and table is not self.tables["run"]:
            body = {}
        for is_again in (False, True):
            own = dict(headers or {})
            if self._exchange is not None:
                own |= await self._exchange.header(http, self.variables(http.options), renew=is_again)
            try:
                return await http.request(
                    method.upper(), path, query=query, json_body=body, headers=own, last_body=last_body,
                    fields=fields, timeout_s=timeout_s,
                )  # fmt: skip
            except ProviderFailure as failure:
                if is_again or failure.failed.status != 401 or self._exchange is None:
                    raise
        raise AssertionError("the second try returns or raises")

    # --- One run

    async def fetch_run(self, http: ProviderHttp, provider_run_id: str, last: LastResponse | None = None) -> PollResult:
        """Poll one run; every fault of the provider is returned as `PollFailed`."""
        try:
            values = {**self.variables(http.options), **self.run_id.split(provider_run_id)}
        except ValueError as error:
            return PollFailed(FailureKind.REJECTED, f"{provider_run_id[:100]}: {error}")
        run, conditional = self.tables["run"], self.tables["run"].get("conditional", False)
        try:
            response = await self._send(
                http, run, values,
                headers=condition_for(last) if conditional and last else None,
                last_body=last.body if last else None,
                fields=self.reader.fields,
            )  # fmt: skip
        except ProviderFailure as failure:
            return self._judge_failure(http, failure, provider_run_id, last)
        kept = response.data if 0 < len(response.data) <= LAST_BODY_BYTES_MAX else None
        mark = mark_of(response.headers) if conditional else None
        answered_at = provider_instant(response.headers.get("date"))
        if last and response.is_same_body:
            return Observed(last.observation, response.poll_after_s, answered_at, mark, body=kept)
        answer = Answer(response.status, response.headers, response.body)
        meaning = meaning_of(self.tables, answer)
        result = self._result(answer, meaning, provider_run_id, last, response.damaged, http.redacted)
        if isinstance(result, Observed):
            hint = hint_of(self.tables, answer)
            waits = max(
                (one for one in (hint, meaning.pause_s, response.poll_after_s) if one is not None), default=None
            )
            return replaced(result, poll_after_s=waits, answered_at=answered_at, etag=mark, body=kept)
        return result

    def _judge_failure(
        self, http: ProviderHttp, failure: ProviderFailure, provider_run_id: str, last: LastResponse | None
    ) -> PollResult:
        """The result of a request that did not end in a 2xx: by the rules, else by the defaults."""
        status = failure.failed.status
        if status is None:
            return failure.failed
        answer = Answer(status, failure.headers, failure.body)
        meaning = meaning_of(self.tables, answer)
        if meaning.rule:
            return self._result(answer, meaning, provider_run_id, last, frozenset(), http.redacted, failure.failed)
        if status == 304 and last:
            return Observed(
                last.observation, failure.failed.retry_after_s, provider_instant(failure.headers.get("date")), last.etag,
                is_unchanged=True, body=last.body,
            )  # fmt: skip
        return checked_404(failure, self._form)

    def _result(
        self,
        answer: Answer,
        meaning: Meaning,
        provider_run_id: str | None,
        last: LastResponse | None,
        damaged: frozenset[str],
        redacted: Callable[[str], str],
        failed: PollFailed | None = None,
    ) -> PollResult:
        def failure(kind: FailureKind, said: str) -> PollFailed:
            text = failed.message if failed else f"HTTP {answer.status}"
            by = f" ({self.definition.name} {self.definition.version}: {meaning.rule})" if meaning.rule else ""
            return PollFailed(kind, f"{text}: {said}{by}"[:400], answer.status, meaning.pause_s)

        match meaning.means:
            case "unchanged" if last:
                return Observed(last.observation, is_unchanged=True)
            case "unchanged":
                return failure(FailureKind.BAD_PAYLOAD, "unchanged, but nothing was seen before")
            case "retry":
                return failure(FailureKind.SERVER_ERROR, "to be tried again")
            case "throttled":
                return failure(FailureKind.THROTTLED, "too many requests")
            case "refused":
                return failure(FailureKind.UNAUTHORIZED, "the key is refused")
            case "not-found":
                return failure(FailureKind.NOT_FOUND, "there is no such run")
            case "gone":
                return Observed(Observation(RunStatus.LOST, "gone"))
        try:
            reading = self.reader.read(answer.body)
            if "id" not in damaged and provider_run_id is not None:
                self._check_same_run(reading, provider_run_id)
            seen = reading.observation
            if meaning.means != "ok":
                seen = self._in_status(seen, RunStatus(meaning.means), answer)
            elif not isinstance(answer.body, dict | list):
                raise BadPayload("the answer is not a JSON object")
            elif reading.rule == "" and seen.status is RunStatus.UNKNOWN and is_error(answer.body, seen):
                raise BadPayload("the answer is an error instead of a run")
            if damaged and self.reader.fields:
                seen = without_damage(seen, damaged, self.reader.fields)
            return Observed(seen, remarks=(*meaning.remarks, *reading.remarks))
        except BadPayload as error:
            said, _ = error_text(answer.body)
            what = f"HTTP {answer.status} with an error instead of a run: {redacted(said)}" if said else str(error)
            return PollFailed(FailureKind.BAD_PAYLOAD, what[:400], answer.status, meaning.pause_s)

    def result_of(self, answer: Answer) -> tuple[PollResult | None, Reading | None]:
        """What one answer about a run means, and how its body was read, without a request.

        No result for an answer that the defaults judge: its code alone decides.
        """
        meaning = meaning_of(self.tables, answer)
        if not meaning.rule and not 200 <= answer.status < 300:
            return None, None
        result = self._result(answer, meaning, None, None, frozenset(), str)
        if isinstance(result, Observed):
            waits = max(
                (one for one in (hint_of(self.tables, answer), meaning.pause_s) if one is not None), default=None
            )
            return replaced(result, poll_after_s=waits), self.reader.read(answer.body)
        return result, None

    def _in_status(self, seen: Observation, status: RunStatus, answer: Answer) -> Observation:
        """An observation whose status a rule about the answer has decided."""
        word = seen.provider_status if seen.status is not RunStatus.UNKNOWN else str(answer.status)
        after = self.tables.get("output", {}).get("when", ("succeeded", "partial"))
        elsewhere = "output" in self.tables and status.value in after and seen.output is None
        return replace(seen, status=status, provider_status=word, output_is_elsewhere=elsewhere)

    def _check_same_run(self, reading: Reading, provider_run_id: str) -> None:
        """Raise BadPayload if the body names another run: neither the whole id nor a part of it."""
        parts = self.run_id.split(provider_run_id).values()
        if comparable_run_id(reading.told_id or "") not in map(comparable_run_id, parts):
            check_same_run(reading.told_id, provider_run_id)

    # --- Many runs

    async def list_runs(self, http: ProviderHttp, *, since: datetime, cursor: str | None = None) -> RunPage:
        """One page of [list]. Raises ProviderFailure, or Unsupported without a list."""
        listing = self.tables.get("list")
        if listing is None:
            return await super().list_runs(http, since=since, cursor=cursor)
        pages = Pages(listing.get("next"))
        query = pages.query(cursor)
        if "since" in listing:
            query.append((listing["since"]["query"], instant_as(since, listing["since"].get("time", "iso"))))
        address = cursor if pages.is_address() else None
        response = await self._send(
            http, listing, self.variables(http.options), more_query=query if address is None else [],
            address=address, timeout_s=LIST_TIMEOUT_S, fields=list_fields(listing),
        )  # fmt: skip
        what = f"the list of {self.name}"
        items = items_in(listing, response, what)
        hosts = Hosts.of(self.tables, http.base_url)
        try:
            following = pages.after(cursor, response.headers, response.body, [item for _, item in items], hosts)
        except ForeignHost as error:
            raise unusable(f"{what}: {error}", response.status) from None
        runs = (self.listed(listing, key, item, self.variables(http.options)) for key, item in items)
        return RunPage(
            tuple(run for run in runs if run is not None),
            following,
            hint_of(self.tables, Answer(response.status, response.headers, response.body)) or response.poll_after_s,
            provider_instant(response.headers.get("date")),
        )

    def listed(
        self, listing: Mapping[str, Any], key: str | None, item: Json, variables: Mapping[str, str]
    ) -> ListedRun | None:
        """The run of an item; None if it has no id that a run could have."""
        paths = listing["id"]
        if isinstance(paths, dict):
            found = {name: text_of(value_at(path, item)) for name, path in paths.items()}
            parts = {**{name: variables.get(name) for name in self.run_id.kinds}, **found}
            told = self.run_id.join({name: str(part) for name, part in parts.items()}) if all(parts.values()) else None
        else:
            told = key if key is not None and value_at(paths, item) is None else text_of(value_at(paths, item))
        if told is None or self.check_run_id(told) is not None:
            return None
        try:
            seen = self.reader.read(item).observation
        except BadPayload:
            return ListedRun(told, None, needs_detail=True)
        if seen.provider_status == "null":
            return ListedRun(told, None, needs_detail=True)
        return ListedRun(told, seen, needs_detail=not listing.get("whole", False))

    # --- Output, start, end, check

    async def fetch_output(self, http: ProviderHttp, run_id: str) -> Json:
        """[output]: its `read`, with the lists of all pages joined. Raises ProviderFailure."""
        table = self.tables.get("output")
        if table is None:
            return await super().fetch_output(http, run_id)
        values = {**self.variables(http.options), **self.run_id.split(run_id)}
        pages, hosts = Pages(table.get("next")), Hosts.of(self.tables, http.base_url)
        joined: list[Json] = []
        cursor, room = None, http.body_bytes_max
        for _ in range(OUTPUT_PAGES_MAX):
            address = cursor if pages.is_address() else None
            response = await self._send(http, table, values, address=address, more_query=pages.query(cursor))
            room -= len(response.data)
            if room < 0:
                raise unusable("the output is too large", response.status)
            found = value_at(table["read"], response.body) if "read" in table else response.body
            if table.get("next") is None or not isinstance(found, list):
                return joined + found if joined and isinstance(found, list) else found
            joined += found
            try:
                cursor = pages.after(cursor, response.headers, response.body, found, hosts)
            except ForeignHost as error:
                raise unusable(str(error), response.status) from None
            if cursor is None or not found:
                break
        return joined

    async def trigger(self, http: ProviderHttp, workflow_id: str, inputs: Json, extra: dict[str, Json]) -> Triggered:
        """[trigger]. Raises as `Provider.trigger` does, Unsupported without that table."""
        table = self.tables.get("trigger")
        if table is None:
            raise Unsupported(f"the definition of {self.name} cannot start runs; start it there and register its id")
        values: dict[str, Json] = {**self.variables(http.options), "workflow": workflow_id, "inputs": inputs}
        body = fill_body(table.get("body", {}), values, {})
        if extra and isinstance(body, dict):
            body = {**extra, **body}
        answer = await self._act(http, table, values, body)
        return Triggered(self.started(answer, self.variables(http.options), http.base_url))

    def started(self, answer: Answer, variables: Mapping[str, str], base_url: str) -> str:
        """The id of the run in the answer to a trigger. Raises ProviderFailure if there is none."""
        origin, what = self.tables["trigger"]["run_from"], "the trigger"
        try:
            match origin:
                case {"header": str() as name}:
                    named = answer.headers.get(name)
                    if named is None:
                        raise ValueError(f"the answer has no header {name}")
                    return id_in_address(self.tables, base_url, Hosts.of(self.tables, base_url).address(named))
                case dict():
                    found = {name: text_of(value_at(path, answer.body)) for name, path in origin.items()}
                    told = self.run_id.join(
                        {name: found.get(name) or variables.get(name, "") for name in self.run_id.kinds}
                    )
                case _:
                    told = run_id_in({"id": value_at(origin, answer.body)}, "id", what)
            self.run_id.split(told)
        except ValueError as error:
            raise unusable(f"{what}: the answer holds no run id: {error}", answer.status) from None
        return told

    async def cancel(self, http: ProviderHttp, provider_run_id: str, provider_ref: str | None) -> None:
        """[cancel]. Raises as `Provider.cancel` does."""
        table = self.tables.get("cancel")
        if table is None:
            return await super().cancel(http, provider_run_id, provider_ref)
        values: dict[str, Json] = {**self.variables(http.options), **self.run_id.split(provider_run_id)}
        await self._act(http, table, values, None)
        return None

    async def _act(
        self, http: ProviderHttp, table: Mapping[str, Any], values: Mapping[str, Json], body: Json
    ) -> Answer:
        """A request that changes something; its `ok` says which codes mean that it was done."""
        allowed = table.get("ok")
        try:
            response = await self._send(http, table, values, body=body)
        except ProviderFailure as failure:
            status = failure.failed.status or 0
            if status in allowed if allowed else 200 <= status < 300:  # done, with a body that is no JSON or none
                return Answer(status, failure.headers, failure.body)
            raise action_error(failure) from None
        if allowed and response.status not in allowed:
            raise unusable(f"the answer has code {response.status}, not {allowed}", response.status)
        return Answer(response.status, response.headers, response.body)

    async def check(self, http: ProviderHttp) -> None:
        """[check], else the first page of [list]; without both nothing is claimed. Raises ProviderFailure."""
        if (table := self.tables.get("check")) is not None:
            response = await self._send(http, table, self.variables(http.options))
            meaning = meaning_of(self.tables, Answer(response.status, response.headers, response.body))
            if meaning.means not in {"ok", "unchanged"}:
                raise key_not_proven(f"the answer means {meaning.means} ({meaning.rule})")
        elif "list" in self.tables:
            await self.list_runs(http, since=datetime.fromisoformat("2000-01-01T00:00:00+00:00"))
        else:
            raise key_not_proven(f"the definition of {self.name} has neither [check] nor [list]")


_NO_FIELDS: Final = RunFields(frozenset())


__all__ = ["Answer", "DefinedProvider", "Meaning"]
