from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from bridge.providers.retry_after import PAUSE_MAX_S, requested_pause_s

NOW_S = 1_800_000_000
DATE = {"Date": formatdate(NOW_S, usegmt=True)}


@pytest.mark.parametrize(
    ("headers", "pause_s"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": " 1.5 "}, 1.5),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "86400"}, PAUSE_MAX_S),
        ({"Retry-After": formatdate(NOW_S + 90, usegmt=True)}, 90.0),
        ({"Retry-After": formatdate(NOW_S + 10**6, usegmt=True)}, PAUSE_MAX_S),
        ({"Retry-After": formatdate(NOW_S - 90, usegmt=True)}, None),
        ({"Retry-After": "-3"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "1e9"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "٣"}, None),
        ({"Retry-After": "9" * 400}, None),
        ({"Retry-After": ""}, None),
        ({"retry-after-ms": "250", "Retry-After": "9"}, 0.25),
        ({"openai-poll-after-ms": "5000"}, 5.0),
        ({"openai-poll-after-ms": "never", "Retry-After": "2"}, 2.0),
        ({"x-ratelimit-reset": str(NOW_S + 30)}, 30.0),
        ({"x-ratelimit-reset": str((NOW_S + 30) * 1000)}, 30.0),
        ({"x-ratelimit-reset": "12"}, 12.0),
        ({"x-ratelimit-reset": str(NOW_S - 5)}, None),
        ({"x-ratelimit-reset": str(NOW_S + 30), "Retry-After": "3"}, 3.0),
    ],
    ids=str,
)
def test_a_pause_is_read_in_every_spelling_and_rubbish_is_ignored(headers, pause_s):
    """Instants are held against the answer's own Date, whatever our clock says."""
    assert requested_pause_s(CIMultiDict(DATE | headers), with_quota=True) == pause_s


def test_a_quota_reset_is_no_pause_unless_the_quota_is_the_reason():
    """Many APIs send x-ratelimit-reset with every answer."""
    assert requested_pause_s(CIMultiDict({"x-ratelimit-reset": "60"})) is None


@given(st.dictionaries(st.sampled_from(["Retry-After", "retry-after-ms", "x-ratelimit-reset", "Date"]), st.text()))
def test_any_header_text_gives_a_pause_within_bounds_or_none(headers):
    pause_s = requested_pause_s(CIMultiDict(headers), with_quota=True)
    assert pause_s is None or 0 <= pause_s <= PAUSE_MAX_S
