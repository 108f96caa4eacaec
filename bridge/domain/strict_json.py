"""Read JSON strictly: bounded in depth and numbers, and with no error but `NotJson` or `BadPayload`.

Requests are refused where two readers could understand them differently; a provider's answer is mended where that
is harmless.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Final, cast

from bridge.domain.errors import BadPayload, BridgeError, InvalidInput, NotJson, Problem
from bridge.domain.run import Json
from bridge.domain.suggestions import dotted

DEPTH_MAX: Final = 100
INT_DIGITS_MAX: Final = 4300  # what Python itself converts without complaint, in and out
_BOM: Final = "\ufeff"
_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")  # NUL and lone surrogates: no database or UTF-8 text takes them


class JsonReader:
    """Reads JSON under one policy and raises `error` for what is not JSON.

    Both policies refuse integers over 4300 digits and more than 100 levels. A lenient reader drops a byte order mark,
    allows control characters in strings, keeps the last of duplicate keys, replaces NUL and lone surrogates with
    U+FFFD, and reads NaN, infinities and numbers beyond a double as null. A strict one refuses all of these;
    unstorable characters with `InvalidInput`, which names the field.
    """

    def __init__(self, error: type[BridgeError], *, is_lenient: bool) -> None:
        self._error = error
        self._is_lenient = is_lenient
        self._decoder = json.JSONDecoder(  # made once: `json.loads` would make one for every body
            object_pairs_hook=None if is_lenient else self._object,
            parse_constant=self._constant,
            parse_float=self._float,
            strict=not is_lenient,
        )

    def read(self, data: bytes) -> Json:
        """The value in a UTF-8 body."""
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise self._error("the body is not UTF-8") from None
        if text.startswith(_BOM) and not self._is_lenient:
            raise self._error("the body is not JSON: it begins with a byte order mark")
        return self.read_text(text.removeprefix(_BOM))

    def read_text(self, text: str) -> Json:
        """The value in a text."""
        try:
            value = self._decoder.decode(text)
        except RecursionError:
            raise self._error(f"the JSON is nested deeper than {DEPTH_MAX} levels") from None
        except json.JSONDecodeError as error:
            if not text.strip():
                raise self._error("the body is empty") from None
            where = f"line {error.lineno}, column {error.colno}"
            raise self._error(f"the body is not JSON: {error.msg} ({where})") from None
        except ValueError:  # from `int`
            raise self._error(f"the JSON holds an integer of more than {INT_DIGITS_MAX} digits") from None
        # Most bodies need no walk: only many brackets make a deep nest, only an escape an unstorable character.
        if text.count("[") + text.count("{") > DEPTH_MAX and _is_too_deep(value):
            raise self._error(f"the JSON is nested deeper than {DEPTH_MAX} levels")
        return self._storable(value, []) if "\\u" in text or "\0" in text else cast("Json", value)

    def _object(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
            raise self._error(f"the key {json.dumps(twice)[:200]} stands twice in one object")
        return found

    def _constant(self, word: str) -> None:
        if not self._is_lenient:
            raise self._error(f"the JSON holds {word}, which is not a JSON number")

    def _float(self, text: str) -> float | None:
        number = float(text)
        if not math.isinf(number):
            return number
        if not self._is_lenient:
            raise self._error("the JSON holds a number that is too large")
        return None

    def _storable(self, value: object, path: list[str | int]) -> Json:
        match value:
            case str():
                return self._storable_text(value, path, "holds")
            case dict():
                return {
                    self._storable_text(key, path, "a key holds"): self._storable(item, [*path, key])
                    for key, item in value.items()
                }
            case list():
                return [self._storable(item, [*path, number]) for number, item in enumerate(value)]
            case _:
                return cast("Json", value)

    def _storable_text(self, text: str, path: list[str | int], what: str) -> str:
        if not self._is_lenient and _UNSTORABLE.search(text):
            message = f"{what} a NUL character or half a surrogate pair"
            raise InvalidInput([Problem(dotted(path) or "(body)", message)])
        return _UNSTORABLE.sub("\ufffd", text)


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


_PROVIDERS: Final = JsonReader(BadPayload, is_lenient=True)
parse_json = _PROVIDERS.read
parse_json_text = _PROVIDERS.read_text
parse_request = JsonReader(NotJson, is_lenient=False).read
