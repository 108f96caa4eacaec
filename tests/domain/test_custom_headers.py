"""Which headers an endpoint may carry; the same for configuration and API."""

import pytest

from bridge.domain.custom_headers import check_headers


@pytest.mark.parametrize("name", ["Authorization", "x-api-key", "X_Custom.1", "cookie", "traceparent"])
def test_other_headers_are_free(name: str):
    assert check_headers({name: "Bearer abc"}) == []


@pytest.mark.parametrize(
    "name",
    [
        "Host", "Content-Length", "CONTENT-TYPE", "user-agent", "webhook-id", "Webhook-Signature", "proxy-authorization",
        "Expect", "accept", "Accept-Encoding", "content-encoding",
    ],
)  # fmt: skip
def test_ours_are_refused_in_any_spelling(name: str):
    (problem,) = check_headers({name: "x"})
    assert problem.field == name
    assert "set by the bridge" in problem.message


@pytest.mark.parametrize("name", ["Connection", "keep-alive", "TE", "trailer", "Transfer-Encoding", "upgrade"])
def test_hop_by_hop_headers_are_refused(name: str):
    (problem,) = check_headers({name: "x"})
    assert "belongs to the HTTP connection" in problem.message


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\nb", "é", "a\n", "(x)"])
def test_a_name_is_an_rfc_9110_token(name: str):
    (problem,) = check_headers({name: "x"})
    assert "not a header name" in problem.message


def test_a_name_has_at_most_256_characters():
    assert check_headers({"x" * 256: "1"}) == []
    (problem,) = check_headers({"x" * 257: "1"})
    assert problem.message == "a header name may be at most 256 characters long"


@pytest.mark.parametrize("value", ["a\r\nb: c", "é", "\x00", "\t", "x" * 4097, "a\n"])
def test_a_value_that_cannot_be_sent_is_refused_and_never_shown(value: str):
    (problem,) = check_headers({"x-a": value})
    assert "the value may" in problem.message
    assert value not in problem.message


def test_the_longest_value_is_taken():
    assert check_headers({"x-a": "x" * 4096, "x-b": ""}) == []


def test_one_header_in_two_spellings_is_refused():
    (problem,) = check_headers({"X-A": "1", "x-a": "2"})
    assert problem.field == "x-a"
