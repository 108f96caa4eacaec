"""Takes a client's JSON in, strictly: what two readers could understand differently is refused."""

from __future__ import annotations

import json
import math
import re
from typing import NoReturn, cast

from bridge.domain.errors import BridgeError, InvalidInput, Problem
from bridge.domain.run import Json
from bridge.domain.suggestions import dotted

DEPTH_MAX = 100
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")  # no database and no UTF-8 text takes them all


class NotJson(BridgeError):
    """The body is not JSON that everybody reads alike."""


def parse_json(data: bytes) -> Json:
    """The value in a UTF-8 body.

    NotJson for no JSON at all, NaN, infinities, numbers beyond a double, keys given twice and more than
    100 levels; InvalidInput for NUL and lone surrogates, which can only stand in a field's text.
    """
    try:
        text = data.decode()
        if text.startswith("\ufeff"):
            raise NotJson("the body is not JSON: it begins with a byte order mark")
        value = _DECODER.decode(text)
    except UnicodeDecodeError:
        raise NotJson("the body is not UTF-8") from None
    except RecursionError:
        raise NotJson(f"the JSON is nested deeper than {DEPTH_MAX} levels") from None
    except json.JSONDecodeError as error:
        raise NotJson(f"the body is not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    except ValueError:  # Python converts integers of up to 4300 digits only
        raise NotJson("the JSON holds an integer with too many digits") from None
    if "\\u" in text:
        _check(value, [])
    elif text.count("{") + text.count("[") > DEPTH_MAX and _is_too_deep(value):
        raise NotJson(f"the JSON is nested deeper than {DEPTH_MAX} levels")
    return cast("Json", value)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise NotJson(f"the key {json.dumps(twice)[:200]} stands twice in one object")
    return found


def _refuse_constant(word: str) -> NoReturn:
    raise NotJson(f"the JSON holds {word}, which is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise NotJson("the JSON holds a number that is too large")
    return number


# Made once: `json.loads` would make one for every body.
_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse_constant, parse_float=_finite)


def _is_too_deep(value: object) -> bool:
    level = [value]
    for _ in range(DEPTH_MAX):
        level = [
            item
            for one in level
            if isinstance(one, dict | list)
            for item in (one.values() if isinstance(one, dict) else one)
        ]
    return any(isinstance(one, dict | list) for one in level)


def _check(value: object, path: list[str | int]) -> None:
    match value:
        case str():
            if _UNSTORABLE.search(value):
                raise InvalidInput(
                    [Problem(dotted(path) or "(body)", "holds a NUL character or half a surrogate pair")]
                )
        case dict() | list() if len(path) >= DEPTH_MAX:
            raise NotJson(f"the JSON is nested deeper than {DEPTH_MAX} levels")
        case dict():
            for key, item in value.items():
                if _UNSTORABLE.search(key):
                    raise InvalidInput(
                        [Problem(dotted(path) or "(body)", "a key holds a NUL character or half a surrogate")]
                    )
                _check(item, [*path, key])
        case list():
            for number, item in enumerate(value):
                _check(item, [*path, number])
