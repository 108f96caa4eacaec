"""The language of definitions, statement by statement, where no other test shows it.

| statement | shown by |
|---|---|
| a file, a folder, a package, built in; `replaces`; a base | `tests/config/test_definitions.py`, trap 2 |
| every mistake at once with file, line, key, found, allowed, nearest | trap 10, `tests/config/test_definition_mistakes.py` |
| a failing expression is never a value | trap 4; its limits: `test_rules_without_end_take_no_time_without_end` |
| auth, exchange and a 401 in between | `test_defined.py`; when a token is exchanged again: here |
| kinds and parts of an id, POST polls, conditional polls | `test_defined.py`; which ids a kind takes: here |
| every key of [read] with its forms | `test_defined.py`, `test_defined_details.py`; every unit of time: here |
| words, rules, case, absent | `test_defined.py` |
| [[answer]] and its pauses | `test_defined.py`; the defaults of every code: here |
| [output], [list] with each `next`, [trigger], [cancel], [check], [pace] | `test_defined.py`, `test_defined_details.py` |
| hosts that may see the key | trap 11, `test_defined.py`; those of the file: here |
| fixtures and what they expect | here |
| `generation` is a new run | `tests/polling/test_started_again.py` |
| SIGHUP swaps all or none; watched runs keep their definition | `tests/acceptance/test_reload.py` |
| remarks, metric, version with the run | `tests/acceptance/test_definitions.py` |
| commands | `tests/cli/test_provider_authoring.py` |
"""

from __future__ import annotations

import json
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from multidict import CIMultiDict

from bridge.definitions.check import faults_in
from bridge.domain.failure import FailureKind
from bridge.domain.observation import Observed
from bridge.domain.run import Progress
from bridge.providers.definition_answers import Answer
from bridge.providers.definition_requests import ForeignHost, allowed_address
from bridge.providers.fixtures import FixtureInvalid, compare, facts_of, fixtures_beside, read_fixture
from bridge.providers.http import ProviderFailure
from tests.providers.test_defined import BASE, against, failed, poll, provider, read
from tests.support.foreign_server import answering

SINCE = datetime(2026, 1, 15, tzinfo=UTC)
WHOLE = """\
schema = 1
name = "jobs"
base_url = "https://jobs.example.com"
hosts = ["eu.example.com"]
[vars]
owner = { default = "me" }
[run]
get = "/v1/jobs/{id}"
query = { api-version = "2024-11-30" }
[read]
status = ["lifecycle.status", "status"]
id = "id"
workflow = "workflow.id"
output = { path = "outputs", decode = "json" }
error = { message = "error.message", code = "error.code", step = "error.step" }
progress = { completed = "done", total = "all" }
created_at = "createdAt"
started_at = { path = "start", time = "ms" }
generation = "attempt"
link = "html_url"
[status]
queued = ["PENDING"]
running = ["RUNNING"]
succeeded = ["DONE"]
failed = ["ERROR"]
[[answer]]
http = [403, 429]
header = { x-left = "0" }
means = "throttled"
until = { header = "x-reset", time = "s" }
[output]
get = "/v1/jobs/{id}/result"
read = "result"
[list]
get = "/v1/jobs?limit=100"
items = "data"
id = "id"
next = { cursor = "next_cursor", query = "cursor" }
[trigger]
post = "/v1/jobs"
body = { job = "{workflow}", params = "{inputs}" }
run_from = "id"
[cancel]
post = "/v1/jobs/{id}/cancel"
[pace]
hint = ["retry-after"]
"""


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *(("auth", auth) for auth in ('"bearer"', '"basic"', '"none"', '{ header = "X" }', '{ query = "token" }')),
        ("auth", '{ header = "Authorization", scheme = "Key" }'),
        ("auth", '{ exchange = "POST /t", body = { key = "{key}" }, token = "t", expires = "e", send = { header = "X" } }'),
        *(("run.id", f'"{kind}"') for kind in ("slug", "uuid", "int", "path")),
        *(("read.error", error) for error in ('"error"', '["a", "b"]', '{ message = "m" }', '{ path = "p" }')),
        *(("read.progress", f'{{ path = "p", as = "{form}" }}') for form in ("percent", "fraction", "ratio")),
        *(("read.finished_at", f'{{ path = "e", time = "{unit}" }}') for unit in ("iso", "s", "ms", "us", "ns", "rfc822", "any")),
        *(("status.absent", f'"{word}"') for word in ("queued", "running", "waiting", "failed")),
        *(
            ("answer", f'[{{ http = "4xx", means = "{means}" }}]')
            for means in (
                "ok", "unchanged", "retry", "throttled", "refused", "not-found", "gone",
                "queued", "running", "waiting", "succeeded", "partial", "failed", "cancelled",
            )
        ),
        ("answer", '[{ if = "error.code == \'quota\'", means = "throttled", after = { path = "retry_after" } }]'),
        ("answer", '[{ http = 429, means = "throttled", after = { header = "retry-after" } }]'),
        *(
            (f"{table}.next", following)
            for table in ("list", "output")
            for following in (
                '"link-header"', '{ url = "next" }', '{ last = "id", query = "after", while = "has_more" }',
                '{ page = "page", while = "has_more" }', '{ offset = "offset", step = 100 }',
            )
        ),
        ("list.items", '"@"'),
        ("list.items_as", '"map"'),
        ("list.since", '{ query = "updated_after", time = "iso" }'),
        ("trigger.run_from", '{ header = "Operation-Location" }'),
        ("trigger.run_from", '{ id = "job.id" }'),
        *(("cancel", f'{{ {method} = "/v1/jobs/{{id}}", ok = [200, 204] }}') for method in ("post", "put", "delete")),
        ("check", '{ get = "/v1/me" }'),
        ("pace.hint", '["retry-after-ms", { header = "x-poll-after", time = "s" }, { path = "retry_in" }]'),
    ],
)  # fmt: skip
def test_each_form_of_a_key_is_taken(path: str, value: str) -> None:
    tables = tomllib.loads(WHOLE)
    *above, last = path.split(".")
    inner: Any = tables
    for name in above:
        inner = inner[name]
    inner[last] = tomllib.loads(f"it = {value}")["it"]
    assert faults_in(tables) == []


@pytest.mark.parametrize(
    ("code", "means"),
    [
        *((code, "ok") for code in (200, 201, 202, 204)),
        (304, "unchanged"),
        *((code, "refused") for code in (401, 403)),
        *((code, "not-found") for code in (404, 410)),
        *((code, "throttled") for code in (429,)),
        *((code, "retry") for code in (302, 408, 418, 500, 502, 504)),
    ],
)
def test_a_code_means_what_the_defaults_say(code: int, means: str) -> None:
    assert provider(BASE).answers.meaning_of(Answer(code, CIMultiDict(), {})).means == means


@pytest.mark.parametrize("code", [408, 425, 429, 503])
def test_the_pause_of_a_refusal_that_passes_is_taken(code: int) -> None:
    meaning = provider(BASE).answers.meaning_of(Answer(code, CIMultiDict({"Retry-After": "17"}), {}))
    assert meaning.means in ("throttled", "retry")
    assert meaning.pause_s == 17


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("slug", ["a", "478", "manual__2026-11-22T00:49:11+00:00", "ü b"], ["", ".", ".."]),
        ("uuid", ["fb47b2e6-5e43-4f90-be01-d5c5a088d156", "FB47B2E65E434F90BE01D5C5A088D156"], ["run-7", "7"]),
        ("int", ["0", "-1", "90071992547409931"], ["7a", "1.5", "", "٣"]),
        ("path", ["projects/p/operations/7", "a"], ["", "/", "a/../b"]),
    ],
)
def test_a_kind_of_id_takes_what_it_says(kind: str, good: list[str], bad: list[str]) -> None:
    answers = provider(BASE.replace("[read]", f'id = "{kind}"\n[read]')).answers
    assert [one for one in good if answers.check_run_id(one)] == []
    assert [one for one in bad if not answers.check_run_id(one)] == []


@pytest.mark.parametrize(
    ("run_id", "parts"),
    [
        ("a/b/7", {"owner": "a", "name": "b", "run": "7"}),
        ("a/b/c/7", {"owner": "a", "name": "b/c", "run": "7"}),
    ],
)
def test_the_part_of_kind_path_has_the_slashes(run_id: str, parts: dict[str, str]) -> None:
    text = BASE.replace("{id}", "{owner}/{name}/{run}").replace(
        "[read]", 'id = { owner = "slug", name = "path", run = "int" }\n[read]'
    )
    assert provider(text).answers.run_id.split(run_id) == parts
    assert provider(text).answers.check_run_id("a/7") == "a run id has the form {owner}/{name}/{run}"


@pytest.mark.parametrize(
    ("time", "value"),
    [
        ("iso", "2026-01-15T10:20:05Z"), ("iso", "2026-01-15T11:20:05+01:00"), ("iso", "2026-01-15 10:20:05"),
        ("s", 1768472405), ("s", "1768472405"), ("s", 1768472405.0), ("ms", 1768472405000),
        ("us", 1768472405000000), ("ns", 1768472405000000000), ("rfc822", "Thu, 15 Jan 2026 10:20:05 GMT"),
        ("any", 1768472405), ("any", 1768472405000), ("any", "1768472405000000"), ("any", 1768472405000000000),
        ("any", "2026-01-15T10:20:05Z"), ("any", "20260115T102005Z"), ("any", "Thu, 15 Jan 2026 10:20:05 GMT"),
    ],
)  # fmt: skip
async def test_an_instant_is_read_in_every_unit(time: str, value: object) -> None:
    text = BASE.replace('status = "state"', f'status = "state"\nstarted_at = {{ path = "t", time = "{time}" }}')
    assert read(await poll({"state": "RUN", "t": value}, text)).started_at == "2026-01-15T10:20:05Z"


@pytest.mark.parametrize(("time", "value"), [("s", 0), ("iso", "0001-01-01T00:00:00Z"), ("ms", -1), ("iso", "")])
async def test_no_time_is_null_and_no_remark(time: str, value: object) -> None:
    text = BASE.replace('status = "state"', f'status = "state"\nstarted_at = {{ path = "t", time = "{time}" }}')
    result = await poll({"state": "RUN", "t": value}, text)
    assert read(result).started_at is None
    assert isinstance(result, Observed)
    assert result.remarks == ()


@pytest.mark.parametrize(
    ("form", "value", "progress"),
    [
        ("percent", 40, Progress(40, 100)), ("percent", "40%", Progress(40, 100)), ("fraction", 0.4, Progress(0.4, 1)),
        ("ratio", "3/5", Progress(3, 5)), ("ratio", "3 of 5", None), ("percent", None, None), ("percent", -1, None),
    ],
)  # fmt: skip
async def test_progress_is_read_in_every_form(form: str, value: object, progress: Progress | None) -> None:
    text = BASE.replace('status = "state"', f'status = "state"\nprogress = {{ path = "p", as = "{form}" }}')
    assert read(await poll({"state": "RUN", "p": value}, text)).progress == progress


async def test_an_exchange_that_is_refused_is_not_tried_again_at_once() -> None:
    """Each poll with a wrong key was two logins, and some services lock an account for them."""
    text = BASE.replace("[run]", '[auth]\nexchange = "POST /login"\nbody = { password = "{key}" }\ntoken = "t"\n[run]')
    async with against(answering({"error": "wrong"}, status=401), text) as (own, http, server):
        told = failed(await own.fetch_run(http, "7"))
    assert told.kind is FailureKind.UNAUTHORIZED
    assert [request.target for request in server.seen] == ["/api/login"]


@pytest.mark.parametrize(("expires", "exchanges"), [("", 1), ('expires = "s"\n', 3)])
async def test_a_token_is_exchanged_again_when_it_has_expired(expires: str, exchanges: int) -> None:
    """One that does not say when is kept for five minutes; this one says that it expires at once."""
    auth = f'[auth]\nexchange = "POST /login"\nbody = {{ password = "{{key}}" }}\ntoken = "t"\n{expires}[run]'

    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"t": "token-1", "s": 1e-9} if request.path.endswith("/login") else {"state": "RUN"})

    async with against(answer, BASE.replace("[run]", auth)) as (own, http, server):
        for _ in range(3):
            read(await own.fetch_run(http, "7"))
    assert sum(one.target == "/api/login" for one in server.seen) == exchanges
    assert {one.headers["authorization"] for one in server.seen if one.method == "GET"} == {"Bearer token-1"}


@pytest.mark.parametrize(
    ("address", "is_allowed"),
    [
        ("/v1/jobs?page=2", True), ("https://jobs.example.com/v1/jobs", True), ("https://eu.example.com/v1/jobs", True),
        ("https://eu.example.com:443/v1/jobs", True), ("https://eu.example.com:8443/v1/jobs", False),
        ("http://jobs.example.com/v1/jobs", False), ("http://eu.example.com/v1/jobs", False),
        ("https://us.example.com/", False), ("https://jobs.example.com.evil.example/", False),
        ("https://jobs.example.com@evil.example/", False), ("https://jobs.example.com:8443/", False), ("//evil.example/", False),
    ],
)  # fmt: skip
def test_the_key_goes_to_the_hosts_of_the_file_and_the_connection_only(address: str, is_allowed: bool) -> None:
    tables, base_url = tomllib.loads(WHOLE), "https://jobs.example.com"
    if is_allowed:
        assert allowed_address(tables, base_url, address).startswith("https://")
    else:
        with pytest.raises(ForeignHost):
            allowed_address(tables, base_url, address)


def test_a_further_host_on_this_machine_needs_no_encryption() -> None:
    tables, base_url = {"hosts": ["127.0.0.1:9001"]}, "http://127.0.0.1:9000"
    assert allowed_address(tables, base_url, "http://127.0.0.1:9001/next") == "http://127.0.0.1:9001/next"
    with pytest.raises(ForeignHost):
        allowed_address(tables, base_url, "http://127.0.0.1:9002/next")


@pytest.mark.parametrize(
    ("following", "where", "sent"),
    [
        ('{ page = "p", step = 1 }', "get = '/v1/jobs?p=0'", ["p=0", "p=1", "p=2"]),
        ('{ page = "p", step = 1 }', "get = '/v1/jobs'", ["", "p=2", "p=3"]),
        ('{ offset = "o", step = 1 }', "get = '/v1/jobs'\nquery = { o = 1 }", ["o=1", "o=2", "o=3"]),
        ('{ page = "at.p", step = 1 }', "post = '/v1/jobs'\nbody = { at = { p = 0 } }", [0, 1, 2]),
    ],
)
async def test_pages_are_counted_from_the_one_that_the_request_names(
    following: str, where: str, sent: list[Any]
) -> None:
    """A list whose pages begin at 0 was read without its second page."""
    text = f'{BASE}[list]\n{where}\nitems = "jobs"\nid = "id"\nnext = {following}\n'
    async with against(answering({"jobs": [{"id": 1}]}), text) as (own, http, server):
        cursor = None
        for _ in range(3):
            cursor = (await own.list_runs(http, since=SINCE, cursor=cursor)).next_cursor
    assert [one.body["at"]["p"] if one.body else one.target.partition("?")[2] for one in server.seen] == sent


@pytest.mark.parametrize(
    ("run", "address"),
    [
        ('get = "/poll?job={id}"', "/api/poll?job=a%2Fb+c&v=2"),
        ('get = "/poll"\nquery = { job = "{id}", v = 2 }', "/api/poll?v=2&job=a%2Fb+c"),
    ],
)
async def test_the_id_of_a_started_run_may_stand_in_the_query_of_its_address(run: str, address: str) -> None:
    """This was a KeyError, and the answer to the start a 500."""
    text = (
        BASE.replace('get = "/v1/jobs/{id}"', run)
        + '[trigger]\npost = "/v1/jobs"\nrun_from = { header = "Location" }\n'
    )
    async with against(answering({}, status=202, headers={"Location": address}), text) as (own, http, _):
        started = await own.trigger(http, "w", None, {})
        assert started.provider_run_id == "a/b c"
    async with against(answering({}, status=202, headers={"Location": "/api/poll?other=1"}), text) as (own, http, _):
        with pytest.raises(ProviderFailure, match="does not fit"):
            await own.trigger(http, "w", None, {})


RUN = {
    "status": "DONE", "id": 7, "workflow": {"id": "w"}, "outputs": '{"a": 1}', "error": {"message": "m", "code": 3},
    "done": 1, "all": 2, "createdAt": "2026-01-15T10:20:05Z", "start": 1768472405000, "attempt": 2,
    "html_url": "https://jobs.example.com/7",
}  # fmt: skip
PAGE = {"data": [{"id": 7, "status": "DONE"}, {"id": 8, "status": "RUNNING"}], "next_cursor": "c2"}


@pytest.mark.parametrize(
    ("fixture", "good", "bad"),
    [
        ({"body": RUN}, {"status": "succeeded", "provider_status": "DONE"}, {"status": "failed"}),
        ({"body": RUN}, {"error": "m"}, {"error": "n"}),
        ({"body": RUN}, {"error": {"message": "m", "code": "3"}}, {"error": {"message": "m", "code": "4"}}),
        ({"body": RUN}, {"output": {"a": 1}}, {"output": {"a": 2}}),
        ({"body": RUN}, {"progress": {"completed": 1, "total": 2}}, {"progress": None}),
        ({"body": RUN}, {"created_at": "2026-01-15T10:20:05.000Z"}, {"created_at": "2026-01-15T10:20:06Z"}),
        ({"body": RUN}, {"started_at": "2026-01-15T10:20:05Z", "finished_at": None}, {"finished_at": "2026-01-15T10:20:05Z"}),
        ({"body": RUN}, {"workflow_id": "w", "generation": "2", "id": "7"}, {"generation": "3"}),
        ({"body": RUN}, {"provider_run_id": "7", "settled": True}, {"settled": False}),
        ({"body": RUN}, {"link": "https://jobs.example.com/7"}, {"link": "https://jobs.example.com/8"}),
        ({"http": 429, "headers": {"X-Left": "0"}, "body": {}}, {"means": "throttled"}, {"means": "retry"}),
        ({"http": 404, "body": {"message": "no"}}, {"means": "not-found"}, {"means": "ok"}),
        ({"headers": {"Retry-After": "9"}, "body": RUN}, {"pause": 9}, {"pause": 10}),
        ({"request": "list", "body": PAGE}, {"items": ["7", "8"]}, {"items": ["7"]}),
        ({"request": "list", "body": PAGE}, {"items": 2, "next": "c2"}, {"items": 3}),
        ({"request": "list", "body": PAGE}, {"next": True}, {"next": None}),
        ({"request": "list", "body": PAGE}, {"items": [{"id": "7"}, {"status": "running"}]}, {"items": [{"id": "8"}]}),
        ({"request": "output", "body": {"result": [1]}}, {"output": [1]}, {"output": [2]}),
        ({"request": "trigger", "http": 201, "body": {"id": "j-9"}}, {"id": "j-9"}, {"id": "j-8"}),
        ({"request": "trigger", "http": 201, "body": {"id": "j-9"}}, {"provider_run_id": "j-9"}, {"provider_run_id": "j-8"}),
    ],
)  # fmt: skip
def test_a_fixture_expects_what_is_read_and_differs_from_anything_else(
    tmp_path: Path, fixture: dict[str, Any], good: dict[str, Any], bad: dict[str, Any]
) -> None:
    answers = provider(WHOLE).answers
    for expect, is_good in ((good, True), (bad, False)):
        (tmp_path / "one.json").write_text(json.dumps({**fixture, "expect": expect}))
        read_as = read_fixture(tmp_path / "one.json")
        assert (compare(answers, read_as).differences == ()) is is_good, facts_of(answers, read_as)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        ('{"requst": "run"}', "unknown key 'requst'; did you mean 'request'?"),
        ('{"request": "poll"}', "request is 'poll'; allowed: run, list, output"),
        ('{"http": "200"}', "http is '200'; allowed: a code such as 200"),
        ('{"headers": ["a"]}', "headers is a table of texts"),
        ('{"expect": {"state": "x"}}', "unknown key 'state' in expect"),
        ('{"expect": {"provider-status": "x"}}', "did you mean 'provider_status'?"),
    ],
)
def test_what_is_no_fixture_is_named_with_its_file(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "one.json").write_text(text)
    with pytest.raises(FixtureInvalid) as caught:
        read_fixture(tmp_path / "one.json")
    assert str(caught.value).startswith(str(tmp_path / "one.json"))
    assert said in str(caught.value)


def test_fixtures_are_beside_the_definition(tmp_path: Path) -> None:
    for folder in ("fixtures", "alone/fixtures", "whole/fixtures"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "DONE.json").write_text("{}")
    assert fixtures_beside(tmp_path / "any.toml") == [tmp_path / "fixtures/DONE.json"]
    assert fixtures_beside(tmp_path / "alone.toml") == [tmp_path / "alone/fixtures/DONE.json"]
    assert fixtures_beside(tmp_path / "whole/definition.toml") == [tmp_path / "whole/fixtures/DONE.json"]
