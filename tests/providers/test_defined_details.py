"""Further rules of definitions about requests and answers, each against a real HTTP server."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web

from bridge.definitions.check import faults_in
from bridge.definitions.doubts import doubts_in
from bridge.domain.errors import ProviderRefused
from bridge.domain.failure import FailureKind
from bridge.domain.observation import LastResponse, Observed
from bridge.domain.run import RunStatus
from bridge.providers.http import ProviderFailure
from tests.providers.test_defined import BASE, LIST, against, failed, poll, provider, read
from tests.support.foreign_server import answering

SINCE = datetime(2026, 1, 15, tzinfo=UTC)
POSTED = '[list]\npost = "/find"\nbody = { limit = 2, variables = { q = "x" } }\nitems = "jobs"\nid = "id"\n'


def faults(more: str) -> list[str]:
    return [f"{'.'.join(map(str, at))}: {said}" for at, said in faults_in(tomllib.loads(BASE + more))]


@pytest.mark.parametrize(
    ("following", "sent"),
    [
        ('next = { cursor = "after", query = "cursor" }', {"limit": 2, "variables": {"q": "x"}, "cursor": "c2"}),
        ('next = { cursor = "after", query = "variables.at" }', {"limit": 2, "variables": {"q": "x", "at": "c2"}}),
        ('next = { offset = "skip" }', {"limit": 2, "variables": {"q": "x"}, "skip": 1}),
    ],
)
async def test_the_next_page_of_a_list_by_post_is_asked_for_in_the_body(following: str, sent: dict[str, Any]) -> None:
    async with against(answering({"jobs": [{"id": 1}], "after": "c2"}), BASE + POSTED + following) as (
        own,
        http,
        server,
    ):
        page = await own.list_runs(http, since=SINCE)
        await own.list_runs(http, since=SINCE, cursor=page.next_cursor)
    assert [one.body for one in server.seen] == [{"limit": 2, "variables": {"q": "x"}}, sent]


async def test_a_parameter_that_the_address_names_stays_there() -> None:
    text = BASE + POSTED.replace("/find", "/find?cursor=") + 'next = { cursor = "after", query = "cursor" }\n'
    async with against(answering({"jobs": [], "after": "c2"}), text) as (own, http, server):
        await own.list_runs(http, since=SINCE, cursor="c2")
    assert server.seen[0].target == "/api/find?cursor=c2"


async def test_the_instant_of_a_list_is_sent_in_its_form() -> None:
    since = 'since = { query = "after", time = "ms" }\n'
    async with against(answering({"jobs": []}), BASE + LIST + since) as (own, http, server):
        await own.list_runs(http, since=SINCE)
    assert server.seen[0].target == "/api/v1/jobs?limit=2&after=1768435200000"


async def test_a_relative_link_leads_on_from_the_page_it_is_on() -> None:
    async with against(
        answering({"jobs": []}, headers={"link": '<?page=2>; rel="next"'}), BASE + LIST + 'next = "link-header"\n'
    ) as (own, http, server):
        page = await own.list_runs(http, since=SINCE)
        again = await own.list_runs(http, since=SINCE, cursor=page.next_cursor)
    assert server.seen[1].target == "/api/v1/jobs?page=2"
    assert again.next_cursor is None, "the same page again is not the next one"


@pytest.mark.parametrize(("count", "more"), [(100, True), (50, True), (20, True), (99, False), (7, False), (0, False)])
async def test_a_full_page_has_one_of_the_sizes(count: int, more: bool) -> None:
    items = [{"id": number, "state": "RUN"} for number in range(count)]
    text = BASE + LIST + 'next = { offset = "o", step = [100, 50, 20] }\n'
    async with against(answering({"jobs": items}), text) as (own, http, _):
        page = await own.list_runs(http, since=SINCE, cursor="200")
    assert page.next_cursor == (str(200 + count) if more else None)


async def test_items_are_whole_where_they_have_certain_members() -> None:
    text = BASE + LIST.replace("whole = true", 'whole = ["end"]')
    async with against(answering({"jobs": [{"id": 1, "end": None}, {"id": 2}]}), text) as (own, http, _):
        page = await own.list_runs(http, since=SINCE)
    assert [run.needs_detail for run in page.runs] == [True, True], "neither has a status"


async def test_a_map_needs_no_path_of_the_id() -> None:
    text = BASE + '[list]\nget = "/t"\nitems = "@"\nitems_as = "map"\n'
    async with against(answering({"a": {"state": "RUN"}}), text) as (own, http, _):
        page = await own.list_runs(http, since=SINCE)
    assert [run.provider_run_id for run in page.runs] == ["a"]
    assert faults('[list]\nget = "/t"\nitems = "jobs"\n') == [
        "list: the key `id` is missing: where in an item its id stands"
    ]


async def test_what_an_answer_means_holds_for_a_list_too() -> None:
    rule = '[[answer]]\nhttp = 400\nif = "code == \'slow\'"\nmeans = "throttled"\nafter = { path = "wait" }\n'
    async with against(answering({"code": "slow", "wait": 7}, status=400), BASE + LIST + rule) as (own, http, _):
        with pytest.raises(ProviderFailure) as caught:
            await own.list_runs(http, since=SINCE)
    assert (caught.value.failed.kind, caught.value.failed.retry_after_s) == (FailureKind.THROTTLED, 7)


@pytest.mark.parametrize("rule", ["", '[[answer]]\nhttp = 429\nmeans = "throttled"\n'])
async def test_a_pause_is_believed_on_a_refusal_too(rule: str) -> None:
    text = BASE + '[pace]\nhint = [{ path = "wait" }]\n' + rule
    assert failed(await poll({"wait": 9}, text, status=429)).retry_after_s == 9
    assert failed(await poll({}, text, status=429, headers={"Retry-After": "4"})).retry_after_s == 4


async def test_a_header_and_a_parameter_without_a_value_are_left_out() -> None:
    text = BASE.replace("[run]", 'headers = { X-Org = "{org}" }\n[run]\nquery = { team = "t-{org}", a = 1 }')
    text += '[vars]\norg = { about = "organisation" }\n'
    async with against(answering({"state": "RUN"}), text) as (own, http, server):
        await own.fetch_run(http, "7")
    async with against(answering({"state": "RUN"}), text, org="me") as (own, http, other):
        await own.fetch_run(http, "7")
    assert server.seen[0].target == "/api/v1/jobs/7?a=1"
    assert "x-org" not in server.seen[0].headers
    assert other.seen[0].target == "/api/v1/jobs/7?team=t-me&a=1"
    assert other.seen[0].headers["x-org"] == "me"


TRIGGER = '[trigger]\npost = "/flows/{workflow}/runs"\nrun_from = "id"\n'


@pytest.mark.parametrize(
    ("more", "inputs", "target", "sent"),
    [
        ('workflow = "path"\n', None, "/api/flows/a/b%20c/runs", {}),
        ("", {}, "/api/flows/a%2Fb%20c/runs", {}),
        ('inputs = { merge = true }\nbody = { mode = "x" }\n', {"n": 1}, "/api/flows/a%2Fb%20c/runs", {"n": 1, "mode": "x"}),
        ('body = "{inputs}"\n', {"n": None}, "/api/flows/a%2Fb%20c/runs", {"n": None}),
        ('body = { "{key_name}" = "{workflow}" }\n[vars]\nkey_name = { default = "flow" }\n', None,
         "/api/flows/a%2Fb%20c/runs", {"flow": "a/b c"}),
    ],
)  # fmt: skip
async def test_a_run_is_started_as_the_table_says(more: str, inputs: Any, target: str, sent: object) -> None:
    async with against(answering({"id": 12}), BASE + TRIGGER + more) as (own, http, server):
        assert (await own.trigger(http, "a/b c", inputs, {})).provider_run_id == "12"
    assert (server.seen[0].target, server.seen[0].body) == (target, sent)


@pytest.mark.parametrize(
    ("more", "inputs", "said"),
    [
        ("", {"n": 1}, "no place for inputs"),
        ('inputs = { merge = true, about = "with files" }\n', [1], "takes inputs as an object: with files"),
    ],
)
async def test_inputs_that_cannot_be_sent_are_refused_before_asking(more: str, inputs: object, said: str) -> None:
    async with against(answering({"id": 12}), BASE + TRIGGER + more) as (own, http, server):
        with pytest.raises(ProviderRefused, match=said):
            await own.trigger(http, "w", inputs, {})  # type: ignore[arg-type]  # as a person may send it
    assert server.seen == []


@pytest.mark.parametrize("means", ["retry", "refused", "throttled"])
async def test_a_cancel_that_is_refused_in_a_200_is_not_done(means: str) -> None:
    rule = f'[[answer]]\nif = "kind == \'Refused\'"\nmeans = "{means}"\n'
    text = BASE + '[cancel]\npost = "/v1/jobs/{id}/cancel"\n' + rule
    async with against(answering({"kind": "Refused", "message": "too late"}), text) as (own, http, _):
        with pytest.raises((ProviderRefused, ProviderFailure)):
            await own.cancel(http, "7", None)
    async with against(answering({"kind": "Accepted"}), text) as (own, http, _):
        await own.cancel(http, "7", None)


async def test_a_run_is_cancelled_by_patch() -> None:
    text = BASE + '[cancel]\npatch = "/v1/jobs/{id}"\nbody = { state = "failed" }\n'
    async with against(answering({}), text) as (own, http, server):
        await own.cancel(http, "7", None)
    assert (server.seen[0].method, server.seen[0].body) == ("PATCH", {"state": "failed"})


async def test_a_status_that_must_be_there_and_must_be_text() -> None:
    text = BASE.replace('"state"', '{ path = "state", as = "text" }') + 'absent = "unusable"\ncase = "ignore"\n'
    for body in ({}, {"state": 4}, {"state": " "}, {"state": None}):
        assert failed(await poll(body, text)).kind is FailureKind.BAD_PAYLOAD
    seen = read(await poll({"state": " ok "}, text))
    assert (seen.status, seen.provider_status) == (RunStatus.SUCCEEDED, " ok ")


async def test_an_object_in_the_place_of_the_status_is_not_a_missing_one() -> None:
    result = await poll({"state": {"word": "OK"}}, BASE + 'absent = "succeeded"\n')
    assert read(result).status is RunStatus.UNKNOWN
    assert isinstance(result, Observed)
    assert result.remarks == ("read.status finds no single word in the answer",)


@pytest.mark.parametrize(
    ("given", "value", "instant", "is_remark"),
    [
        ('"at"', "2026-01-15T10:20:05Z", "2026-01-15T10:20:05Z", False),
        ('"at"', 1768472405, None, True),
        ('"at"', "1768472405", None, True),
        ('"at"', "Thu, 15 Jan 2026 10:20:05 GMT", None, True),
        ('{ path = "at", time = "rfc822" }', "Thu, 15 Jan 2026 10:20:05 GMT", "2026-01-15T10:20:05Z", False),
        ('{ path = "at", time = "s" }', 1768472405, "2026-01-15T10:20:05Z", False),
        ('{ path = "at", time = "ms" }', "1768472405000", "2026-01-15T10:20:05Z", False),
        ('{ path = "at", time = "ns" }', 1.768472405e18, None, True),
        ('{ path = "at", time = "s" }', "2026-01-15T10:20:05Z", None, True),
        ('{ path = "at", time = "s" }', 0, None, False),
        ('{ path = "at", time = "any" }', 0, None, False),
        ('{ path = "at", time = "any" }', 17, None, True),
        ('"at"', "0001-01-01T00:00:00Z", None, False),
        ('"at"', "", None, False),
        ('"at"', None, None, False),
    ],
)
async def test_a_time_is_read_in_its_form_and_never_guessed(
    given: str, value: object, instant: str | None, is_remark: bool
) -> None:
    result = await poll({"state": "RUN", "at": value}, BASE.replace("[status]", f"created_at = {given}\n[status]"))
    assert read(result).created_at == instant
    assert isinstance(result, Observed)
    assert bool(result.remarks) is is_remark


async def test_an_error_counts_with_its_statuses_only() -> None:
    text = BASE.replace("[status]", 'error = { message = "msg", when = ["failed"] }\n[status]')
    assert read(await poll({"state": "RUN", "msg": "all well"}, text)).error is None
    error = read(await poll({"state": "BAD", "msg": "out of paper"}, text)).error
    assert error is not None
    assert error.message == "out of paper"


FILES = '[output]\nget = "/v1/jobs/{id}/files"\nid = "job"\njoin = "files"\nnext = { offset = "o", while = "more" }\n'


async def test_the_output_is_the_first_page_with_the_items_of_all() -> None:
    async def answer(request: web.Request) -> web.Response:
        at = int(request.query.get("o", 0))
        return web.json_response({"job": 7, "page": at, "files": [at, at + 1][: 5 - at], "more": at < 4})

    async with against(answer, BASE + FILES) as (own, http, _):
        assert await own.fetch_output(http, "7") == {"job": 7, "page": 0, "files": [0, 1, 2, 3, 4], "more": False}


@pytest.mark.parametrize("body", [{"job": 8, "files": []}, [], 7, {"files": "x"}])
async def test_an_output_of_another_run_or_form_is_refused(body: object) -> None:
    async with against(answering(body), BASE + FILES) as (own, http, _):
        with pytest.raises(ProviderFailure, match=r"another run|not an object with a list"):
            await own.fetch_output(http, "7")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            '[auth]\nexchange = "POST https://login.example.com/t"\ntoken = "t"\n',
            "auth.exchange: the host login.example.com",
        ),
        (TRIGGER + 'body = { a = "x {inputs}" }\n', "trigger.body.a: `{inputs}` is JSON"),
        (TRIGGER.replace("/runs", "?i={inputs}"), "trigger.post: `{inputs}` is JSON"),
        (TRIGGER + 'inputs = { merge = true }\nbody = "{inputs}"\n', "trigger.body: a table is needed"),
        ('[output]\nget = "/o"\njoin = "files"\n', "output.join: `join` needs `next`"),
    ],
)
def test_what_a_file_says_together_must_fit(more: str, said: str) -> None:
    assert [one for one in faults(more) if one.startswith(said)], faults(more)


async def test_rules_without_end_take_no_time_without_end() -> None:
    rules = '[[status.when]]\nif = "length(items[].a[?@ == `2`][]) > `9`"\nis = "failed"\n' * 300
    result = await poll({"state": "RUN", "items": [{"a": [1] * 60}] * 60}, BASE + rules)
    assert isinstance(result, Observed)
    assert any("takes too long" in remark for remark in result.remarks)


async def test_a_kind_of_json_may_have_a_name_of_its_own() -> None:
    text = BASE.replace("[run]", 'headers = { Content-Type = "application/vnd.api+json" }\n[run]', 1) + TRIGGER
    async with against(answering({"id": 12}), text) as (own, http, server):
        await own.trigger(http, "w", None, {})
    assert server.seen[0].headers["content-type"] == "application/vnd.api+json"


def test_a_variable_in_a_path_is_required_and_one_in_the_path_of_a_list_is_needed_for_it() -> None:
    text = BASE.replace("/v1/jobs", "/{team}/jobs", 1) + "[vars]\nteam = {}\nflow = {}\n"
    text += LIST.replace("/v1/jobs", "/flows/{flow}/jobs")
    definition = provider(text).definition
    assert [name for name, spec in definition.variables.items() if spec.get("required")] == ["team"]
    assert definition.list_lacks({"team": "a"}) == ["flow"]
    assert definition.list_lacks({"flow": "a"}) == []


GRAPHQL = BASE.replace(
    'get = "/v1/jobs/{id}"',
    'post = "/graphql"\nbody = { query = "query($id: ID!){job(id:$id){{{id}} state}}", variables = { id = "{id}" } }',
)


async def test_a_name_in_double_braces_is_sent_in_braces_as_it_is() -> None:
    async with against(answering({"state": "RUN"}), GRAPHQL) as (own, http, server):
        await own.fetch_run(http, "7")
    assert server.seen[0].body == {"query": "query($id: ID!){job(id:$id){{id} state}}", "variables": {"id": "7"}}


@pytest.mark.parametrize(
    "text", ['query { run(id: "{id}") { status } }', '{"run_id": "{id}"}', "{ run(id: {id}) { x } }"]
)
def test_lint_does_not_doubt_a_value_in_braces(text: str) -> None:
    written = BASE.replace('get = "/v1/jobs/{id}"', f"post = \"/graphql\"\nbody = {{ query = '{text}' }}")
    assert text in written
    assert list(doubts_in(tomllib.loads(written))) == []


def test_lint_doubts_a_selection_that_would_be_replaced() -> None:
    assert list(doubts_in(tomllib.loads(GRAPHQL))) == []
    assert list(doubts_in(tomllib.loads(GRAPHQL.replace("{{{id}}", "{{id}")))) == [
        "run.body.query: {id} is replaced by a value; write {{id}} to send it as it is"
    ]


async def test_a_start_takes_the_parts_of_an_id_that_the_connection_gives_for_the_list() -> None:
    text = BASE.replace("/v1/jobs/{id}", "/{team}/jobs/{run}").replace(
        "[read]", 'id = { team = "slug", run = "int" }\n[read]'
    )
    text += '[list]\nget = "/{team}/jobs"\nitems = "jobs"\nid = { run = "id" }\n'
    text += '[trigger]\npost = "/{team}/start"\nrun_from = { run = "id" }\n[check]\nget = "/{team}"\n'
    async with against(answering({"id": 7}), text, team="red") as (own, http, server):
        started = await own.trigger(http, "w", None, {})
        await own.check(http)
    assert started.provider_run_id == "red/7"
    assert [one.target for one in server.seen] == ["/api/red/start", "/api/red"]


def test_a_name_that_is_no_variable_yet_can_be_declared() -> None:
    [said] = faults('[trigger]\npost = "/{team}/jobs"\nrun_from = "id"\n')
    assert said.endswith("declare it: [vars] team = { … }")


async def test_a_rule_that_decides_needs_no_status_in_the_answer() -> None:
    """A 202 without a body is how some say that a run goes on; that is no trouble of the connection."""
    result = await poll(b"", BASE + '[[answer]]\nhttp = 202\nmeans = "running"\n', status=202)
    assert read(result).status is RunStatus.RUNNING
    assert isinstance(result, Observed)
    assert result.remarks == ()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ('headers = { Host = "x.example.com" }', "belongs to HTTP itself"),
        ('headers = { content-length = "0" }', "belongs to HTTP itself"),
        ('headers = { authorization = "Bearer x" }', "the key is sent in it"),
        ('auth = { header = "X-Key" }\nheaders = { x-key = "x" }', "the key is sent in it"),
        ('auth = { header = "Host" }', "belongs to HTTP itself"),
        ('auth = { header = "Content-Length", scheme = "Key" }', "belongs to HTTP itself"),
        (
            'auth = { exchange = "POST /token", token = "t", send = { header = "Connection" } }',
            "cannot be sent in connection: this header belongs to HTTP itself",
        ),
        (
            'auth = { exchange = "POST /token", token = "t", send = { header = "X-T" } }\nheaders = { x-t = "1" }',
            "the key is sent in it",
        ),
        ('headers = { x-note = "a\\r\\nx-more: b" }', "text on one line"),
        ('base_url = "https://"', "an address that begins with https://"),
    ],
)
def test_a_header_or_address_that_no_request_could_have_is_a_mistake(given: str, said: str) -> None:
    text = BASE.replace('name = "jobs"', f'name = "jobs"\n{given}')
    assert any(said in message for _, message in faults_in(tomllib.loads(text)))


def test_a_definition_without_a_key_sets_the_header_itself() -> None:
    text = BASE.replace(
        'name = "jobs"', 'name = "jobs"\nauth = "none"\nheaders = { Authorization = "Token {t}" }\n[vars]\nt = {}'
    )
    assert faults_in(tomllib.loads(text)) == []


async def test_a_rule_about_a_run_does_not_count_for_the_list_the_check_and_the_start() -> None:
    """Scrapyd's list is without `currstate`, as is its answer about a run that it does not know."""
    text = (
        BASE
        + LIST
        + '[[answer]]\nif = "state == `null`"\nmeans = "not-found"\n[trigger]\npost = "/go"\nrun_from = "id"\n'
    )
    async with against(answering({"jobs": [], "id": "7"}), text) as (own, http, _):
        assert failed(await own.fetch_run(http, "7")).kind is FailureKind.NOT_FOUND
        assert (await own.list_runs(http, since=SINCE)).runs == ()
        await own.check(http)
        assert (await own.trigger(http, "w", None, {})).provider_run_id == "7"


async def test_a_failure_inside_a_200_quotes_the_provider() -> None:
    text = BASE + '[[answer]]\nif = "ok == `false`"\nmeans = "retry"\n[trigger]\npost = "/go"\nrun_from = "id"\n'
    async with against(answering({"ok": False, "message": "the disk is full"}), text) as (own, http, _):
        assert "the disk is full" in failed(await own.fetch_run(http, "7")).message
        with pytest.raises(ProviderFailure, match="the disk is full"):
            await own.trigger(http, "w", None, {})


async def test_a_rule_that_fails_on_the_answer_of_a_failure_is_named_in_it() -> None:
    text = BASE + '[[answer]]\nif = "contains(code, \'quota\')"\nmeans = "throttled"\n'
    said = failed(await poll({"message": "out of order"}, text, status=500)).message
    assert "out of order" in said
    assert "answer[0].if" in said


@pytest.mark.parametrize("given", ["javascript:alert(1)", "/jobs/7", "https://a b", "https://" + "a" * 3000, 7, None])
async def test_a_link_is_an_address_that_a_browser_may_be_led_to(given: object) -> None:
    text = BASE.replace("[status]", 'link = "page"\n[status]')
    link = "HTTPS://jobs.example/7?tab=log#end"
    assert read(await poll({"state": "RUN", "page": link}, text)).link == link
    assert read(await poll({"state": "RUN", "page": given}, text)).link is None


@pytest.mark.parametrize("hint", ['{ header = "x-next", time = "ms" }', '{ path = "wait_s" }'])
async def test_a_hint_is_believed_again_with_the_same_body(hint: str) -> None:
    """A run that goes on shows the same bytes each time, and its provider asks for the pause each time."""
    handler = answering({"state": "RUN", "wait_s": 4}, headers={"x-next": "4000"})
    async with against(handler, BASE + f"[pace]\nhint = [{hint}]\n") as (defined, http, _):
        first = await defined.fetch_run(http, "7")
        assert isinstance(first, Observed)
        again = await defined.fetch_run(http, "7", LastResponse(first.observation, body=first.body))
    assert isinstance(again, Observed)
    assert (again.observation, again.poll_after_s) == (first.observation, 4.0)


async def test_a_rule_about_a_header_counts_with_the_same_body() -> None:
    text = BASE + '[[answer]]\nhttp = 200\nheader = { x-state = "gone" }\nmeans = "gone"\n'
    answers = iter([{}, {"x-state": "gone"}])

    async def answer(_request: web.Request) -> web.Response:
        return web.json_response({"state": "RUN"}, headers=next(answers))

    async with against(answer, text) as (defined, http, _):
        first = await defined.fetch_run(http, "7")
        assert isinstance(first, Observed)
        again = await defined.fetch_run(http, "7", LastResponse(first.observation, body=first.body))
    assert read(again).status is RunStatus.LOST
