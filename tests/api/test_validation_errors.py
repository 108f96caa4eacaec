"""Mistakes in a request are answered with a 422 that names each field at fault and its remedy.

These requests change nothing, so one server serves them all.
"""

from __future__ import annotations

import json

import pytest

from tests.support.api_bridge import Api

pytestmark = pytest.mark.asyncio(loop_scope="module")
HOOK = {"url": "https://app.example.org/done"}


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"connection": "dify-prd"}, "connection", "did you mean `dify-prod`"),
        ({"connection": "x"}, "connection", "known: dify-prod, dify-test"),
        ({"provider_run_id": None}, "provider_run_id", "required"),
        ({"provider_run_id": 7}, "provider_run_id", "expected text"),
        ({"provider_run_id": ""}, "provider_run_id", "empty"),
        ({"provider_run_id": "a/b"}, "provider_run_id", "no slash"),
        ({"trigger": {"workflow_id": "w"}}, "provider_run_id", "not both"),
        ({"deadline": "soon"}, "deadline", "such as 2h"),
        ({"deadline": "0s"}, "deadline", "longer than nothing"),
        ({"deadline": "2020-01-01T00:00:00Z"}, "deadline", "already passed"),
        ({"deadline": "2027-01-01T00:00:00"}, "deadline", "offset"),
        ({"deadline": "0001-01-01T00:00:00+23:59"}, "deadline", "instant"),
        ({"deadline": "99999d"}, "deadline", "at most"),
        ({"deadline": 7200}, "deadline", "duration"),
        ({"metadata": []}, "metadata", "an object"),
        ({"metadata": {"x": "y" * 17000}}, "metadata", "at most 16384 bytes"),
        ({"tags": ["x"] * 21}, "tags", "at most 20 entries"),
        ({"tags": ["y" * 101]}, "tags[0]", "at most 100 characters"),
        ({"tags": "x"}, "tags", "a list"),
        ({"tags": ["a\nb"]}, "tags[0]", "control"),
        ({"price": "1"}, "price", "duration"),
        ({"price": 1}, "price", "duration"),
        ({"target_delay": "0%"}, "target_delay", "share"),
        ({"price": "1s", "target_delay": "5%"}, "cadence", "not both"),
        ({"price": "1s", "cadence": {"price": "2s"}}, "cadence", "given twice"),
        ({"min_interval": "10m"}, "cadence", "must not exceed max_interval"),
        ({"cadence": {"min_interval": "1ms"}}, "cadence.min_interval", "between"),
        ({"cadence": {"prise": "1s"}}, "cadence.prise", "did you mean `price`"),
        ({"webhook": {}}, "webhook.url", "required"),
        ({"webhook": {"url": "http://10.0.0.1/"}}, "webhook.url", "rule: private"),
        ({"webhook": {**HOOK, "events": ["run.finish"]}}, "webhook.events[0]", "did you mean `run.finished`"),
        ({"webhook": {**HOOK, "events": ["*"]}}, "webhook.events[0]", "expected one of"),
        ({"webhook": {**HOOK, "events": []}}, "webhook.events", "empty"),
        ({"webhook": {**HOOK, "secret": "hunter2"}}, "webhook.secret", "whsec_"),
        ({"webhook": {**HOOK, "headers": {"Host": "x"}}}, "webhook.headers", "'Host'"),
        ({"webhook": {**HOOK, "headers": {"webhook-id": "x"}}}, "webhook.headers", "set by the bridge"),
        ({"webhook": "https://x"}, "webhook", "an object"),
        ({"workflowid": "w"}, "workflowid", "did you mean `workflow_id`"),
    ],
)
async def test_every_mistake_is_a_422_that_names_the_field(
    shared: Api, change: dict[str, object], field: str, says: str
) -> None:
    reply = await shared.call("POST", "/v1/runs", {"connection": "dify-prod", "provider_run_id": "r-1", **change})
    assert reply.status == 422
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert list(reply.fields) == [field]
    assert says in reply.fields[field]
    assert "hunter2" not in reply.content.decode()


async def test_all_mistakes_are_named_at_once(shared: Api) -> None:
    reply = await shared.call(
        "POST", "/v1/runs", {"conection": "x", "tags": [1], "deadline": "soon", "webhook": {"url": "ftp://x"}}
    )
    assert set(reply.fields) == {"connection", "conection", "provider_run_id", "tags[0]", "deadline", "webhook.url"}


@pytest.mark.parametrize("body", [[], "text", 7, None])
async def test_a_body_that_is_no_object_is_refused(shared: Api, body: object) -> None:
    reply = await shared.call("POST", "/v1/runs", data=json.dumps(body).encode())
    assert (reply.status, reply.fields) == (422, {"(body)": "expected an object"})


@pytest.mark.parametrize(
    ("query", "field", "says"),
    [
        ("limit=0", "limit", "at least 1"),
        ("limit=201", "limit", "at most 200"),
        ("limit=many", "limit", "whole number"),
        ("limit=1&limit=2", "limit", "twice"),
        ("status=finished", "status", "expected one of"),
        ("status=queued,done", "status", "expected one of"),
        ("statuss=queued", "statuss", "did you mean `status`"),
        ("state=queued", "state", "open, settled"),
        ("cursor=%21%21", "cursor", "next_cursor"),
        ("cursor=ZZZZZ", "cursor", "next_cursor"),
        ("tag=%00", "tag", "control"),
        ("tag=", "tag", "empty"),
    ],
)
async def test_a_wrong_query_is_a_422_that_names_the_parameter(shared: Api, query: str, field: str, says: str) -> None:
    reply = await shared.call("GET", f"/v1/runs?{query}")
    assert reply.status == 422
    assert says in reply.fields[field]


@pytest.mark.parametrize(
    "path", ["runs?cursor=", "endpoints?cursor=", "events?cursor=", "events?after=", "replays?cursor="]
)
async def test_an_empty_cursor_is_the_first_page(shared: Api, path: str) -> None:
    """Clients that page in a loop often begin with the empty text."""
    reply = await shared.call("GET", f"/v1/{path}")
    assert (reply.status, reply.body["next_cursor"]) == (200, None)


async def test_a_list_where_one_word_is_wanted_gets_an_error(shared: Api) -> None:
    body = {"since": "2026-01-02T00:00:00Z", "status": ["failed"]}
    reply = await shared.call("POST", "/v1/endpoints/x/replay", body)
    assert reply.fields["status"].startswith("expected one of all, ")


@pytest.mark.parametrize("timeout", ["-1", "301", "nan", "soon"])
async def test_a_wait_lasts_from_nothing_to_five_minutes(shared: Api, timeout: str) -> None:
    assert "timeout" in (await shared.call("GET", f"/v1/runs/run_1/wait?timeout={timeout}")).fields


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"url": None}, "url", "expected text"),
        ({"url": "http://app.example.org"}, "url", "https"),
        ({"url": "https://" + "x" * 2048}, "url", "at most 2048"),
        ({"events": ["run.*"]}, "events[0]", "expected one of"),
        ({"events": []}, "events", "empty"),
        ({"filter": "data.run.status =="}, "filter", "JMESPath"),
        ({"filter": "a" * 1025}, "filter", "at most 1024"),
        ({"description": "a\x85b"}, "description", "control characters"),
        ({"secret": "whsec_c2hvcnQ="}, "secret", "24 to 64 bytes"),
        ({"headers": {"X-A": "b\r\nX-C: d"}}, "headers", "printable ASCII"),
        ({"headers": {"Connection": "close"}}, "headers", "HTTP connection"),
        ({"headers": {"X-Key": "****"}}, "headers", "give the value itself"),
        ({"ordered": "yes"}, "ordered", "true or false"),
        ({"payload": "thick"}, "payload", "did you mean `thin`"),
        ({"descripton": "x"}, "descripton", "did you mean `description`"),
    ],
)
async def test_an_endpoint_is_checked_when_it_is_made(
    shared: Api, change: dict[str, object], field: str, says: str
) -> None:
    reply = await shared.call("POST", "/v1/endpoints", {"url": "https://app.example.org/hooks", **change})
    assert (reply.status, list(reply.fields)) == (422, [field])
    assert says in reply.fields[field]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/endpoints/x/rotate-secret", {"overlap": "8d"}, "overlap"),
        ("/v1/endpoints/x/rotate-secret", {"secret": 1}, "secret"),
        ("/v1/endpoints/x/replay", {}, "since"),
        ("/v1/endpoints/x/replay", {"since": "yesterday"}, "since"),
        ("/v1/endpoints/x/replay", {"since": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z"}, "until"),
        ("/v1/endpoints/x/replay", {"since": "2026-01-02T00:00:00Z", "status": "lost"}, "status"),
        ("/v1/endpoints/x/ping", {"now": True}, "now"),
        ("/v1/runs/batch", {"runs": {}}, "runs"),
        ("/v1/runs/batch", {}, "runs"),
        ("/v1/runs?connection=x", {}, "connection"),
    ],
)
async def test_every_body_is_checked(shared: Api, path: str, body: dict[str, object], field: str) -> None:
    reply = await shared.call("POST", path, body)
    assert (reply.status, list(reply.fields)) == (422, [field])


@pytest.mark.parametrize(
    ("text", "status", "says"),
    [
        (b"{", 400, "line 1"),
        (b'{"a": NaN}', 400, "NaN"),
        (b'{"a": 1e999}', 400, "too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", 400, "more than 4300 digits"),
        (b'{"a": 1, "b": 2, "a": 3}', 400, '"a" stands twice'),
        (b"[" * 30000, 400, "nested"),
        (b'{"metadata": ' + b'{"a":' * 101 + b"1" + b"}" * 102, 400, "nested"),
        (b'{"tags": ["\\u0000"]}', 422, "NUL"),
        (b'{"metadata": {"\\ud800": 1}}', 422, "surrogate"),
        (b"\xff\xfe", 400, "UTF-8"),
    ],
)
async def test_only_json_that_everybody_reads_alike_is_taken(shared: Api, text: bytes, status: int, says: str) -> None:
    reply = await shared.call("POST", "/v1/runs", data=text)
    assert reply.status == status
    assert says in reply.body["detail"]


async def test_a_surrogate_pair_is_a_character_like_any_other(shared: Api) -> None:
    text = b'{"connection": "dify-prod", "provider_run_id": "\\ud83d\\ude00"}'
    assert (await shared.call("POST", "/v1/runs", data=text)).body["provider_run_id"] == "😀"


async def test_a_mistake_in_a_batch_is_reported_as_alone(shared: Api) -> None:
    wrong = {"connection": "dify-prd", "provider_run_id": "x", "tags": 1}
    alone = await shared.call("POST", "/v1/runs", wrong)
    reply = await shared.call("POST", "/v1/runs/batch", {"runs": [wrong]})
    assert reply.body["data"][0]["error"]["errors"] == alone.body["errors"]


async def test_so_many_mistakes_are_cut_off(shared: Api) -> None:
    reply = await shared.call("POST", "/v1/runs", {f"field{n}": 1 for n in range(3000)})
    assert len(reply.body["errors"]) == 50
    assert len(reply.content) < 20_000
