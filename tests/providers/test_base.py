"""Lists of runs as Retab and Instabase send them, page by page."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web

from bridge.domain.errors import Unsupported
from bridge.domain.failure import FailureKind
from bridge.domain.observation import LastResponse, Observation, Observed, RunPage
from bridge.domain.run import RunStatus
from bridge.providers import REGISTRY
from bridge.providers.http import ProviderFailure
from tests.support.foreign_server import answering
from tests.support.provider_http import provider_against

SINCE = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)
RETAB_RUN: dict[str, Any] = {
    "id": "run_1",
    "workflow_id": "wf_1",
    "lifecycle": {"status": "running"},
    "timing": {"created_at": "2026-01-15T10:30:00Z", "started_at": None, "completed_at": None},
}
FLAT_RUN: dict[str, Any] = {
    "id": "run_1",
    "status": "running",
    "completed_at": None,
    "final_outputs": None,
    "error": None,
}
INSTABASE_RUN: dict[str, Any] = {
    "id": "fb47b2e6-5e43-4f90-be01-d5c5a088d156",
    "status": "RUNNING",
    "start_timestamp": 1765912514238248673,
    "finish_timestamp": None,
    "msg": None,
    "deployment_id": "wf_1",
}


def retab_page(*items: Any, after: Any = None) -> dict[str, Any]:
    return {"data": list(items), "list_metadata": {"before": None, "after": after}}


def instabase_page(*items: Any) -> dict[str, Any]:
    return {"runs": list(items)}


async def list_of(provider: str, body: Any, *, cursor: str | None = None, **more: Any) -> tuple[RunPage, str]:
    """The page, and the query it was asked for with."""
    async with provider_against(answering(body, **more), provider) as (http, server):
        page = await REGISTRY[provider].list_runs(http, since=SINCE, cursor=cursor)
        return page, server.seen[0].target


@pytest.mark.parametrize(
    ("provider", "body"), [("retab", retab_page(RETAB_RUN)), ("instabase", instabase_page(INSTABASE_RUN))]
)
async def test_a_run_in_a_list_is_read_like_one_by_itself(provider: str, body: Any) -> None:
    page, _ = await list_of(provider, body)
    (run,) = page.runs
    assert run.observation is not None
    assert (run.observation.status, run.observation.workflow_id) == (RunStatus.RUNNING, "wf_1")
    assert not run.needs_detail
    assert page.next_cursor is None
    assert page.answered_at is not None


@pytest.mark.parametrize(
    ("provider", "item", "needs_detail"),
    [
        ("retab", RETAB_RUN, False),
        ("retab", FLAT_RUN, False),
        ("retab", {"id": "run_1", "lifecycle": {"status": "running"}}, True),
        ("retab", {"id": "run_1", "status": "completed"}, True),
        ("retab", FLAT_RUN | {"error": "no"}, False),
        ("instabase", INSTABASE_RUN, False),
        ("instabase", {"id": "a", "status": "COMPLETE"}, True),
    ],
)
async def test_a_list_that_leaves_fields_out_is_known_by_that(
    provider: str, item: dict[str, Any], needs_detail: bool
) -> None:
    page, _ = await list_of(provider, retab_page(item) if provider == "retab" else instabase_page(item))
    assert [run.needs_detail for run in page.runs] == [needs_detail]


async def test_retab_pages_by_the_id_of_the_last_run() -> None:
    page, first = await list_of("retab", retab_page(RETAB_RUN, after="run_1"))
    assert page.next_cursor == "run_1"
    assert first == "/v1/workflows/runs?limit=100&order=desc"
    _, second = await list_of("retab", retab_page(), cursor="run_1")
    assert second == "/v1/workflows/runs?limit=100&order=desc&after=run_1"


async def test_a_retab_that_ignores_the_cursor_is_not_asked_without_end() -> None:
    page, _ = await list_of("retab", retab_page(RETAB_RUN, after="run_1"), cursor="run_1")
    assert page.next_cursor is None


async def test_instabase_is_asked_from_an_instant_on_in_seconds_newest_first() -> None:
    """By default it leaves out runs that began more than 24 hours ago."""
    _, target = await list_of("instabase", instabase_page())
    query = target.partition("?")[2].split("&")
    assert f"from_timestamp={int(SINCE.timestamp())}" in query
    assert "order=DESCENDING" in query
    _, target = await list_of("instabase", instabase_page(), cursor="200")
    assert "offset=200" in target


@pytest.mark.parametrize(("count", "next_cursor"), [(0, None), (99, None), (100, "300"), (50, "250"), (7, None)])
async def test_instabase_goes_on_after_a_full_page_or_one_cut_by_its_own_limit(
    count: int, next_cursor: str | None
) -> None:
    page, _ = await list_of("instabase", instabase_page(*[INSTABASE_RUN] * count), cursor="200")
    assert page.next_cursor == next_cursor


@pytest.mark.parametrize("provider", ["retab", "instabase"])
async def test_one_unreadable_run_spoils_only_itself(provider: str) -> None:
    good = RETAB_RUN if provider == "retab" else INSTABASE_RUN
    items = [good, {"id": "x", "status": 7}, {"id": None}, "nonsense", None, {"id": ".."}]
    page, _ = await list_of(provider, retab_page(*items) if provider == "retab" else instabase_page(*items))
    assert [run.provider_run_id for run in page.runs] == [good["id"], "x"]
    assert page.runs[1].observation is None


@pytest.mark.parametrize("provider", ["retab", "instabase"])
@pytest.mark.parametrize("body", [[], None, "text", {}, {"data": None, "runs": 7}, {"data": {"a": 1}, "runs": {}}])
async def test_what_is_no_list_is_a_failure(provider: str, body: Any) -> None:
    with pytest.raises(ProviderFailure) as caught:
        await list_of(provider, body)
    assert caught.value.failed.kind is FailureKind.BAD_PAYLOAD


async def test_a_list_may_ask_for_a_pause() -> None:
    page, _ = await list_of("retab", retab_page(), headers={"Retry-After": "7"})
    assert page.poll_after_s == 7.0


@pytest.mark.parametrize("provider", ["dibby", "dify"])
async def test_a_provider_without_a_useful_list_says_so(provider: str) -> None:
    assert not REGISTRY[provider].lists
    with pytest.raises(Unsupported):
        await list_of(provider, {})


# -- conditional requests

LAST = LastResponse(Observation(RunStatus.RUNNING, "running"), 'W/"abc"')


async def tagged(request: web.Request) -> web.Response:
    if request.headers.get("If-None-Match") == LAST.etag:
        return web.Response(status=304, headers={"ETag": LAST.etag})
    return web.json_response({"status": "RUNNING"}, headers={"ETag": LAST.etag})


async def test_an_answer_shows_its_tag_and_304_means_what_is_known() -> None:
    async with provider_against(tagged, "dibby") as (http, server):
        first = await REGISTRY["dibby"].fetch_run(http, "run_1")
        second = await REGISTRY["dibby"].fetch_run(http, "run_1", LAST)
    assert isinstance(first, Observed)
    assert isinstance(second, Observed)
    assert (first.etag, first.is_unchanged) == (LAST.etag, False)
    assert (second.etag, second.is_unchanged, second.observation) == (LAST.etag, True, LAST.observation)
    assert "if-none-match" not in server.seen[0].headers


async def test_the_same_bytes_again_mean_what_is_known_and_others_are_read() -> None:
    async with provider_against(answering({"status": "RUNNING"}), "dibby") as (http, _):
        first = await REGISTRY["dibby"].fetch_run(http, "run_1")
        assert isinstance(first, Observed)
        same = await REGISTRY["dibby"].fetch_run(http, "run_1", LastResponse(LAST.observation, body=first.body))
        other = await REGISTRY["dibby"].fetch_run(
            http, "run_1", LastResponse(LAST.observation, body=b'{"status":"PENDING"}')
        )
    assert isinstance(same, Observed)
    assert (same.observation, same.body, same.is_unchanged) == (LAST.observation, first.body, False)
    assert isinstance(other, Observed)
    assert (other.observation, other.body) == (first.observation, first.body)


async def test_only_small_bodies_are_kept() -> None:
    async with provider_against(answering({"status": "RUNNING", "output": "x" * 2000}), "dibby") as (http, _):
        result = await REGISTRY["dibby"].fetch_run(http, "run_1")
    assert isinstance(result, Observed)
    assert result.body is None


@pytest.mark.parametrize("etag", ["", " ", "x" * 201, '"é"'])
async def test_what_can_hardly_be_a_tag_is_not_sent_back(etag: str) -> None:
    async with provider_against(answering({"status": "RUNNING"}, headers={"ETag": etag}), "dibby") as (http, _):
        result = await REGISTRY["dibby"].fetch_run(http, "run_1")
    assert isinstance(result, Observed)
    assert result.etag is None


@pytest.mark.parametrize(
    "bad",
    [
        b'{"id": "bad", "status": "RUNNING", "lifecycle": ' + b"[" * 200 + b"]" * 200 + b"}",
        b'{"id": "bad", "status": "RUNNING", "output": ' + b"9" * 5000 + b"}",
        b'{"id": "bad", "status": "RUNNING", "name": "M\xfcller"}',
        b'{"id": "bad", "status": "RUNNING", "name": "\\x41"}',
        b'{"id": "bad", "status": RUNNING}',
    ],
    ids=["deep", "integer", "latin-1", "escape", "word"],
)
@pytest.mark.parametrize(("provider", "key"), [("retab", "data"), ("instabase", "runs")])
async def test_one_bad_run_in_a_list_spoils_only_itself(provider: str, key: str, bad: bytes) -> None:
    good = {"retab": RETAB_RUN, "instabase": INSTABASE_RUN}[provider]
    item = json.dumps(good).encode()
    end = b'], "list_metadata": {"after": "next"}}'
    page, _ = await list_of(provider, b'{"' + key.encode() + b'": [' + item + b", " + bad + b", " + item + end)
    seen = [(run.provider_run_id, run.observation is not None) for run in page.runs]
    assert seen == [(good["id"], True), ("bad", False), (good["id"], True)]
    assert page.runs[1].needs_detail
    assert page.next_cursor == ("next" if provider == "retab" else None)
