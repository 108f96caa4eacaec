"""Custom headers of an endpoint: which may be set, and which are ours.

The config file and the API both check here, so they never disagree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from bridge.domain.errors import Problem

NAME_CHARACTERS_MAX = 256
VALUE_CHARACTERS_MAX = 4096  # half of what common servers accept for all headers together
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)  # RFC 9110 §5.6.2
_VALUE = re.compile(r"[\x20-\x7e]*", re.ASCII)
_HOP_BY_HOP = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
_OURS = {
    "accept",
    "accept-encoding",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "user-agent",
}
_RESERVED_PREFIXES = ("proxy-", "webhook-")


def check_headers(headers: Mapping[str, str]) -> list[Problem]:
    """The problems of `headers`, each named by its header; never shows a value."""
    seen: set[str] = set()
    problems: list[Problem] = []
    for name, value in headers.items():
        problems.extend(Problem(name, message) for message in _faults(name, value, seen))
        seen.add(name.lower())
    return problems


def _faults(name: str, value: str, seen: set[str]) -> Iterator[str]:
    lower = name.lower()
    if not _TOKEN.fullmatch(name):
        yield "not a header name; use letters, digits and dashes"
    elif len(name) > NAME_CHARACTERS_MAX:
        yield f"a header name may be at most {NAME_CHARACTERS_MAX} characters long"
    elif lower in _HOP_BY_HOP:
        yield "belongs to the HTTP connection and cannot be set; leave it out"
    elif lower in _OURS or lower.startswith(_RESERVED_PREFIXES):
        yield "is set by the bridge and cannot be set by hand; leave it out"
    elif lower in seen:
        yield "given twice in different spelling; header names ignore case"
    if not _VALUE.fullmatch(value):
        yield "the value may hold printable ASCII only"
    elif len(value) > VALUE_CHARACTERS_MAX:
        yield f"the value may be at most {VALUE_CHARACTERS_MAX} characters long"
