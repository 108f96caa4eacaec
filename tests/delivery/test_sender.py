"""The sender against receivers that answer well, badly, endlessly or not at all."""

import asyncio
import gzip
import socket

import pytest

from bridge import __version__
from bridge.delivery.sender import HEAD_BYTES_MAX, Sender
from bridge.domain.addresses.policy import Trust
from bridge.domain.delivery import Outcome
from bridge.domain.signing.hmac_v1 import secret_key, signature_headers
from tests.support.posting import LOOPBACK, post, post_for
from tests.support.raw_server import answer, hang, raw_server, says

OK_HEAD = b"HTTP/1.1 200 OK\r\n"
BUSY_HEAD = b"HTTP/1.1 503 Busy\r\n"
CHUNKED = OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


# --- what is sent ---


async def test_a_post_carries_the_bytes_and_headers_of_the_contract(sender):
    key, body = secret_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), '{"name":"Zoë"}'.encode()
    headers = signature_headers([key], "evt_1", 1_800_000_000, body)
    async with raw_server(says(answer())) as raw:
        result = await post(sender, raw, "/hooks?a=%2F", headers=headers, body=body, custom_headers={"X-Mine": "yes"})
    assert result.outcome is Outcome.DELIVERED
    head, _, sent = raw.requests[0].partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    given = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    assert lines[0] == "POST /hooks?a=%2F HTTP/1.1"
    assert sent == body
    assert given == headers | {
        "host": f"127.0.0.1:{raw.port}",
        "content-type": "application/json",
        "content-length": str(len(body)),
        "user-agent": f"runbridge/{__version__}",
        "accept": "*/*",
        "accept-encoding": "identity",
        "x-mine": "yes",
    }


@pytest.mark.parametrize(
    "path",
    [
        "/?sp=%2Ftriggers&sig=a%2bB%3D",
        "/a%2fb/%7e~/./..//x",
        "//x?q=%20+%2B",
        "/%C3%A4?%E4",
        "?sp=%2Ft",
        "",
        "/x?",
        "?",
        "/x??",
    ],
)
async def test_the_request_line_has_the_bytes_of_the_url(sender, path):
    async with raw_server(says(answer())) as raw:
        await post(sender, raw, path)
    assert raw.requests[0].split(b" ")[1] == (path if path.startswith("/") else f"/{path}").encode()


async def test_custom_headers_never_replace_ours_nor_break_the_request(sender):
    """Configuration and API refuse them; this protects rows that are older than a rule."""
    custom = {
        "Webhook-ID": "evil", "webhook-signature": "evil", "User-Agent": "evil", "Content-Type": "evil", "Host": "evil",
        "Content-Length": "0", "Transfer-Encoding": "chunked", "Connection": "close", "Accept-Encoding": "gzip", "X C": "evil",
        "X-D": "evil\r\nX-E: evil", "": "evil", "X-Good": "good",
    }  # fmt: skip
    async with raw_server(says(answer())) as raw:
        result = await post(sender, raw, custom_headers=custom)
    assert result.outcome is Outcome.DELIVERED
    assert b"evil" not in raw.requests[0]
    assert b"X-Good: good" in raw.requests[0]
    assert b"Accept-Encoding: identity" in raw.requests[0] or b"accept-encoding: identity" in raw.requests[0]


async def test_another_content_type_may_be_asked_for(sender):
    async with raw_server(says(answer())) as raw:
        await post(sender, raw, headers={"content-type": "application/cloudevents+json"})
    assert b"application/cloudevents+json" in raw.requests[0]
    assert b"application/json" not in raw.requests[0]


# --- what a status means ---


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, Outcome.DELIVERED), (201, Outcome.DELIVERED), (202, Outcome.DELIVERED), (204, Outcome.DELIVERED),
        (299, Outcome.DELIVERED), (300, Outcome.REDIRECT), (304, Outcome.REDIRECT), (399, Outcome.REDIRECT),
        (400, Outcome.CLIENT_ERROR), (401, Outcome.CLIENT_ERROR), (404, Outcome.CLIENT_ERROR), (409, Outcome.CLIENT_ERROR),
        (410, Outcome.GONE), (413, Outcome.CLIENT_ERROR), (429, Outcome.THROTTLED), (451, Outcome.CLIENT_ERROR),
        (500, Outcome.SERVER_ERROR), (502, Outcome.SERVER_ERROR), (503, Outcome.SERVER_ERROR), (504, Outcome.SERVER_ERROR),
        (599, Outcome.SERVER_ERROR), (600, Outcome.PROTOCOL), (999, Outcome.PROTOCOL), (101, Outcome.PROTOCOL),
    ],
)  # fmt: skip
async def test_each_status_has_one_outcome(sender, status, outcome):
    upgrade = ("Upgrade: x", "Connection: upgrade") if status == 101 else ()
    result = await post_for(sender, answer(f"{status} Whatever", b"", *upgrade))
    assert (result.outcome, result.status) == (outcome, status)
    assert (result.detail is None) == (outcome is Outcome.DELIVERED)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("location", ["http://169.254.169.254/", "https://example.com/x", "/here"])
async def test_redirects_are_named_and_never_followed(sender, status, location):
    async with raw_server(says(answer(f"{status} Moved", b"", f"Location: {location}"))) as raw:
        result = await post(sender, raw)
    assert result.outcome is Outcome.REDIRECT
    assert location in result.detail
    assert len(raw.requests) == 1


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("https://user:hunter2@example.com/x?token=hunter2#hunter2", "https://example.com/x"),
        ("//user:hunter2@example.com/x", "//example.com/x"),
        ("/x?token=hunter2", "/x"),
        ("http://[hunter2", "something that is not a URL"),
        ("javascript:hunter2?x", "javascript:"),
        ("http://example.com/" + "a" * 5000, "http://example.com/aaa"),
    ],
)
async def test_the_target_of_a_redirect_is_shown_without_what_may_be_secret(sender, location, shown):
    result = await post_for(sender, answer("302 Found", b"", f"Location: {location}"))
    assert shown in result.detail
    assert "hunter2" not in result.detail or location.startswith("javascript")
    assert len(result.detail) < 500


async def test_a_secret_that_the_receiver_repeats_is_not_kept(sender):
    """Debug pages show the request: values of custom headers, and secrets in the query."""
    page = b"who is Bearer hunter2-hunter2, or hunter2-hunter2, with k-123456 at /hooks?token=hunter3-hunter3&a=visible"
    custom = {"Authorization": "Bearer hunter2-hunter2", "X-Key": "k-123456"}
    data = answer("302 Found", page, "Location: /login/hunter2-hunter2")
    async with raw_server(says(data, then_closes=True)) as raw:
        result = await post(sender, raw, "/hooks?token=hunter3-hunter3&a=visible", custom_headers=custom)
    assert result.head == b"who is ****, or ****, with **** at /hooks?token=****&a=visible"
    assert result.detail == "302 redirects to /login/****; redirects are not followed"
    async with raw_server(says(data, then_closes=True)) as raw:
        result = await post(sender, raw, custom_headers=custom)
    assert result.head.startswith(b"who is ****, or ****, with **** at ")


async def test_a_receiver_that_speaks_tls_is_named(sender):
    result = await post_for(sender, b"\x15\x03\x01\x00\x02\x02\x46")
    assert (result.outcome, result.detail) == (
        Outcome.PROTOCOL,
        "the receiver speaks TLS on this port; its URL begins with https://",
    )


async def test_a_redirect_to_nowhere_is_a_redirect(sender):
    assert (await post_for(sender, answer("302 Found"))).outcome is Outcome.REDIRECT


@pytest.mark.parametrize(
    ("headers", "pause_s"),
    [
        (("Retry-After: 7",), 7),
        (("Retry-After: 0",), 0),
        (("Retry-After:   120  ",), 120),
        (("Retry-After: 99999999",), 86400),
        (("Retry-After: Thu, 15 Jan 2026 10:31:00 GMT",), 60),
        (("Retry-After: Thu, 15 Jan 2099 10:31:00 GMT",), 86400),
        (("Retry-After: Thu, 15 Jan 2026 10:31:00 GMT", "Date: Thu, 15 Jan 2026 10:30:50 GMT"), 10),
        (("Retry-After: Thu, 15 Jan 2026 10:29:00 GMT",), None),
        (("Retry-After: -5",), None),
        (("Retry-After: 1.5",), None),
        (("Retry-After: soon",), None),
        (("Retry-After: ",), None),
        (("Retry-After: " + "9" * 400,), 86400),
        (("Retry-After: " + "9" * 5000,), 86400),
        (("Retry-After: Thu, 99 Foo 20266 10:30:00 GMT",), None),
        ((), None),
    ],
)
@pytest.mark.parametrize("status", ["429 Too Many", "503 Busy", "500 Oops"])
async def test_retry_after_is_read_in_both_forms_and_never_trusted_beyond_a_day(sender, status, headers, pause_s):
    assert (await post_for(sender, answer(status, b"", *headers))).retry_after_s == pause_s


async def test_retry_after_on_success_means_nothing(sender):
    assert (await post_for(sender, answer("200 OK", b"", "Retry-After: 7"))).retry_after_s is None


# --- what is kept of an answer ---


async def test_the_first_8_kib_of_the_body_are_kept(sender):
    body = bytes(range(256)) * 40
    result = await post_for(sender, answer("500 Oops", body))
    assert (result.head, result.head_is_truncated) == (body[:HEAD_BYTES_MAX], True)
    result = await post_for(sender, answer("500 Oops", body[:HEAD_BYTES_MAX]))
    assert (result.head, result.head_is_truncated) == (body[:HEAD_BYTES_MAX], False)


async def test_an_attempt_has_its_phases_and_its_peer(sender):
    async with raw_server(says(answer())) as raw:
        first = await post(sender, raw, host="localhost")
        second = await post(sender, raw, host="localhost")
    assert set(first.phases) == {"dns", "connect", "first_byte"}
    assert set(second.phases) == {"first_byte"}
    assert first.peer == second.peer == f"127.0.0.1:{raw.port}"
    assert all(isinstance(span_ms, int) and span_ms >= 0 for span_ms in first.phases.values())


# --- answers that are wrong after their status line: the status counts ---


@pytest.mark.parametrize(
    "data",
    [
        CHUNKED + b"ZZZ\r\nfoo",
        CHUNKED + b"3\r\nabc\r\n-1\r\n",
        CHUNKED + b"3\r\nabc\r\n0\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(5000)) + b"\r\n",
        CHUNKED + b"FFFFFFFFFFFFFFFFFF\r\nabc",
        OK_HEAD + b"Content-Length: 10\r\n\r\nabc",
        OK_HEAD + b"Content-Length: 1\r\n\r\nabcdef",
        OK_HEAD + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 204 None\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + CHUNKED + b"ZZZ\r\n",
    ],
)
async def test_a_success_stands_even_if_the_body_behind_it_is_broken(sender, data):
    """In one packet, as it mostly comes, aiohttp alone would lose the status line to the fault behind it."""
    result = await post_for(sender, data)
    assert result.outcome is Outcome.DELIVERED
    assert "in time" not in (result.detail or "")  # the fault ends it, not a deadline


async def drip(exchange):
    await exchange.send(OK_HEAD + b"\r\n")
    while True:
        await exchange.send(b"a")
        await asyncio.sleep(0.01)


async def stall(exchange):
    await exchange.send(OK_HEAD + b"Content-Length: 10\r\n\r\nabc")
    await asyncio.Event().wait()


async def reset_in_the_body(exchange):
    await exchange.send(OK_HEAD + b"Content-Length: 10\r\n\r\nabc")
    await exchange.is_read()
    exchange.reset()


@pytest.mark.parametrize("script", [drip, stall, reset_in_the_body])
async def test_a_success_stands_even_if_its_body_never_ends(sender, brief_body, script):
    async with raw_server(script) as raw:
        result = await post(sender, raw)
    assert (result.outcome, result.status, result.head_is_truncated) == (Outcome.DELIVERED, 200, True)
    assert result.head.startswith(b"a")
    assert "body" in result.detail


async def test_a_failure_stays_what_its_status_says_while_its_body_drips(sender, brief_body):
    async def script(exchange):
        await exchange.send(b"HTTP/1.1 503 Busy\r\nRetry-After: 9\r\n\r\nwait")
        await asyncio.Event().wait()

    async with raw_server(script) as raw:
        result = await post(sender, raw)
    assert (result.outcome, result.retry_after_s, result.head) == (Outcome.SERVER_ERROR, 9, b"wait")


async def test_a_body_may_take_its_own_time_at_most_not_the_whole_deadline(sender, brief_body):
    async with raw_server(stall) as raw:
        result = await post(sender, raw)
    assert result.outcome is Outcome.DELIVERED
    assert result.duration_ms < 60_000  # the sender's deadline, which alone would have ended it


async def test_of_an_endless_body_64_kib_are_read_and_the_connection_is_closed(sender):
    sent = 0

    async def script(exchange):
        nonlocal sent
        await exchange.send(OK_HEAD + b"Content-Length: 1000000000\r\n\r\n")
        while True:
            await exchange.send(b"x" * 65536)
            sent += 65536

    async with raw_server(script) as raw:
        result = await post(sender, raw)
        await asyncio.wait_for(raw.lost.wait(), 60)
    assert result.outcome is Outcome.DELIVERED
    assert (len(result.head), result.head_is_truncated) == (HEAD_BYTES_MAX, True)
    assert sent < 16 * 1024 * 1024  # what the kernel's buffers take


async def test_compressed_answers_are_never_unpacked(sender):
    bomb = gzip.compress(b"\0" * 10_000_000)
    result = await post_for(sender, answer("200 OK", bomb, "Content-Encoding: gzip"))
    assert result.head == bomb[:HEAD_BYTES_MAX]


# --- no usable answer ---


@pytest.mark.parametrize(
    ("data", "outcome"),
    [
        (b"", Outcome.PROTOCOL),
        (b"HTTP/1.1 20", Outcome.PROTOCOL),
        (b"HTTP/1.1 200 OK", Outcome.PROTOCOL),
        (b"HTTP/1.1 500 Oops\r\nFoo: b", Outcome.PROTOCOL),
        (b"hello world\r\n", Outcome.PROTOCOL),
        (b"SSH-2.0-OpenSSH_9\r\n", Outcome.PROTOCOL),
        (b"HTTP/1.1 99 Low\r\n\r\n", Outcome.PROTOCOL),
        (BUSY_HEAD + b"Content-Length: abc\r\n\r\n", Outcome.PROTOCOL),
        (BUSY_HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", Outcome.PROTOCOL),
        (BUSY_HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Outcome.PROTOCOL),
        (BUSY_HEAD + b"X: a\x00b\r\n\r\n", Outcome.PROTOCOL),
        (BUSY_HEAD + b"".join(b"X-%d: y\r\n" % number for number in range(100_000)) + b"\r\n", Outcome.OVERSIZE),
        (BUSY_HEAD + b"X: " + b"a" * 1_000_000 + b"\r\n\r\n", Outcome.OVERSIZE),
        (b"HTTP/1.1 200 " + b"a" * 1_000_000 + b"\r\n\r\n", Outcome.OVERSIZE),
    ],
)
async def test_what_is_no_answer_is_distinguished_from_what_is_too_large(sender, data, outcome):
    result = await post_for(sender, data)
    assert (result.outcome, result.status) == (outcome, None)
    assert result.detail


async def test_a_reset_before_an_answer_is_a_failure(sender):
    async def script(exchange):
        exchange.reset()

    async with raw_server(script) as raw:
        assert (await post(sender, raw)).outcome is Outcome.PROTOCOL


@pytest.mark.parametrize(("head", "outcome"), [(BUSY_HEAD, Outcome.OVERSIZE), (OK_HEAD, Outcome.DELIVERED)])
async def test_headers_without_end_are_cut_off(sender, head, outcome):
    async def script(exchange):
        await exchange.send(head)
        while True:
            await exchange.send(b"X: " + b"a" * 1000 + b"\r\n")

    async with raw_server(script) as raw:
        assert (await post(sender, raw)).outcome is outcome
        await asyncio.wait_for(raw.lost.wait(), 60)


async def test_interim_answers_without_end_are_cut_off(sender):
    async def script(exchange):
        while True:
            await exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 4000)

    async with raw_server(script) as raw:
        result = await post(sender, raw)
        assert result.outcome is Outcome.PROTOCOL
        assert "interim" in result.detail
        await asyncio.wait_for(raw.lost.wait(), 60)


async def test_some_interim_answers_are_fine(sender):
    result = await post_for(sender, b"HTTP/1.1 100 Continue\r\n\r\n" * 15 + answer())
    assert result.outcome is Outcome.DELIVERED


async def drip_headers(exchange):
    await exchange.send(BUSY_HEAD)
    while True:
        await exchange.send(b"a")
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("script", [drip_headers, hang])
async def test_one_deadline_holds_over_the_whole_exchange(hasty, script):
    async with raw_server(script) as raw:
        result = await post(hasty, raw)
        await asyncio.wait_for(raw.lost.wait(), 60) if script is drip_headers else None
    assert (result.outcome, result.detail) == (Outcome.TIMEOUT, "no complete answer within 0.8 s")


async def test_a_receiver_that_does_not_read_cannot_outlast_the_deadline(hasty):
    async with raw_server(hang, is_silent=True) as raw:
        result = await post(hasty, raw, body=b"x" * 20_000_000)
    assert result.outcome is Outcome.TIMEOUT


async def test_a_resolver_that_hangs_cannot_outlast_the_deadline():
    sender = Sender(LOOPBACK, timeout_s=0.2, lookup=hang)
    result = await sender.post("https://hooks.test/", headers={}, body=b"", trust=Trust.API)
    assert (result.outcome, result.detail) == (Outcome.DNS, "no answer to the name lookup within 0.2 s")
    await sender.close()


async def test_a_connection_that_is_never_accepted_times_out(hasty):
    """A full backlog drops connection requests in silence, as a black hole on the way does."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        crowd = [socket.socket() for _ in range(4)]
        for one in crowd:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        result = await hasty.post(f"http://127.0.0.1:{full.getsockname()[1]}/", headers={}, body=b"", trust=Trust.API)
        for one in crowd:
            one.close()
    assert (result.outcome, result.detail) == (Outcome.TIMEOUT, "no connection within 0.8 s")


async def test_a_closed_port_is_a_failure_to_connect(sender):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
        result = await sender.post(url, headers={}, body=b"", trust=Trust.API)
    assert (result.outcome, result.detail) == (Outcome.CONNECT, "no connection: Connection refused")
    assert url == f"http://{result.peer}/"


@pytest.mark.parametrize("found", [[], socket.gaierror(socket.EAI_NONAME, "Name or service not known")])
async def test_a_name_without_address_is_a_lookup_failure(found):
    async def lookup(name):
        if isinstance(found, Exception):
            raise found
        return found

    sender = Sender(LOOPBACK, lookup=lookup)
    result = await sender.post("https://hooks.test/", headers={}, body=b"", trust=Trust.API)
    assert result.outcome is Outcome.DNS
    await sender.close()


@pytest.mark.parametrize(
    "url", ["http://127.1/", "http://u:hunter2@x/", "ftp://x/", "", "http://x:0/", "http://[::1%25lo]/"]
)
async def test_a_url_that_should_never_have_been_stored_is_not_dialled(sender, url):
    result = await sender.post(url, headers={}, body=b"", trust=Trust.CONFIG)
    assert result.outcome is Outcome.PROTOCOL
    assert "hunter2" not in result.detail


# --- the guard ---
