"""Definitions for APIs outside the catalogue, against servers that answer as those APIs' documentation says."""

from __future__ import annotations

import base64
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from bridge.definitions.doubts import doubts_in
from bridge.definitions.files import Definitions
from bridge.domain.failure import FailureKind
from bridge.domain.observation import RunPage
from bridge.domain.run import RunError, RunStatus
from bridge.providers.base import Triggered
from bridge.providers.definition_answers import Answers
from bridge.providers.fixtures import compare, fixtures_beside, read_fixture, unseen_words
from tests.providers.test_defined import against, failed, read

SINCE = datetime(2026, 1, 1, tzinfo=UTC)
FOREIGN = sorted((Path(__file__).parent / "foreign").iterdir())
AWX = """
schema = 1
name = "jobs"
[run]
get = "/v2/jobs/{id}/"
id = "int"
[read]
status = "status"
id = "id"
workflow = "unified_job_template"
error = "job_explanation"
[status]
queued = ["new", "pending", "waiting"]
running = ["running"]
succeeded = ["successful"]
failed = ["failed", "error"]
cancelled = ["canceled"]
[list]
get = "/v2/jobs/?order_by=-id&page_size=2"
items = "results"
id = "id"
next = { url = "next" }
whole = true
newest_first = true
[trigger]
post = "/v2/job_templates/{workflow}/launch/"
body = "{inputs}"
ok = [201]
run_from = "id"
[cancel]
post = "/v2/jobs/{id}/cancel/"
ok = [202]
"""
KUBERNETES = """
schema = 1
name = "jobs"
[run]
get = "/apis/batch/v1/namespaces/{namespace}/jobs/{name}"
id = { namespace = "slug", name = "slug" }
[read]
status = "status.conditions[?status=='True'].type | [-1]"
created_at = "metadata.creationTimestamp"
finished_at = "status.completionTime"
generation = "metadata.uid"
error = { message = "status.conditions[?type=='Failed'].message | [0]", code = "status.conditions[?type=='Failed'].reason | [0]" }
progress = { completed = "status.succeeded", total = "spec.completions" }
[status]
waiting = ["Suspended"]
running = ["SuccessCriteriaMet", "FailureTarget"]
succeeded = ["Complete"]
failed = ["Failed"]
absent = "queued"
[[status.when]]
if = "status.active && !(status.conditions)"
is = "running"
raw = "'active'"
[list]
get = "/apis/batch/v1/namespaces/{namespace}/jobs?limit=2"
items = "items"
id = { name = "metadata.name" }
next = { cursor = "metadata.continue", query = "continue" }
whole = true
[trigger]
post = "/apis/batch/v1/namespaces/{namespace}/jobs"
body = "{inputs}"
ok = [201]
run_from = { namespace = "metadata.namespace", name = "metadata.name" }
[cancel]
delete = "/apis/batch/v1/namespaces/{namespace}/jobs/{name}?propagationPolicy=Background"
"""
STABILITY = """
schema = 1
name = "jobs"
headers = { accept = "application/json" }
[run]
get = "/v2beta/image-to-video/result/{id}"
[read]
status = ["status", "finish_reason"]
id = "id"
output = "video"
error = { path = "finish_reason", when = ["failed"] }
[status]
running = ["in-progress"]
succeeded = ["SUCCESS"]
failed = ["CONTENT_FILTERED"]
"""


def awx_job(number: int, status: str) -> dict[str, Any]:
    why = "Previous Task Failed" if status == "error" else ""
    return {"id": number, "type": "job", "unified_job_template": 7, "status": status, "job_explanation": why}


async def awx(request: web.Request) -> web.Response:
    """Paths end in a slash, and others are redirected; links to pages have no host."""
    if not request.path.endswith("/"):
        return web.Response(status=301, headers={"Location": f"{request.path}/"})
    match request.method, request.path.removeprefix("/api/v2/").strip("/").split("/"):
        case "GET", ["jobs"]:
            page = int(request.query.get("page", "1"))
            jobs = [awx_job(number, "running") for number in (3, 2, 1)][2 * page - 2 : 2 * page]
            following = "/api/v2/jobs/?order_by=-id&page_size=2&page=2" if page == 1 else None
            return web.json_response({"count": 3, "next": following, "previous": None, "results": jobs})
        case "GET", ["jobs", number]:
            return web.json_response(awx_job(int(number), {"1": "error", "2": "successful"}.get(number, "waiting")))
        case "POST", ["job_templates", "7", "launch"]:
            return web.json_response({"job": 104, **awx_job(104, "pending")}, status=201)
        case "POST", ["jobs", _, "cancel"]:
            return web.Response(status=202)
    return web.json_response({"detail": "Not found."}, status=404)


async def test_jobs_of_awx() -> None:
    async with against(awx, AWX) as (own, http, server):
        seen = [read(await own.fetch_run(http, number)) for number in ("1", "2", "3")]
        first = await own.list_runs(http, since=SINCE)
        second = await own.list_runs(http, since=SINCE, cursor=first.next_cursor)
        started = await own.trigger(http, "7", {"extra_vars": {"n": 1}}, {})
        await own.cancel(http, "104", None)
    assert [one.status for one in seen] == [RunStatus.FAILED, RunStatus.SUCCEEDED, RunStatus.QUEUED]
    assert [one.error for one in seen] == [RunError("Previous Task Failed"), None, None]
    assert [run.provider_run_id for page in (first, second) for run in page.runs] == ["3", "2", "1"]
    assert second.next_cursor is None
    assert started == Triggered("104")
    assert server.seen[-2].body == {"extra_vars": {"n": 1}}


async def test_a_slash_that_is_missing_is_named() -> None:
    async with against(awx, AWX.replace('jobs/{id}/"\nid', 'jobs/{id}"\nid')) as (own, http, _):
        result = failed(await own.fetch_run(http, "1"))
    assert result.kind is FailureKind.REJECTED or result.kind is FailureKind.GATEWAY
    assert "end the address with `/`" in result.message


def kubernetes_job(name: str, uid: str, **status: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "prod", "uid": uid, "creationTimestamp": "2026-01-15T10:00:00Z"}
    return {"kind": "Job", "metadata": metadata, "spec": {"completions": 1}, "status": status}


JOBS = {
    "new": kubernetes_job("new", "u1"),
    "active": kubernetes_job("active", "u2", active=1),
    "good": kubernetes_job(
        "good", "u3", succeeded=1, completionTime="2026-01-15T10:05:00Z",
        conditions=[{"type": "SuccessCriteriaMet", "status": "True"}, {"type": "Complete", "status": "True"}],
    ),
    "bad": kubernetes_job(
        "bad", "u4",
        conditions=[{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "too often"}],
    ),
    "held": kubernetes_job("held", "u5", conditions=[{"type": "Suspended", "status": "True"}]),
}  # fmt: skip


async def kubernetes(request: web.Request) -> web.Response:
    """A job has two names and no status word; the list goes on by a token; an error is a document of its own kind."""
    match request.method, request.path.removeprefix("/api/apis/batch/v1/namespaces/prod/jobs").strip("/"):
        case "GET", "":
            start = int(request.query.get("continue", "0"))
            more = {"continue": str(start + 2)} if start + 2 < len(JOBS) else {}
            return web.json_response({"metadata": more, "items": [*JOBS.values()][start : start + 2]})
        case "POST", "":
            return web.json_response(kubernetes_job((await request.json())["metadata"]["name"], "u6"), status=201)
        case (("GET" | "DELETE"), name) if name in JOBS:
            return web.json_response(JOBS[name])
    said = {"kind": "Status", "status": "Failure", "reason": "NotFound", "message": "no such job", "code": 404}
    return web.json_response(said, status=404)


async def test_jobs_of_kubernetes() -> None:
    async with against(kubernetes, KUBERNETES, namespace="prod") as (own, http, server):
        seen = {name: read(await own.fetch_run(http, f"prod/{name}")) for name in JOBS}
        missing = failed(await own.fetch_run(http, "prod/none"))
        pages: list[RunPage] = []
        while not pages or pages[-1].next_cursor:
            pages.append(await own.list_runs(http, since=SINCE, cursor=pages[-1].next_cursor if pages else None))
        started = await own.trigger(http, "any", {"metadata": {"name": "mine"}}, {})
        await own.cancel(http, "prod/active", None)
    assert [one.status.value for one in seen.values()] == ["queued", "running", "succeeded", "failed", "waiting"]
    assert seen["bad"].error == RunError("too often", "BackoffLimitExceeded")
    assert seen["good"].finished_at == "2026-01-15T10:05:00Z"
    assert seen["good"].generation == "u3", "a job that is made again under its name is a new run"
    assert missing.kind is FailureKind.NOT_FOUND
    assert [run.provider_run_id for page in pages for run in page.runs] == [f"prod/{name}" for name in JOBS]
    assert started == Triggered("prod/mine")
    assert server.seen[-1].method == "DELETE"


@pytest.mark.parametrize("folder", FOREIGN, ids=[folder.name for folder in FOREIGN])
def test_what_a_real_server_answered_is_read_as_it_was_meant(folder: Path) -> None:
    """Written by the how-to alone, against real servers; they are not built in, so that the names are free."""
    definition = Definitions(folder.parent).get(folder.name)
    answers, found = Answers(definition), [read_fixture(path) for path in fixtures_beside(folder / "definition.toml")]
    differing = {one.name: one.differences for one in (compare(answers, each) for each in found) if one.differences}
    assert differing == {}
    assert list(unseen_words(answers, found)) == []
    assert list(doubts_in(tomllib.loads((folder / "definition.toml").read_text()))) == []


@pytest.mark.parametrize(
    ("code", "body", "status", "output"),
    [
        (202, {"id": "a", "status": "in-progress"}, RunStatus.RUNNING, None),
        (200, {"video": base64.b64encode(b"mp4").decode(), "finish_reason": "SUCCESS"}, RunStatus.SUCCEEDED, "bXA0"),
        (200, {"id": "a", "finish_reason": "CONTENT_FILTERED"}, RunStatus.FAILED, None),
    ],
)
async def test_videos_of_stability(code: int, body: object, status: RunStatus, output: str | None) -> None:
    """202 is an answer about a run like any other, and the words of two members are one list."""

    async def answer(request: web.Request) -> web.Response:
        assert request.headers["accept"] == "application/json"
        return web.json_response(body, status=code)

    async with against(answer, STABILITY) as (own, http, _):
        seen = read(await own.fetch_run(http, "a"))
    assert (seen.status, seen.output) == (status, output)
