"""Read what can be read of a run's body that is too large, nested too deep, or broken in one place.

The body is split, as it arrives, into the members that the provider reads; each is parsed by itself, so that one bad
member spoils only itself. Everything else is skipped without being kept: memory stays bounded whatever is sent.
"""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from bridge.domain.errors import BadPayload
from bridge.domain.frozen import replaced
from bridge.domain.observation import Observation
from bridge.domain.run import Json, RunError, RunStatus
from bridge.domain.strict_json import parse_json_text

_WITHOUT_SUCCESS: Final = frozenset({RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.PARTIAL})
OUTPUT_BYTES_MAX: Final = 8 * 1024 * 1024
VALUE_BYTES_MAX: Final = 64 * 1024  # of any other member
_KEY_BYTES_MAX: Final = 256  # a longer key is none that a provider reads
_MEMBERS_MAX: Final = 10_000  # bounds the time: a member costs up to 50 µs
_WINDOW_BYTES_MIN, _WINDOW_BYTES_MAX = 64, 4096  # skipped at once; grows, because most values are short
_STRING: Final = re.compile(rb'"(?:[^"\\]+|\\.)*+"', re.DOTALL)
_STRING_REST: Final = re.compile(rb'(?:[^"\\]+|\\.)*+', re.DOTALL)
_STRING_OR_BRACKET: Final = re.compile(rb'"(?:[^"\\]+|\\.)*+"?|[][{}]', re.DOTALL)
_MARK: Final = re.compile(rb'["{}\[\],:]')
_BRACKETS: Final = b"[]{}"
_NO_BRACKETS: Final = bytes(set(range(256)) - set(_BRACKETS))
_DELTAS: Final = bytes.maketrans(_BRACKETS, b"\x01\xff\x01\xff")  # as signed bytes: +1 and -1
_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class RunFields:
    """The members of a run that a provider reads: `output` up to 8 MiB, `error` and the others up to 64 KiB.

    `nested`: members that are objects; those of their own members that are in `names` are read. `items`: a list of
    runs, each read by itself; a body with one is not read beyond 8 MiB.
    """

    names: frozenset[str]
    output: str | None = None
    error: str | None = None
    nested: frozenset[str] = frozenset()
    items: str | None = None


class RunScanner:
    """Splits one JSON object, fed in pieces of UTF-8, into the members that `fields` name.

    `members` has those found so far, None where one cannot be kept; `damaged` names those that were not kept or hold
    bytes that are not UTF-8. The last of duplicate keys counts. `is_closed`: the object has ended. Raises BadPayload
    if the body is not an object, or has too many members.
    """

    def __init__(self, fields: RunFields) -> None:
        self.members: dict[str, Json] = {}
        self.damaged: set[str] = set()
        self.is_closed = False
        self._has_ended = False
        self._fields = fields
        self._carry = b""  # a backslash whose character is in the next piece
        self._depth = 0
        self._objects: list[dict[str, Json]] = []  # the open objects whose members are read, the innermost last
        self._in_string = False
        self._window_bytes = _WINDOW_BYTES_MIN
        self._key: str | None = None
        self._is_value = False  # after the colon
        self._kept: bytearray | None = bytearray()
        self._room = _KEY_BYTES_MAX
        self._count = 0
        self._in_items = False

    def feed(self, piece: bytes) -> None:
        """Read the next piece of the body. Anything behind the object is ignored, except a second object."""
        if self.is_closed:
            self._end(piece)
            return
        piece = self._carry + piece
        backslashes = len(piece) - len(piece.rstrip(b"\\"))
        self._carry = b"\\" if backslashes % 2 else b""
        end = len(piece) - backslashes % 2
        position = 0 if self._objects else self._open(piece[:end])
        while position < end and not self.is_closed:
            if self._in_string:
                position = self._string(piece, position, end)
            elif self._depth > len(self._objects):
                position = self._skip(piece, position, end)
            else:
                position = self._member(piece, position, end)
        if not self._objects:
            self._end(piece[position:])

    def _open(self, piece: bytes) -> int:
        if len(piece) < len(_BOM) and _BOM.startswith(piece):
            self._carry = piece
            return len(piece)
        start = piece.removeprefix(_BOM).lstrip()
        if not start:
            return len(piece)
        if not start.startswith(b"{"):
            raise BadPayload("the answer is not a JSON object")
        self._depth = 1
        self._objects.append(self.members)
        return len(piece) - len(start) + 1

    def _end(self, rest: bytes) -> None:
        first = rest.lstrip()[:1]
        if first == b"{" and not self._has_ended:
            raise BadPayload("the answer is more than one JSON object")
        self._has_ended = self._has_ended or bool(first)

    def _string(self, piece: bytes, position: int, end: int) -> int:
        rest = _STRING_REST.match(piece, position, end)
        stop = rest.end() if rest else position
        self._in_string = stop == end
        stop = min(stop + 1, end)
        self._keep(piece[position:stop])
        return stop

    def _skip(self, piece: bytes, position: int, end: int) -> int:
        """Pass over a window inside a value, up to the bracket that ends the value."""
        window = piece[position : min(position + self._window_bytes, end)]
        window = window[: len(window) - (len(window) - len(window.rstrip(b"\\"))) % 2] or piece[position:end]
        outside = _STRING.sub(b"", window + b'"')  # the added quote ends a string that goes on, and else is left over
        deltas = array("b", outside.translate(_DELTAS, _NO_BRACKETS))
        if self._depth + min(accumulate(deltas), default=0) > len(self._objects):
            self._depth += sum(deltas)
            self._window_bytes = min(2 * self._window_bytes, _WINDOW_BYTES_MAX)
            self._in_string = not outside.endswith(b'"')
            self._keep(window)
            return position + len(window)
        for token in _STRING_OR_BRACKET.finditer(window):
            match token[0]:
                case b"{" | b"[":
                    self._depth += 1
                case b"}" | b"]":
                    self._depth -= 1
            if self._depth == len(self._objects):
                self._keep(window[: token.end()])
                return position + token.end()
        raise AssertionError("the value ends in this window")

    def _member(self, piece: bytes, position: int, end: int) -> int:
        """Pass over one mark between the keys and values of the innermost object that is read."""
        mark = _MARK.search(piece, position, end)
        self._keep(piece[position : mark.start() if mark else end])
        if mark is None:
            return end
        match mark[0]:
            case b'"':
                self._keep(b'"')
                self._in_string = True
            case b":":
                self._begin_value()
            case b"{" if self._is_value and self._key in self._fields.nested and len(self._objects) == 1:
                self._depth += 1
                inner: dict[str, Json] = {}
                self._objects[-1][str(self._key)] = inner
                self._objects.append(inner)
                self._begin_key()
            case b"[" if self._is_value and self._key == self._fields.items and len(self._objects) == 1:
                self._depth += 1
                self._objects.append({})
                self._in_items = True
                self._begin_item()
            case b"{" | b"[":
                self._keep(mark[0])
                self._depth += 1
                self._window_bytes = _WINDOW_BYTES_MIN
            case b",":
                self._end_value()
            case _:
                self._end_value()
                self._depth -= 1
                inner = self._objects.pop()
                self.is_closed = not self._objects
                if self._in_items:
                    self._in_items = False
                    self.members[str(self._fields.items)] = list(inner.values())
                    self._begin_key()
        return mark.end()

    def _begin_item(self) -> None:
        self._count_one()
        self._key, self._is_value = str(self._count), True
        self._kept, self._room = bytearray(), OUTPUT_BYTES_MAX

    def _begin_key(self) -> None:
        self._key, self._is_value = None, False
        self._kept, self._room = bytearray(), _KEY_BYTES_MAX

    def _begin_value(self) -> None:
        if self._is_value:
            return  # a colon in the wrong place: the value will not parse
        self._count_one()
        self._key, self._is_value = _text_in(self._kept), True
        is_read = self._key in self._fields.names or self._key in self._fields.nested
        is_output = self._key == self._fields.output and len(self._objects) == 1
        self._kept = bytearray() if is_read or is_output else None
        self._room = OUTPUT_BYTES_MAX if is_output else VALUE_BYTES_MAX

    def _count_one(self) -> None:
        self._count += 1
        if self._count > _MEMBERS_MAX:
            raise BadPayload(f"the answer has more than {_MEMBERS_MAX} members")

    def _keep(self, part: bytes) -> None:
        if self._kept is None:
            return
        self._room -= len(part)
        if self._room >= 0:
            self._kept += part
            return
        self._kept = None
        if self._is_value:
            self._put(None, is_damaged=True)

    def _end_value(self) -> None:
        if self._is_value and self._kept is not None and self._kept.strip():
            raw = bytes(self._kept)
            text = raw.decode(errors="replace")
            try:
                value, is_damaged = parse_json_text(text), text.encode() != raw
            except BadPayload:
                value, is_damaged = None, True
            self._put(_id_only(raw) if is_damaged and self._in_items else value, is_damaged=is_damaged)
        if self._in_items:
            self._begin_item()
        else:
            self._begin_key()

    def _put(self, value: Json, *, is_damaged: bool) -> None:
        if self._key is None:
            return
        self._objects[-1][self._key] = value
        if is_damaged:
            self.damaged.add(self._key)
        else:
            self.damaged.discard(self._key)


def _text_in(raw: bytearray | None) -> str | None:
    try:
        text = parse_json_text(raw.decode()) if raw else None
    except (BadPayload, UnicodeDecodeError):
        return None
    return text if isinstance(text, str) else None


def _id_only(raw: bytes) -> Json:
    """The readable rest of a damaged item of a list: its id, so that the run can be polled."""
    scanner = RunScanner(RunFields(frozenset({"id"})))
    try:
        scanner.feed(raw)
    except BadPayload:
        return None
    return scanner.members


def without_damage(seen: Observation, damaged: frozenset[str], fields: RunFields) -> Observation:
    """The observation without what could not be read whole; a settled run says which part that was."""
    if fields.output in damaged:
        seen = replaced(seen, output=None, output_truncated=True, output_is_elsewhere=False)
    if fields.error in damaged and seen.error is None and seen.status in _WITHOUT_SUCCESS:
        seen = replaced(seen, error=RunError("the provider's error text is too large or cannot be read"))
    return seen
