"""Errors have a type with a page, lists a link to their next page, and large answers are sent small."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from urllib.parse import urljoin

import pytest

from bridge.api.problem import KINDS, kind_for, kind_of
from bridge.domain.errors import BridgeError, StartUnknown, Unsupported
from bridge.domain.run import RunStatus
from tests.support.api_bridge import Api

MANUAL = Path(__file__).parents[2] / "docs/errors.md"


async def test_the_type_of_a_problem_is_the_address_of_its_section(sqlite_api: Api) -> None:
    for method, path, name in (
        ("GET", "/v1/runs/none", "not-found"),
        ("GET", "/v1/runs?limit=0", "invalid-input"),
        ("PUT", "/v1/runs", "method-not-allowed"),
        ("GET", "/nowhere", "not-found"),
    ):
        problem = (await sqlite_api.call(method, path)).body
        assert problem["type"] == f"/errors#{name}", path
    page = await sqlite_api.call("GET", "/errors", token=None)
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    shown = re.findall(r'<h2 id="([^"]+)">', page.content.decode())
    assert shown == [kind.name for kind in KINDS]


def test_the_manual_explains_each_kind_in_the_same_words() -> None:
    sections = re.split(r"^## (.+)$", MANUAL.read_text(), flags=re.MULTILINE)[1:]
    found = {name: " ".join(text.split()) for name, text in zip(sections[::2], sections[1::2], strict=True)}
    assert found == {kind.name: f"HTTP {kind.status}. {kind.meaning} What to do: {kind.remedy}" for kind in KINDS}, (
        "docs/errors.md differs from bridge/api/problem.py"
    )


def test_errors_of_one_status_have_kinds_of_their_own() -> None:
    assert [kind_of(error).name for error in (Unsupported("x"), StartUnknown("x"), BridgeError("x"))] == [
        "unsupported",
        "start-unknown",
        "provider-failed",
    ]
    assert [kind_for(status).name for status in (400, 414, 409, 500, 504)] == [
        "bad-request",
        "bad-request",
        "conflict",
        "internal-error",
        "internal-error",
    ]


@pytest.mark.parametrize(
    ("first", "name"), [("/v1/runs?limit=2&state=open", "id"), ("/v1/events?limit=2&type=run.started", "id")]
)
async def test_the_link_of_a_list_leads_through_all_of_it_with_its_filters(
    sqlite_api: Api, first: str, name: str
) -> None:
    for number in range(5):
        run = await sqlite_api.register(f"r-{number}")
        await sqlite_api.see(run["id"], RunStatus.RUNNING)
    seen, path, pages = [], first, 0
    while path:
        reply = await sqlite_api.call("GET", path)
        seen += [each[name] for each in reply.body["data"]]
        link = re.fullmatch(r'<([^>]*)>; rel="next"', reply.headers.get("Link", ""))
        path, pages = urljoin(path, link[1]) if link else "", pages + 1
        assert pages < 5
    assert len(seen) == len(set(seen)) == 5


async def test_a_large_answer_is_compressed_for_those_who_take_it(sqlite_api: Api) -> None:
    plain, small = ({"Accept-Encoding": coding} for coding in ("gzip;q=0", "br, gzip"))
    whole = await sqlite_api.call("GET", "/openapi.json", headers=plain)
    assert "Content-Encoding" not in whole.headers
    assert whole.headers["Vary"] == "Accept-Encoding"
    async with sqlite_api.session.get(f"{sqlite_api.url}/openapi.json", headers=small, auto_decompress=False) as got:
        assert got.headers["Content-Encoding"] == "gzip"
        packed = await got.read()
    assert gzip.decompress(packed) == whole.content
    assert len(packed) < len(whole.content) / 4
    liveness = await sqlite_api.call("GET", "/healthz", headers=small)
    assert "Content-Encoding" not in liveness.headers


@pytest.mark.parametrize("path", ["/openapi.json", "/errors"])
async def test_what_never_changes_is_not_sent_again(sqlite_api: Api, path: str) -> None:
    tag = (await sqlite_api.call("GET", path)).headers["ETag"]
    async with sqlite_api.session.get(sqlite_api.url + path, headers={"If-None-Match": tag}) as got:
        assert (got.status, await got.read(), got.headers["ETag"]) == (304, b"", tag)
    assert (await sqlite_api.call("GET", path, headers={"If-None-Match": 'W/"other"'})).status == 200


async def test_the_log_names_the_token_of_every_request_at_debug(
    sqlite_api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    await sqlite_api.call("GET", "/v1/runs")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "request.answered" in line]
    assert "token=api_token" in line
