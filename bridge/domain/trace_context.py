"""W3C Trace Context: the trace that a program gives with a request, and that an endpoint may ask for.

A header that cannot be read is ignored, as the standard asks: it comes from a library, not from a person.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Self

from bridge.domain.frozen import frozen

_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_TRACESTATE: Final = re.compile(r"[ -~\t]{1,512}", re.ASCII)
_SAMPLED: Final = 1


@frozen
class TraceContext:
    """A place in a trace; ids and flags are numbers. `tracestate` is opaque."""

    trace_id: int
    span_id: int
    flags: int
    tracestate: str = ""

    @classmethod
    def of(cls, traceparent: Sequence[str], tracestate: Sequence[str] = ()) -> Self | None:
        """The trace context in the headers of these names; None if none can be read."""
        found = _TRACEPARENT.fullmatch(traceparent[0].strip()) if len(traceparent) == 1 else None
        if found is None or found[1] == "ff" or (found[1] == "00" and found[5]):
            return None
        trace_id, span_id, flags = (int(found[place], 16) for place in (2, 3, 4))
        if not (trace_id and span_id):
            return None
        state = ",".join(tracestate).strip()
        is_readable = _TRACESTATE.fullmatch(state) and all("=" in each for each in state.split(",") if each.strip())
        return cls(trace_id, span_id, flags if found[1] == "00" else flags & _SAMPLED, state if is_readable else "")

    @classmethod
    def of_text(cls, text: str) -> Self | None:
        """The place in the text of `str`."""
        traceparent, _, tracestate = text.partition(" ")
        return cls.of([traceparent], [tracestate])

    def __str__(self) -> str:
        return f"{self.traceparent} {self.tracestate}".rstrip()

    @property
    def traceparent(self) -> str:
        """The header of this name."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{self.flags:02x}"

    @property
    def is_sampled(self) -> bool:
        """Whether the program that gave it records this trace."""
        return bool(self.flags & _SAMPLED)


def trace_headers(text: str) -> dict[str, str]:
    """The headers that pass a stored context on."""
    context = TraceContext.of_text(text)
    if context is None:
        return {}
    state = {"tracestate": context.tracestate} if context.tracestate else {}
    return {"traceparent": context.traceparent, **state}
