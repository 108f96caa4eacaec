"""A provider made from a definition, against a real HTTP server: requests, readings, pages, hosts, tokens."""

from __future__ import annotations

import tomllib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web

from bridge.definitions.check import faults_in
from bridge.domain.connection import Connection
from bridge.domain.definition import Definition
from bridge.domain.errors import ProviderRefused, Unsupported
from bridge.domain.failure import FailureKind
from bridge.domain.observation import LastResponse, Observation, Observed, PollFailed, PollResult
from bridge.domain.run import RunStatus
from bridge.domain.secret import Secret
from bridge.providers import open_http
from bridge.providers.defined import DefinedProvider
from bridge.providers.http import ProviderFailure, ProviderHttp, ProviderSessions
from tests.support.foreign_server import ForeignServer, Handler, answering, foreign_server

KEY = "canary-key-1234"
BASE = """
schema = 1
name = "jobs"
[run]
get = "/v1/jobs/{id}"
[read]
status = "state"
[status]
running = ["RUN"]
succeeded = ["OK"]
failed = ["BAD"]
"""


def provider(text: str) -> DefinedProvider:
    tables = tomllib.loads(text)
    assert faults_in(tables) == []
    return DefinedProvider(Definition("jobs", "1.0.0", "test", "0", tables))


@asynccontextmanager
async def against(
    handler: Handler, text: str = BASE, **variables: str
) -> AsyncIterator[tuple[DefinedProvider, ProviderHttp, ForeignServer]]:
    defined = provider(text)
    async with foreign_server(handler) as server, ProviderSessions() as sessions:
        connection = Connection(
            "a",
            "jobs",
            f"{server.url}/api",
            Secret(KEY),
            options=variables,
            timeout_s=60,
            definition=defined.definition,
        )
        yield defined, open_http(sessions, connection, defined), server


def read(result: PollResult) -> Observation:
    assert isinstance(result, Observed), result
    return result.observation


def failed(result: PollResult) -> PollFailed:
    assert isinstance(result, PollFailed), result
    return result


async def poll(body: object, text: str = BASE, *, run_id: str = "7", **more: Any) -> PollResult:
    async with against(answering(body, **more), text) as (defined, http, _):
        return await defined.fetch_run(http, run_id)


async def test_one_poll_sends_the_key_and_reads_the_status() -> None:
    async with against(answering({"state": "RUN"})) as (defined, http, server):
        seen = read(await defined.fetch_run(http, "a/b c"))
    assert (seen.status, seen.provider_status) == (RunStatus.RUNNING, "RUN")
    assert server.seen[0].target == "/api/v1/jobs/a%2Fb%20c"
    assert server.seen[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("auth", "where"),
    [
        ('{ header = "X-Key" }', ("x-key", KEY)),
        ('{ header = "Authorization", scheme = "Key" }', ("authorization", f"Key {KEY}")),
        ('{ header = "Authorization", scheme = "Basic" }', ("authorization", f"Basic {KEY}")),  # encoded by hand
        ('"basic"', ("authorization", "Basic Y2FuYXJ5LWtleS0xMjM0")),
    ],
)
async def test_the_key_goes_where_the_definition_says(auth: str, where: tuple[str, str]) -> None:
    text = BASE.replace('name = "jobs"', f'name = "jobs"\nauth = {auth}')
    async with against(answering({"state": "RUN"}), text) as (defined, http, server):
        await defined.fetch_run(http, "7")
    assert server.seen[0].headers[where[0]] == where[1]


async def test_a_key_in_the_query_is_in_no_message() -> None:
    text = BASE.replace('name = "jobs"', 'name = "jobs"\nauth = { query = "token" }')
    async with against(answering({"error": f"no {KEY}"}, status=500), text) as (defined, http, server):
        failure = failed(await defined.fetch_run(http, "7"))
    assert server.seen[0].target == f"/api/v1/jobs/7?token={KEY}"
    assert KEY not in failure.message


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("OK", "succeeded"),
        (10, "queued"),
        (True, "waiting"),
        ("new", "unknown"),
        (None, "unknown"),
        ({"a": 1}, "unknown"),
    ],
)
async def test_words_numbers_and_booleans(word: object, status: str) -> None:
    text = BASE + 'queued = ["10"]\nwaiting = [true]\n'
    result = await poll({"state": word, "id": 7}, text)
    assert read(result).status == status
    assert isinstance(result, Observed)
    assert bool(result.remarks) is (word is None or isinstance(word, dict)), "a path that finds nothing is a remark"


async def test_capitals_matter_unless_the_definition_says_otherwise() -> None:
    assert read(await poll({"state": "ok"})).status is RunStatus.UNKNOWN
    assert read(await poll({"state": "ok"}, BASE + 'case = "ignore"\n')).status is RunStatus.SUCCEEDED


async def test_rules_come_before_words_and_a_failing_one_is_a_remark() -> None:
    text = BASE + (
        '[[status.when]]\nif = "length(steps) > `1`"\nis = "waiting"\n'
        '[[status.when]]\nif = "state == \'OK\' && conclusion == \'bad\'"\nis = "partial"\nraw = "conclusion"\n'
    )
    seen = await poll({"state": "OK", "conclusion": "bad", "steps": [1]}, text)
    assert (read(seen).status, read(seen).provider_status) == (RunStatus.PARTIAL, "bad")
    without = await poll({"state": "RUN"}, text)
    assert read(without).status is RunStatus.RUNNING
    assert isinstance(without, Observed)
    assert any("status.when[0].if" in remark for remark in without.remarks)


async def test_an_absent_status_means_what_the_file_says() -> None:
    assert read(await poll({"id": "7"}, BASE + 'absent = "queued"\n')).status is RunStatus.QUEUED


async def test_every_field_is_read() -> None:
    text = BASE.replace(
        "[status]",
        'workflow = "wf.id"\noutput = { path = "out", decode = "json" }\nlink = "href"\n'
        'error = { message = "e.text", code = "e.code", step = "e.step" }\n'
        'progress = { path = "done", as = "ratio" }\ncreated_at = "at"\n'
        'started_at = { path = ["none", "start"], time = "s" }\nfinished_at = { path = "end", time = "ns" }\n[status]',
    )
    seen = read(
        await poll(
            {
                "state": "BAD", "wf": {"id": 12}, "out": '{"a": [1]}', "e": {"text": "no", "code": 5, "step": "s"},
                "done": "3/5", "at": "2026-01-15T10:30:05+01:00", "start": 1768472405.5, "end": 1768472406123456789,
            },
            text,
        )
    )  # fmt: skip
    assert (seen.workflow_id, seen.output) == ("12", {"a": [1]})
    assert seen.error is not None
    assert (seen.error.message, seen.error.code, seen.error.step) == ("no", "5", "s")
    assert seen.progress is not None
    assert (seen.progress.completed, seen.progress.total) == (3, 5)
    assert seen.created_at == "2026-01-15T09:30:05Z"
    assert (seen.started_at, seen.finished_at) == ("2026-01-15T10:20:05.500Z", "2026-01-15T10:20:06.123456789Z")


async def test_a_status_inside_text_that_holds_json() -> None:
    text = BASE.replace('status = "state"', 'status = { path = "inner", decode = "json" }')
    assert read(await poll({"inner": '{"state": "RUN"}'}, text)).status is RunStatus.UNKNOWN, "an object is no word"
    assert read(await poll({"inner": "RUN"}, text)).status is RunStatus.RUNNING


async def test_text_stays_text_in_an_output() -> None:
    assert (
        read(await poll({"state": "OK", "out": "1.10"}, BASE.replace("[status]", 'output = "out"\n[status]'))).output
        == "1.10"
    )


@pytest.mark.parametrize(("given", "is_ours"), [("7", True), (7, True), ("8", False), (None, True)])
async def test_the_body_of_another_run_is_unusable(given: object, is_ours: bool) -> None:
    result = await poll({"state": "OK", "id": given}, BASE.replace("[status]", 'id = "id"\n[status]'))
    assert isinstance(result, Observed) is is_ours
    assert is_ours or failed(result).kind is FailureKind.BAD_PAYLOAD


async def test_an_id_of_several_parts() -> None:
    text = BASE.replace("/v1/jobs/{id}", "/repos/{owner}/{repo}/runs/{run}").replace(
        "[read]", 'id = { owner = "slug", repo = "slug", run = "int" }\n[read]\nid = "id"'
    )
    async with against(answering({"state": "RUN", "id": 9}), text) as (defined, http, server):
        assert read(await defined.fetch_run(http, "me/tool/9")).status is RunStatus.RUNNING
    assert server.seen[0].target == "/api/repos/me/tool/runs/9"
    assert defined.check_run_id("me/9") is not None
    assert defined.check_run_id("me/tool/x") is not None
    assert defined.check_run_id("me/tool/9") is None


async def test_a_poll_by_post_sends_a_number_as_a_number() -> None:
    text = BASE.replace('get = "/v1/jobs/{id}"', 'post = "/ask"\nbody = { ids = ["{id}"], q = "job {id}" }\nid = "int"')
    async with against(answering({"state": "RUN"}), text) as (defined, http, server):
        await defined.fetch_run(http, "7")
    assert (server.seen[0].method, server.seen[0].body) == ("POST", {"ids": [7], "q": "job 7"})


@pytest.mark.parametrize(
    ("rule", "status", "body", "kind"),
    [
        ('http = 403\nheader = { x-left = "0" }\nmeans = "throttled"', 403, {"e": 1}, FailureKind.THROTTLED),
        ('http = "4xx"\nif = "code == \'busy\'"\nmeans = "retry"', 409, {"code": "busy"}, FailureKind.SERVER_ERROR),
        ('if = "code == \'auth\'"\nmeans = "refused"', 200, {"code": "auth"}, FailureKind.UNAUTHORIZED),
        ('http = [400, 422]\nmeans = "not-found"', 422, {"code": "x"}, FailureKind.NOT_FOUND),
    ],
)
async def test_answers_that_are_failures(rule: str, status: int, body: object, kind: FailureKind) -> None:
    result = await poll(body, BASE + f"[[answer]]\n{rule}\n", status=status, headers={"x-left": "0"})
    assert failed(result).kind is kind


@pytest.mark.parametrize(
    ("rule", "status", "meant"),
    [
        ('http = 202\nmeans = "running"', 202, RunStatus.RUNNING),
        ('http = 409\nmeans = "cancelled"', 409, RunStatus.CANCELLED),
        ('http = 410\nmeans = "gone"', 410, RunStatus.LOST),
    ],
)
async def test_answers_that_are_states(rule: str, status: int, meant: RunStatus) -> None:
    assert read(await poll(b"", BASE + f"[[answer]]\n{rule}\n", status=status)).status is meant


async def test_an_instant_in_a_header_is_a_pause() -> None:
    rule = '[[answer]]\nhttp = 403\nmeans = "throttled"\nuntil = { header = "x-reset", time = "s" }\n'
    date = {"date": "Thu, 15 Jan 2026 10:20:05 GMT", "x-reset": "1768472465"}
    result = await poll({}, BASE + rule, status=403, headers=date)
    assert failed(result).retry_after_s == 60.0


@pytest.mark.parametrize(
    ("hint", "headers", "body", "pause_s"),
    [
        ('"retry-after"', {"retry-after": "3"}, {}, 3.0),
        ('"retry-after-ms"', {"retry-after-ms": "1500"}, {}, 1.5),
        ('{ header = "x-next", time = "ms" }', {"x-next": "2500"}, {}, 2.5),
        ('{ path = "wait.s" }', {}, {"wait": {"s": 4}}, 4.0),
        ('{ path = "wait" }', {}, {"wait": "soon"}, None),
    ],
)
async def test_a_hint_is_believed_on_success(
    hint: str, headers: dict[str, str], body: dict[str, Any], pause_s: float | None
) -> None:
    result = await poll({"state": "RUN", **body}, BASE + f"[pace]\nhint = [{hint}]\n", headers=headers)
    assert isinstance(result, Observed)
    assert result.poll_after_s == pause_s


async def test_a_conditional_poll_sends_back_what_it_got() -> None:
    text = BASE.replace("[read]", "conditional = true\n[read]")

    async def answer(request: web.Request) -> web.Response:
        if request.headers.get("If-Modified-Since") == "Thu, 15 Jan 2026 10:20:05 GMT":
            return web.Response(status=304)
        return web.json_response({"state": "RUN"}, headers={"Last-Modified": "Thu, 15 Jan 2026 10:20:05 GMT"})

    async with against(answer, text) as (defined, http, _):
        first = await defined.fetch_run(http, "7")
        assert isinstance(first, Observed)
        again = await defined.fetch_run(http, "7", LastResponse(first.observation, first.etag))
    assert isinstance(again, Observed)
    assert again.is_unchanged
    assert again.observation == first.observation


LIST = '[list]\nget = "/v1/jobs?limit=2"\nitems = "jobs"\nid = "id"\nwhole = true\n'
SINCE = datetime(2026, 1, 15, tzinfo=UTC)
NEXT: dict[str, Callable[[int, str], tuple[dict[str, Any], dict[str, str]]]] = {
    'next = { cursor = "after", query = "c" }': lambda page, _: ({"after": f"c{page + 1}" if page < 2 else None}, {}),
    'next = { last = "id", query = "c", while = "more" }': lambda page, _: ({"more": page < 2}, {}),
    'next = { page = "p", while = "more" }': lambda page, _: ({"more": page < 2}, {}),
    'next = { offset = "o", step = 2, while = "more" }': lambda page, _: ({"more": page < 2}, {}),
    'next = { url = "n" }': lambda page, url: ({"n": f"{url}/api/v1/jobs?at={page + 1}" if page < 2 else None}, {}),
    'next = "link-header"': lambda page, url: (
        {}, {"link": f'<{url}/x>; rel="prev", <{url}/api/v1/jobs?at={page + 1}>; rel="next"'} if page < 2 else {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("following", NEXT)
async def test_pages_of_a_list_are_followed_to_the_end(following: str) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        page = len(asked)
        asked.append(request.path_qs)
        more, headers = NEXT[following](page, f"http://{request.host}")
        items = [{"id": page * 2 + n, "state": "RUN"} for n in (1, 2)]
        return web.json_response({"jobs": items, **more}, headers=headers)

    found: list[str] = []
    async with against(answer, BASE + LIST + following + "\n") as (defined, http, _):
        cursor = None
        for _ in range(5):
            page = await defined.list_runs(http, since=SINCE, cursor=cursor)
            found += [run.provider_run_id for run in page.runs]
            cursor = page.next_cursor
            if cursor is None:
                break
    assert found == ["1", "2", "3", "4", "5", "6"]
    assert len(set(asked)) == 3, asked


@pytest.mark.parametrize(
    "elsewhere", ["https://evil.example.com/n", "//evil.example.com/n", "http://127.0.0.1:1/n", "file:///etc/passwd"]
)
@pytest.mark.parametrize("following", ['next = { url = "n" }', 'next = "link-header"'])
async def test_the_key_follows_no_address_to_another_host(elsewhere: str, following: str) -> None:
    body = {"jobs": [{"id": 1, "state": "RUN"}], "n": elsewhere}
    async with against(
        answering(body, headers={"link": f"<{elsewhere}>; rel=next"}), BASE + LIST + following + "\n"
    ) as (defined, http, _):
        with pytest.raises(ProviderFailure, match="may not see the key"):
            await defined.list_runs(http, since=SINCE)


async def test_a_map_keyed_by_id_and_a_bare_list() -> None:
    as_map = BASE + '[list]\nget = "/t"\nitems = "@"\nitems_as = "map"\nid = "uuid"\n'
    async with against(answering({"a": {"state": "RUN"}, "b": {"state": "OK"}}), as_map) as (defined, http, _):
        page = await defined.list_runs(http, since=SINCE)
    assert [(run.provider_run_id, run.observation and run.observation.status.value, run.needs_detail) for run in page.runs] == [
        ("a", "running", True), ("b", "succeeded", True),
    ]  # fmt: skip


async def test_a_trigger_puts_the_inputs_in_as_they_are() -> None:
    text = (
        BASE
        + '[trigger]\npost = "/run/{workflow}"\nbody = { in = "{inputs}", name = "r {workflow}" }\nrun_from = "job.id"\n'
    )
    async with against(answering({"job": {"id": 12}}), text) as (defined, http, server):
        assert (await defined.trigger(http, "w 1", {"n": 478, "none": "None"}, {"x": 1})).provider_run_id == "12"
    assert server.seen[0].target == "/api/run/w%201"
    assert server.seen[0].body == {"in": {"n": 478, "none": "None"}, "name": "r w 1", "x": 1}


async def test_the_id_in_a_header_must_fit_the_address_of_a_run() -> None:
    text = BASE + '[trigger]\npost = "/run"\nrun_from = { header = "Operation-Location" }\n'

    async def answer(request: web.Request) -> web.Response:
        where = (await request.json())["where"].replace("HERE", f"http://{request.host}/api")
        return web.Response(status=202, headers={"Operation-Location": where})

    async with against(answer, text) as (defined, http, _):
        started = await defined.trigger(http, "w", None, {"where": "HERE/v1/jobs/a%2Fb?x=1"})
        assert started.provider_run_id == "a/b"
        for where in ("https://evil.example.com/api/v1/jobs/1", "HERE/other/1"):
            with pytest.raises(ProviderFailure, match="no run id"):
                await defined.trigger(http, "w", None, {"where": where})


async def test_a_cancel_that_is_refused_says_so_and_without_the_table_there_is_none() -> None:
    text = BASE + '[cancel]\ndelete = "/v1/jobs/{id}"\nok = [204]\n'
    async with against(answering({"message": "too late"}, status=409), text) as (defined, http, server):
        with pytest.raises(ProviderRefused, match="too late"):
            await defined.cancel(http, "7", None)
    assert (server.seen[0].method, server.seen[0].target) == ("DELETE", "/api/v1/jobs/7")
    async with against(answering({})) as (defined, http, _):
        for act in (
            defined.cancel(http, "7", None),
            defined.fetch_output(http, "7"),
            defined.list_runs(http, since=SINCE),
        ):
            with pytest.raises(Unsupported):
                await act


async def test_the_output_of_a_second_request_in_pages() -> None:
    text = BASE + '[output]\nget = "/v1/jobs/{id}/rows"\nread = "rows"\nnext = { offset = "o", step = 2 }\n'

    async def answer(request: web.Request) -> web.Response:
        at = int(request.query.get("o", 0))
        return web.json_response({"rows": list(range(at, min(at + 2, 5)))})

    async with against(answer, text) as (defined, http, _):
        assert await defined.fetch_output(http, "7") == [0, 1, 2, 3, 4]
    assert read(await poll({"state": "OK"}, text)).output_is_elsewhere
    assert not read(await poll({"state": "BAD"}, text)).output_is_elsewhere


async def test_a_token_is_exchanged_once_and_again_after_a_401() -> None:
    text = BASE + (
        '[auth]\nexchange = "POST /login"\nbody = { user = "{user}", password = "{key}" }\ntoken = "t"\nexpires = "s"\n'
        'send = { header = "X-Token" }\n[vars]\nuser = { required = true }\n'
    )
    given: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/api/login":
            assert await request.json() == {"user": "me", "password": KEY}
            given.append(f"token-{len(given) + 1}")
            return web.json_response({"t": given[-1], "s": "3600"})  # some send the seconds as text
        is_fresh = request.headers.get("X-Token") == given[-1] and not (
            given == ["token-1"] and request.path.endswith("9")
        )
        return web.json_response({"state": "RUN"}) if is_fresh else web.json_response({"e": "expired"}, status=401)

    async with against(answer, text, user="me") as (defined, http, server):
        assert read(await defined.fetch_run(http, "7")).status is RunStatus.RUNNING
        assert read(await defined.fetch_run(http, "8")).status is RunStatus.RUNNING
        assert given == ["token-1"]
        assert read(await defined.fetch_run(http, "9")).status is RunStatus.RUNNING
        assert given == ["token-1", "token-2"]
    assert all(KEY not in str(one.headers) for one in server.seen)


async def test_a_404_that_is_not_the_provider_s_own_is_a_gateway_s() -> None:
    assert failed(await poll(b"default backend - 404", status=404)).kind is FailureKind.GATEWAY
    assert failed(await poll({"message": "no such job"}, status=404)).kind is FailureKind.NOT_FOUND


async def test_an_error_instead_of_a_run_is_unusable() -> None:
    assert failed(await poll({"error": "maintenance"})).kind is FailureKind.BAD_PAYLOAD


async def test_an_output_that_cannot_be_kept_spoils_only_itself() -> None:
    text = BASE.replace("[status]", 'output = "out"\n[status]')
    big = b'{"state": "OK", "out": "' + b"x" * (9 * 1024 * 1024) + b'"}'
    seen = read(await poll(big, text))
    assert (seen.status, seen.output, seen.output_truncated) == (RunStatus.SUCCEEDED, None, True)


async def test_a_hostile_answer_costs_at_most_an_error() -> None:
    text = BASE.replace('status = "state"', 'status = "items[?contains(@.a, `x`)].b | [0]"')
    result = await poll({"items": [{"a": ["x"] * 300, "b": "OK"}] * 3000}, text)
    assert isinstance(result, Observed)
