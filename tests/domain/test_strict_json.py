"""Lenient reading of providers' JSON; the API's tests check the strict side."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.domain.errors import BadPayload
from bridge.domain.strict_json import DEPTH_MAX, INT_DIGITS_MAX, parse_json

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  \n",
        b"<html>busy</html>",
        b"{",
        b'{"a": 1} {"b": 2}',
        b"{'a': 1}",
        b"[" + b"9" * (INT_DIGITS_MAX + 1) + b"]",
        b'"\xff"',
        '"utf-16"'.encode("utf-16"),
        b"[" * 200_000,
        b"[" * 200_000 + b"]" * 200_000,
        b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
        b"[" * (DEPTH_MAX + 1) + b"]" * (DEPTH_MAX + 1),
    ],
    ids=lambda body: repr(body[:12]),
)
def test_what_is_no_strict_json_is_a_bad_payload_and_never_another_error(body):
    with pytest.raises(BadPayload):
        parse_json(body)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        (b'{"a": 1, "a": 2}', {"a": 2}),
        (b'{"a": NaN, "b": [Infinity, -Infinity, 1e999, -1e999]}', {"a": None, "b": [None] * 4}),
        (b'"raw \x00 nul, \n newline"', "raw \ufffd nul, \n newline"),
        (b'["\\ud800", "\\udc00x", "a\\u0000b"]', ["\ufffd", "\ufffdx", "a\ufffdb"]),
        (b'{"\\u0000": {"\\ud83d": 1}}', {"\ufffd": {"\ufffd": 1}}),
        (b'"\\ud83d\\ude00"', "😀"),
        (b"[1765912514238248673]", [1765912514238248673]),
        (b"1" + b"0" * 30, 10**30),
        (b"9" * INT_DIGITS_MAX, 10**INT_DIGITS_MAX - 1),
        (b"[" * DEPTH_MAX + b"]" * DEPTH_MAX, json.loads("[" * DEPTH_MAX + "]" * DEPTH_MAX)),
    ],
    ids=lambda value: repr(value)[:12],
)
def test_odd_but_usable_json_is_taken(body, value):
    assert parse_json(body) == value


@pytest.mark.slow
@given(ANY_JSON)
def test_what_comes_out_can_be_stored_as_utf8_json_without_nul(value):
    taken = parse_json(json.dumps(value).encode())
    text = json.dumps(taken, ensure_ascii=False, allow_nan=False)
    text.encode()
    assert "\\u0000" not in text


@given(st.binary())
def test_arbitrary_bytes_are_a_value_or_a_bad_payload(data):
    try:
        taken = parse_json(data)
    except BadPayload as error:
        taken = str(error)
    assert json.loads(json.dumps(taken, allow_nan=False)) == taken
