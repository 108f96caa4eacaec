"""`runbridge verify`: check the signature of a received webhook, and explain a mismatch."""

from __future__ import annotations

import contextlib
import hmac
import json
import math
import re
import sys
import time
from collections.abc import Iterator
from itertools import chain, islice, product
from pathlib import Path
from typing import Final

import click

from bridge.cli.options import DurationText, Settings, json_option, pass_settings, read_keys, secret_options
from bridge.cli.output import mark, print_value, rough, say
from bridge.domain.signing import hmac_v1

REQUIRED_HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")
PIECES_MAX: Final = 2_000_000  # of rewritten bodies, for all guesses together; about two seconds
_LARGE_INTEGER = re.compile(rb"[\[:,]\s*-?[0-9]{16,}\s*[,\]}]")
_NUMBER_KEY = re.compile(rb"[{,]\s*\"(?:0|[1-9][0-9]{0,9})\"\s*:")
_EXPONENT = re.compile(r"e\+?(-?)0?([0-9]+)$")
_FILE = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)


@click.command
@secret_options
@click.option(
    "--headers",
    "headers_file",
    metavar="FILE",
    type=_FILE,
    required=True,
    help="Lines `name: value`, or a JSON object.",
)
@click.option(
    "--body", "body_file", metavar="FILE", type=_FILE, required=True, help="The body, byte for byte as received."
)
@click.option("--tolerance", type=DurationText(), default="5m", show_default=True, help="Allowed age, or lead, of it.")
@json_option
@pass_settings
def verify(
    settings: Settings,
    secret: str | None,
    secret_file: Path | None,
    headers_file: Path,
    body_file: Path,
    tolerance: float,
) -> int:
    """Check the signature of a received webhook; exit 1, with the reason, if it does not match. A FILE may be -."""
    keys = read_keys(secret, secret_file)
    if not keys:
        raise click.UsageError("give the endpoint's secret with --secret-file or --secret")
    headers = read_headers(_read(headers_file).decode(errors="replace"))
    reasons = find_faults(keys, headers, _read(body_file), now=int(time.time()), tolerance_s=int(tolerance))
    if settings.as_json:
        print_value({"verified": not reasons, "reasons": reasons})
    elif not reasons:
        say(mark(is_good=True), headers["webhook-id"], "is genuine")
    for reason in [] if settings.as_json else reasons:
        say(mark(is_good=False), reason)
    return 1 if reasons else 0


def find_faults(keys: list[bytes], headers: dict[str, str], body: bytes, *, now: int, tolerance_s: int) -> list[str]:
    """Return every reason not to trust this webhook; [] if it is genuine. `headers` have lower-case names."""
    if missing := [name for name in REQUIRED_HEADERS if not headers.get(name)]:
        return [f"the header {name} is missing" for name in missing]
    message_id, stamp = headers["webhook-id"], headers["webhook-timestamp"]
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) < 16):
        return ["webhook-timestamp is not a number of Unix seconds"]
    faults = []
    off_s = now - int(stamp)
    if abs(off_s) > tolerance_s:
        direction = "old" if off_s > 0 else "in the future"
        faults.append(
            f"the timestamp is off by {abs(off_s)} s ({rough(abs(off_s))} {direction}; {tolerance_s} s are allowed)"
        )
    given = [entry for entry in headers["webhook-signature"].split() if entry.startswith("v1,")]
    if not given:
        faults.append("webhook-signature holds no v1 signature")
    elif not _is_signed(keys, message_id, int(stamp), body, given):
        faults.append(_explain_mismatch(keys, message_id, int(stamp), body, given))
    return faults


def _is_signed(keys: list[bytes], message_id: str, stamp: int, body: bytes, given: list[str]) -> bool:
    expected = [hmac_v1.sign(key, message_id, stamp, body).encode() for key in keys]
    return any(hmac.compare_digest(one, other.encode()) for one in expected for other in given)


def _explain_mismatch(keys: list[bytes], message_id: str, stamp: int, body: bytes, given: list[str]) -> str:
    """Try the usual changes of a body between socket and file."""
    for variant, change in _variants(body):
        if variant != body and _is_signed(keys, message_id, stamp, variant, given):
            return f"no signature matches this body, but one does {change}: keep the body byte for byte"
    rounded = "; JavaScript rounds its integers above 2^53" if _LARGE_INTEGER.search(body) else ""
    rounded += "; JavaScript moves its keys that are numbers to the front" if _NUMBER_KEY.search(body) else ""
    return f"no signature matches ({len(given)} tried): another secret, or the body was changed{rounded}"


def _variants(body: bytes) -> Iterator[tuple[bytes, str]]:
    yield body.rstrip(b"\r\n"), "without the line break at its end"
    yield body.replace(b"\r\n", b"\n"), "with plain line breaks"
    for encoding in ("latin-1", "cp1252"):
        with contextlib.suppress(UnicodeError):
            yield body.decode().encode(encoding), f"in UTF-8 (it was read as {encoding})"
    try:
        value = json.loads(body, parse_int=_Number, parse_float=_Number)
        pieces = list(_pieces(value, key=None))
    except (ValueError, RecursionError):
        return
    for by_key in (True, False):
        yield from _rewritten(pieces, by_key=by_key)


class _Number(str):
    """A JSON number as the body spells it."""

    __slots__ = ()


def _pieces(value: object, *, key: str | None) -> Iterator[tuple[str | None, tuple[str, ...]]]:
    """Yield the compact JSON of `value` in pieces: the possible original texts of each, and the key it stands under.

    Only numbers in an output or in metadata have more than one possible text; `key` is None elsewhere.
    """
    match value:
        case _Number():
            yield key, _spellings(value) if key is not None else (value,)
        case dict():
            for number, (name, item) in enumerate(value.items()):
                yield None, (f"{',' if number else '{'}{json.dumps(name, ensure_ascii=False)}:",)
                yield from _pieces(item, key=name if key is not None or name in ("output", "metadata") else None)
            yield None, ("}" if value else "{}",)
        case list():
            for number, item in enumerate(value):
                yield None, ("," if number else "[",)
                yield from _pieces(item, key=key)
            yield None, ("]" if value else "[]",)
        case _:
            yield None, (json.dumps(value, ensure_ascii=False),)


def _spellings(text: str) -> tuple[str, ...]:
    """The numbers in an event that JavaScript or Python writes as `text`: for `1` also `1.0`, for `1e-07` also `1e-7`."""
    number = float(text)
    if not math.isfinite(number):
        return (text,)
    integer = [str(int(number))] if "e" in text and number.is_integer() else []
    short = _EXPONENT.sub(r"e\1\2", repr(number))
    return tuple(dict.fromkeys([text, repr(number), short, *integer, *(["-0.0"] if text == "0" else [])]))


def _rewritten(pieces: list[tuple[str | None, tuple[str, ...]]], *, by_key: bool) -> Iterator[tuple[bytes, str]]:
    """Undo JSON.parse and JSON.stringify, which change the spelling of numbers, as far as PIECES_MAX allows.

    With `by_key`, numbers under the same key share a kind of spelling; otherwise each has its own.
    """
    groups = {index: key if by_key else index for index, (key, texts) in enumerate(pieces) if len(texts) > 1}
    kinds: dict[str | int | None, int] = {}
    for index, group in groups.items():
        kinds[group] = max(kinds.get(group, 0), len(pieces[index][1]))
    guesses = chain([(1,) * len(kinds)], product(*map(range, kinds.values())))
    for chosen in islice(guesses, max(PIECES_MAX // len(pieces), 2)):
        kind_of = dict(zip(kinds, chosen, strict=True))
        text, changes = [], dict[str, None]()
        for index, (_, texts) in enumerate(pieces):
            kind = kind_of[groups[index]] if index in groups else 0
            text.append(texts[min(kind, len(texts) - 1)])
            if text[-1] != texts[0]:
                changes[f"{text[-1]} for {texts[0]}"] = None
        change = f" with {', '.join(islice(changes, 3))}" if changes else ""
        yield "".join(text).encode(errors="replace"), f"as compact JSON{change} (it was parsed and rewritten)"


def read_headers(text: str) -> dict[str, str]:
    """Parse `name: value` lines, skipping a status line, or a JSON object; names in lower case."""
    if text.lstrip().startswith("{"):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            raise click.UsageError("--headers begins like a JSON object but is not valid JSON") from None
        return {str(name).lower(): str(value).strip() for name, value in found.items()}
    lines = (line.lstrip("<> ").partition(":") for line in text.splitlines())
    return {name.strip().lower(): value.strip() for name, colon, value in lines if colon and name.strip()}


def _read(path: Path) -> bytes:
    return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
