"""One bad part of a body spoils only itself; above all it never hides the status."""

from __future__ import annotations

import json
import time
import tracemalloc

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.domain.errors import BadPayload
from bridge.domain.failure import FailureKind
from bridge.domain.observation import Observed, PollFailed
from bridge.domain.run import RunStatus
from bridge.providers import REGISTRY
from bridge.providers.partial_json import RunFields, RunScanner
from tests.support.foreign_server import answering
from tests.support.provider_http import provider_against

RUN_ID = "fb47b2e6-5e43-4f90-be01-d5c5a088d156"
MIB = 2**20
BEGINNINGS = {  # of a run that has succeeded, up to its output
    "dibby": f'{{"id": "{RUN_ID}", "status": "FINISHED", "createdAt": "2026-01-15T10:30:00Z", "output": ',
    "dify": f'{{"id": "{RUN_ID}", "status": "succeeded", "created_at": 1768473000, "outputs": ',
    "retab": f'{{"id": "{RUN_ID}", "status": "completed", "created_at": "2026-01-15T10:30:00Z", "final_outputs": ',
}
OUTPUTS = {"dibby": "output", "dify": "outputs", "retab": "final_outputs"}


def run_with(provider: str, output: bytes, *, status_last: bool = False) -> bytes:
    """The body of a run that has succeeded with this output."""
    whole = json.loads(BEGINNINGS[provider] + "null}")
    key = OUTPUTS[provider]
    del whole[key]
    rest = json.dumps(whole).encode()
    member = json.dumps(key).encode() + b": " + output
    return b"{" + member + b", " + rest[1:] if status_last else rest[:-1] + b", " + member + b"}"


async def poll(provider: str, body: bytes, **headers: str) -> object:
    async with provider_against(answering(body, headers=headers), provider) as (http, _):
        return await REGISTRY[provider].fetch_run(http, RUN_ID)


@pytest.mark.slow
@pytest.mark.parametrize("provider", BEGINNINGS)
@pytest.mark.parametrize("status_last", [False, True], ids=["status first", "status last"])
@pytest.mark.parametrize(
    "output",
    [
        b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}",
        b"[" * 200_000 + b"]" * 200_000,
        b'{"big": ' + b"9" * 5000 + b"}",
        b'{"name": "M\xfcller"}',
        b'{"text": "\\x41"}',
        b"{'single': 'quotes'}",
        b'{"trailing": 1,}',
        b'{"undefined": undefined}',
        b'"' + b"x" * 9 * MIB + b'"',
        b'{"list": [' + b'{"a": 1},' * MIB + b"1]}",
    ],
    ids=[
        "deep",
        "very deep",
        "huge integer",
        "latin-1",
        "escape",
        "quotes",
        "comma",
        "undefined",
        "9 MiB",
        "9 MiB list",
    ],
)
async def test_an_output_that_cannot_be_kept_leaves_everything_else(
    provider: str, output: bytes, status_last: bool
) -> None:
    seen = await poll(provider, run_with(provider, output, status_last=status_last))
    assert isinstance(seen, Observed)
    told = seen.observation
    assert (told.status, told.created_at) == (RunStatus.SUCCEEDED, "2026-01-15T10:30:00Z")
    assert (told.output, told.output_truncated, told.output_is_elsewhere) == (None, True, False)


@pytest.mark.parametrize("provider", BEGINNINGS)
async def test_nan_and_infinities_become_null_and_the_output_stays(provider: str) -> None:
    seen = await poll(provider, run_with(provider, b'{"score": NaN, "x": [Infinity, -Infinity, 1e999], "y": 1.5}'))
    assert isinstance(seen, Observed)
    assert seen.observation.output == {"score": None, "x": [None, None, None], "y": 1.5}
    assert not seen.observation.output_truncated


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
async def test_every_unicode_encoding_is_read(encoding: str) -> None:
    body = run_with("dibby", '{"name": "Müller"}'.encode())
    seen = await poll("dibby", body.decode().encode(encoding))
    assert isinstance(seen, Observed)
    assert seen.observation.output == {"name": "Müller"}


async def test_a_declared_charset_is_believed_where_the_body_is_not_unicode() -> None:
    latin = {"Content-Type": "application/json; charset=iso-8859-1"}
    seen = await poll("dibby", run_with("dibby", '{"name": "Müller"}'.encode("latin-1")), **latin)
    other = await poll("dibby", run_with("dibby", '{"name": "Müller"}'.encode()), **latin)
    unknown = await poll("dibby", run_with("dibby", b"1"), **{"Content-Type": "application/json; charset=klingon"})
    assert isinstance(seen, Observed)
    assert isinstance(other, Observed)
    assert isinstance(unknown, Observed)
    assert seen.observation.output == other.observation.output == {"name": "Müller"}


async def test_a_large_body_in_utf_16_is_read_as_far_as_it_can_be() -> None:
    body = run_with("dibby", b'"' + b"x" * 5 * MIB + b'"', status_last=True)
    seen = await poll("dibby", body.decode().encode("utf-16"))
    assert isinstance(seen, Observed)
    assert seen.observation.status is RunStatus.SUCCEEDED


@pytest.mark.parametrize("name", ["X-Long", "Set-Cookie", "ETag", "Date", "Retry-After"])
async def test_a_long_header_spoils_only_itself(name: str) -> None:
    seen = await poll("dibby", run_with("dibby", b"1"), **{name: "v" * 60_000})
    assert isinstance(seen, Observed)
    assert seen.etag is None


@pytest.mark.parametrize("output", [b"7", b'"text"'])
async def test_a_small_output_is_kept_though_the_body_is_too_large(output: bytes) -> None:
    body = run_with("dibby", output)[:-1] + b', "trace": "' + b"t" * 9 * MIB + b'", "stepsCompleted": 2, "steps": 2}'
    seen = await poll("dibby", body)
    assert isinstance(seen, Observed)
    assert seen.observation.output == json.loads(output)
    assert seen.observation.progress is not None


@pytest.mark.parametrize(
    "error",
    [
        b'"' + b"x" * 9 * MIB + b'"',
        b"[" * 300 + b"]" * 300,
        b'{"message": "x", "trace": "' + b"t" * 70_000 + b'"' + b"," * 9 + b"}",
    ],
    ids=["large", "deep", "broken"],
)
async def test_an_error_that_cannot_be_read_says_so(error: bytes) -> None:
    seen = await poll("dibby", b'{"status": "FAILED", "error": ' + error + b"}")
    assert isinstance(seen, Observed)
    assert seen.observation.status is RunStatus.FAILED
    assert seen.observation.error is not None
    assert "cannot be read" in seen.observation.error.message


async def test_a_lifecycle_with_a_bad_part_still_shows_its_status() -> None:
    details = b'{"stack_trace": "' + b"x" * 9 * MIB + b'"}'
    body = (
        b'{"lifecycle": {"details": '
        + details
        + b', "status": "error", "message": "it broke"}, "id": "'
        + RUN_ID.encode()
    )
    seen = await poll("retab", body + b'"}')
    assert isinstance(seen, Observed)
    assert seen.observation.status is RunStatus.FAILED
    assert seen.observation.error is not None
    assert seen.observation.error.message == "it broke"


@pytest.mark.parametrize(
    "rest",
    [b', "input_dir": ' + b"[" * 300 + b"]" * 300, b', "tags": ["\xff"]', b', "input_dir": "' + b"x" * 9 * MIB + b'"'],
    ids=["deep", "latin-1", "large"],
)
async def test_what_instabase_adds_does_not_hide_its_status(rest: bytes) -> None:
    seen = await poll("instabase", b'{"id": "' + RUN_ID.encode() + b'", "status": "COMPLETE"' + rest + b"}")
    assert isinstance(seen, Observed)
    assert (seen.observation.status, seen.observation.output_is_elsewhere) == (RunStatus.SUCCEEDED, True)


@pytest.mark.parametrize(
    "body",
    [
        b'{"status": "FINISHED", "output": {"a": 1}',
        b'{"status": "FINISHED"',
        b'{"status": "FINI',
        b'{"output": {"status": "FINISHED"}}',
        b'{"output": "\\"status\\": \\"FINISHED\\""}',
        b'[{"status": "FINISHED"}]',
        b'{"status": "FINISHED"} {"status": "RUNNING"}',
        b"not JSON " * MIB,
    ],
    ids=["cut", "open", "word", "inner", "text", "list", "two", "large text"],
)
async def test_a_status_that_the_run_does_not_have_is_not_believed(body: bytes) -> None:
    seen = await poll("dibby", body)
    assert isinstance(seen, PollFailed)
    assert seen.kind is FailureKind.BAD_PAYLOAD


async def test_a_large_body_without_a_status_is_not_fetched_again_at_once() -> None:
    seen = await poll("dibby", b'{"output": "' + b"x" * 20 * MIB + b'"}')
    assert isinstance(seen, PollFailed)
    assert seen.kind is FailureKind.BAD_PAYLOAD
    assert seen.retry_after_s == pytest.approx(20, rel=0.05)


async def test_a_warning_behind_the_run_is_passed_over() -> None:
    seen = await poll("dibby", b'{"status": "RUNNING"}\n<br />\n<b>Warning</b>: deprecated')
    assert isinstance(seen, Observed)


@pytest.mark.slow
@pytest.mark.parametrize("status_last", [False, True], ids=["status first", "status last"])
async def test_the_status_is_found_in_a_hundred_megabytes_in_little_memory(status_last: bool) -> None:
    first, last = run_with("dibby", b'"?"', status_last=status_last).split(b"?")
    chunk = b"x" * MIB

    async def pour(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = len(first) + 100 * MIB + len(last)
        await response.prepare(request)
        await response.write(first)
        for _ in range(100):
            await response.write(chunk)
        await response.write(last)
        return response

    async with provider_against(pour, "dibby", timeout_s=60) as (http, _):
        tracemalloc.start()
        try:
            seen = await REGISTRY["dibby"].fetch_run(http, RUN_ID)
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert isinstance(seen, Observed)
    assert (seen.observation.status, seen.observation.output_truncated) == (RunStatus.SUCCEEDED, True)
    assert seen.poll_after_s == pytest.approx(100, rel=0.05)  # were it running, it would not be fetched soon again
    assert peak_bytes < 32 * MIB


@pytest.mark.slow
async def test_a_large_body_that_never_ends_keeps_what_was_read_before_the_deadline() -> None:
    async def pour(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(run_with("dibby", b'"')[:-1])
        while True:
            await response.write(b"x" * MIB)

    async with provider_against(pour, "dibby", timeout_s=2) as (http, _):
        seen = await REGISTRY["dibby"].fetch_run(http, RUN_ID)
    assert isinstance(seen, Observed)
    assert (seen.observation.status, seen.observation.output_truncated) == (RunStatus.SUCCEEDED, True)


# -- the scanner

FIELDS = RunFields(frozenset({"a", "b", "c", "status"}), "out", "error", frozenset({"nest"}))
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
NAMES = st.sampled_from(["a", "b", "c", "status", "out", "nest", "x", 'q"', "é"])
BUSY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def scan(data: bytes, piece_bytes: int) -> RunScanner:
    scanner = RunScanner(FIELDS)
    for start in range(0, len(data), piece_bytes):
        scanner.feed(data[start : start + piece_bytes])
    return scanner


@pytest.mark.slow
@BUSY_MACHINE
@given(
    st.dictionaries(NAMES, ANY_JSON | st.dictionaries(NAMES, ANY_JSON)),
    st.integers(1, 70),
    st.sampled_from([None, 2]),
    st.booleans(),
)
def test_the_members_of_any_object_are_found_however_it_arrives(value, piece_bytes, indent, is_ascii) -> None:
    scanner = scan(json.dumps(value, indent=indent, ensure_ascii=is_ascii).encode("utf-8", "replace"), piece_bytes)
    wanted = {key: each for key, each in value.items() if key in FIELDS.names | {"out", "nest"}}
    if isinstance(nested := wanted.get("nest"), dict):
        wanted["nest"] = {key: each for key, each in nested.items() if key in FIELDS.names | {"nest"}}
    storable = json.dumps(wanted).encode()
    assert scanner.is_closed
    assert scanner.damaged == set()
    assert len(scanner.members) == len(json.loads(storable))
    if "\\u" not in storable.decode():
        assert scanner.members == wanted


@BUSY_MACHINE
@given(st.binary() | st.text('{}[]",:\\ a1', max_size=60).map(str.encode), st.integers(1, 9))
def test_any_bytes_are_scanned_or_refused_alike_in_any_pieces(data, piece_bytes) -> None:
    def outcome(size: int) -> object:
        try:
            found = scan(b'{"a":' + data, size)
        except BadPayload as error:
            return str(error)
        return found.members, found.damaged, found.is_closed

    assert outcome(piece_bytes) == outcome(10**6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        b'{"out":[' + b'{"a":1},' * 2 * MIB,
        b'{"out":[' + b"[]" * 8 * MIB,
        b'{"out":"' + b'\\"' * 8 * MIB,
        b'{"out":"' + b"\\\\" * 8 * MIB,
        b"{" + b'"a":[[],[]],' * 9_000 + b" " * 16 * MIB,
        b"{" + (b'"a":[' + b"[]," * 40 + b"[]],") * 9_000,
        b'{"' + b"k" * 16 * MIB,
    ],
    ids=["objects", "brackets", "quotes", "backslashes", "members", "lists", "key"],
)
def test_no_body_takes_the_loop_for_long(body: bytes) -> None:
    began = time.process_time()
    scan(body, 2**16)
    assert time.process_time() - began < 8  # a second each on an idle machine


def test_too_many_members_are_refused() -> None:
    with pytest.raises(BadPayload, match="more than 10000 members"):
        scan(b"{" + b'"a":1,' * 20_000, 2**16)
