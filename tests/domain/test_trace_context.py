"""W3C Trace Context, by the cases of the standard."""

from __future__ import annotations

import pytest

from bridge.domain.trace_context import TraceContext, trace_headers

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{SPAN}-01"


def test_a_context_is_passed_on_as_it_was_given() -> None:
    context = TraceContext.of([GIVEN], ["rojo=00f067aa0ba902b7", "congo=t61rcWkgMzE"])
    assert context is not None
    assert context.is_sampled
    assert trace_headers(str(context)) == {
        "traceparent": GIVEN,
        "tracestate": "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
    }


def test_a_later_version_is_read_as_far_as_it_is_known_and_passed_on_as_ours() -> None:
    context = TraceContext.of([f"01-{TRACE}-{SPAN}-03-more"])
    assert context is not None
    assert trace_headers(str(context)) == {"traceparent": GIVEN}


@pytest.mark.parametrize(
    "given",
    [
        [],
        [GIVEN, GIVEN],
        [""],
        [GIVEN.upper()],
        [f"ff-{TRACE}-{SPAN}-01"],
        [f"00-{TRACE}-{SPAN}-01-more"],
        [f"00-{'0' * 32}-{SPAN}-01"],
        [f"00-{TRACE}-{'0' * 16}-01"],
        [f"00-{TRACE}-{SPAN}"],
    ],
)
def test_what_cannot_be_read_is_ignored(given: list[str]) -> None:
    """The header comes from a library: a run is not refused for it."""
    assert TraceContext.of(given, ["a=1"]) is None


@pytest.mark.parametrize("state", ["no member", "a=1,no member", "a=\u00e9", "a=1\r\nx: y", "a=" + "x" * 600])
def test_a_state_that_cannot_be_read_is_left_out(state: str) -> None:
    context = TraceContext.of([GIVEN], [state])
    assert context is not None
    assert trace_headers(str(context)) == {"traceparent": GIVEN}
