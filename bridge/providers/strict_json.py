"""Takes foreign JSON in: strictly, bounded, and never with another error than `BadPayload`."""

from __future__ import annotations

import json
import math
import re
from typing import Final, NoReturn, cast

from bridge.domain.errors import BridgeError
from bridge.domain.run import Json

DEPTH_MAX: Final = 100
_BOM: Final = "\ufeff"
INT_DIGITS_MAX: Final = 4300  # what Python itself converts without complaint, in and out
_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")  # NUL and lone surrogates: no database or UTF-8 text takes them


class BadPayload(BridgeError):
    """The answer is not what the provider's documentation promises; the text says in which way."""


def parse_json(data: bytes) -> Json:
    """The value in a UTF-8 body, a leading BOM allowed; BadPayload for everything `parse_json_text` refuses."""
    try:
        text = data.decode().removeprefix(_BOM)
    except UnicodeDecodeError:
        raise BadPayload("the body is not UTF-8") from None
    return parse_json_text(text)


def parse_json_text(text: str) -> Json:
    """The value in a JSON text.

    NUL and lone surrogates in strings become U+FFFD, the last of duplicate keys wins. BadPayload for NaN,
    infinities, numbers beyond a double, integers over 4300 digits, more than 100 levels, and no JSON at all.
    """
    if not text.strip():
        raise BadPayload("the body is empty")
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise BadPayload(f"the JSON is nested deeper than {DEPTH_MAX} levels") from None
    except json.JSONDecodeError as error:
        raise BadPayload(f"the body is not JSON (line {error.lineno}, column {error.colno})") from None
    # most bodies need no walk: only an escape can make an unstorable character, only many brackets a deep nest
    needs_walk = "\\u" in text or text.count("[") + text.count("{") > DEPTH_MAX
    return _cleaned(value, 0) if needs_walk else cast("Json", value)


def _refuse_constant(word: str) -> NoReturn:
    raise BadPayload(f"the JSON holds {word}")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise BadPayload("the JSON holds a number that is too large")
    return number


def _integer(text: str) -> int:
    if len(text) > INT_DIGITS_MAX:
        raise BadPayload(f"the JSON holds an integer of more than {INT_DIGITS_MAX} digits")
    return int(text)


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite, parse_int=_integer)


def _cleaned(value: object, depth: int) -> Json:
    match value:
        case str():
            return _UNSTORABLE.sub("\ufffd", value)
        case dict() | list() if depth >= DEPTH_MAX:
            raise BadPayload(f"the JSON is nested deeper than {DEPTH_MAX} levels")
        case dict():
            return {_UNSTORABLE.sub("\ufffd", key): _cleaned(item, depth + 1) for key, item in value.items()}
        case list():
            return [_cleaned(item, depth + 1) for item in value]
        case _:
            return cast("Json", value)
