"""Where the keys of a TOML file stand: the line of each, which the parser does not tell."""

from __future__ import annotations

import re
from typing import Final

from bridge.definitions.schema import At

_HEADER: Final = re.compile(r"\s*(\[\[?)([^\[\]]+?)\]\]?\s*(?:#.*)?")
_KEY: Final = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
_PART: Final = re.compile(r"""[\w-]+|"[^"]*"|'[^']*'""")
_TOKEN: Final = re.compile(r'"""|\'\'\'|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'|#[^\n]*|[\[\]{}]')


def lines_of(text: str) -> dict[At, int]:
    """The line, from 1, of each table and key; keys inside one value have the line of that value."""
    found: dict[At, int] = {}
    table: At = ()
    counts: dict[At, int] = {}
    depth, closing = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        if not depth and not closing:
            if header := _HEADER.fullmatch(line):
                table = _resolved(_parts(header[2]), counts, is_item=header[1] == "[[")
                found.setdefault(table, number)
                continue
            if key := _KEY.match(line):
                at = table
                for part in _parts(key[1]):
                    at = (*at, part)
                    found.setdefault(at, number)
                line = line[key.end() :]  # noqa: PLW2901 - the rest is the value
        depth, closing = _after(line, depth, closing)
    return found


def line_at(lines: dict[At, int], at: At) -> int | None:
    """The line of a key, or of the nearest one around it."""
    while at and at not in lines:
        at = at[:-1]
    return lines.get(at)


def _parts(text: str) -> list[str]:
    return [part.strip("\"'") for part in _PART.findall(text)]


def _resolved(parts: list[str], counts: dict[At, int], *, is_item: bool) -> At:
    """The path of a table header; a list of tables is entered at its last item."""
    at: At = ()
    for part in parts:
        at = (*at, part)
        if at in counts and (part is not parts[-1] or not is_item):
            at = (*at, counts[at] - 1)
    if is_item:
        counts[at] = counts.get(at, 0) + 1
        at = (*at, counts[at] - 1)
    return at


def _after(line: str, depth: int, closing: str) -> tuple[int, str]:
    """Bracket depth and open multi-line quotes after a line."""
    position = 0
    while position < len(line):
        if closing:
            end = line.find(closing, position)
            if end < 0:
                return depth, closing
            position, closing = end + 3, ""
            continue
        token = _TOKEN.search(line, position)
        if token is None:
            break
        position = token.end()
        match token[0]:
            case '"""' | "'''" as quotes:
                closing = quotes
            case "[" | "{":
                depth += 1
            case "]" | "}":
                depth -= 1
    return max(depth, 0), closing
