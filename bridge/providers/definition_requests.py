"""The requests of a definition: addresses and bodies filled in, hosts that may see the key, pages, pauses."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urljoin, urlsplit

from bridge.definitions.check import hosts_of, is_here, word_text
from bridge.definitions.expressions import Notes, find, is_true
from bridge.domain.definition import METHODS, id_parts, names_in, pieces
from bridge.domain.errors import BadPayload
from bridge.domain.frozen import frozen
from bridge.domain.run import Json
from bridge.domain.timestamps import format_instant, parse_instant
from bridge.providers.definition_reader import instant_of
from bridge.providers.fields import text_of
from bridge.providers.partial_json import RunFields
from bridge.providers.retry_after import PAUSE_MAX_S, requested_pause_s

Query = list[tuple[str, str]]
Rows = list[tuple[str | None, Json]]  # the items of a page, each with its key in a map
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_NEXT_LINK: Final = re.compile(r"<([^>]*)>((?:\s*;\s*[\w*-]+\s*=\s*(?:\"[^\"]*\"|[^\s;,]+))*)")
_REL_NEXT: Final = re.compile(r";\s*rel\s*=\s*(?:\"(?:[^\"]*\s)?next(?:\s[^\"]*)?\"|next\b)", re.IGNORECASE)
_UNITS_S: Final = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


class ForeignHost(BadPayload):
    """An answer names an address that must not be sent the key."""


def allowed_address(tables: Mapping[str, Any], base_url: str, found: str, *, asked: str = "") -> str:
    """The absolute address for one in the answer to `asked`, which it may be relative to.

    Raises ForeignHost unless it is at the host of `base_url` or one of the definition's.
    """
    address = urljoin(urljoin(base_url + "/", asked), found.strip())
    try:
        wanted = urlsplit(address)
        place, own = _place_of(wanted), _place_of(urlsplit(base_url))
    except ValueError:
        raise ForeignHost("the answer names an address that is none") from None
    named = {wanted.hostname if place[2] == 443 else "", f"{wanted.hostname}:{place[2]}"}
    is_other = (wanted.scheme == "https" or is_here(wanted.hostname)) and not named.isdisjoint(hosts_of(tables))
    if wanted.username is not None or not (place == own or is_other):
        raise ForeignHost(f"the answer names an address at {wanted.hostname or 'no host'}, which may not see the key")
    return address


def _place_of(address: SplitResult) -> tuple[str, str | None, int | None]:
    return address.scheme, address.hostname, address.port or _DEFAULT_PORTS.get(address.scheme)


@frozen
class Request:
    """A request as it is sent; `path` begins with a slash, or is a whole address."""

    method: str
    path: str
    query: Query
    body: Json

    @property
    def what(self) -> str:
        """The request as a message names it."""
        return f"{self.method} {self.path[:150]}"


def request_of(
    table: Mapping[str, Any],
    values: Mapping[str, Json],
    kinds: Mapping[str, str],
    page: Mapping[str, Json] | None = None,
    *,
    address: str | None = None,
) -> Request:
    """The request of a table; `address` replaces its own and has the query of that page.

    The parameters of a `page` go into the body of a POST that has one, unless the address or `query` names them.
    A header or query parameter that needs a variable without a value is left out.
    """
    method = next(name for name in METHODS if name in table)
    path, query = fill_address(table[method], values, kinds)
    more = {name: word_text(value) for name, value in table.get("query", {}).items()}
    query += [(name, fill(text, values)) for name, text in more.items() if has_values(text, values)]
    if address is not None:
        path, query = address, []
    body = fill_body(table["body"], values, kinds) if "body" in table else None
    named = {name for name, _ in query}
    for name, value in (page or {}).items():
        if isinstance(body, dict) and name not in named:
            put(body, name.split("."), value)
        else:
            query = [pair for pair in query if pair[0] != name] + [(name, word_text(value))]
    return Request(method.upper(), path, query, body)


def put(body: dict[str, Json], names: list[str], value: Json) -> None:
    """Set the member at a path of names."""
    for name in names[:-1]:
        inner = body.setdefault(name, {})
        body = inner if isinstance(inner, dict) else body
    body[names[-1]] = value


def fill_address(template: str, values: Mapping[str, Any], kinds: Mapping[str, str]) -> tuple[str, Query]:
    """The percent-encoded path (or address) and the query of a template."""
    path, query = _halves(template)
    texts = list(pieces(path))
    for at in range(1, len(texts), 2):
        safe = "/" if kinds.get(texts[at]) == "path" else ""
        texts[at] = quote(str(values[texts[at]]), safe=safe, errors="replace")
    return "".join(texts), [(fill(name, values), fill(value, values)) for name, value in query]


@lru_cache(maxsize=4096)
def _halves(address: str) -> tuple[str, Query]:
    path, _, query = address.partition("?")
    return path, parse_qsl(query, keep_blank_values=True)


def has_values(template: str, values: Mapping[str, Any]) -> bool:
    """Whether every name in a text has a value."""
    return all(values[name] != "" for name in names_in(template))


def fill(template: str, values: Mapping[str, Any]) -> str:
    """A text with its names replaced, by texts as they are."""
    texts = list(pieces(template))
    texts[1::2] = (str(values[name]) for name in texts[1::2])
    return "".join(texts)


def fill_body(template: Json, values: Mapping[str, Json], kinds: Mapping[str, str]) -> Json:
    """A body with its names replaced. A text that is nothing but a name becomes that value: JSON, or a number."""
    match template:
        case str():
            match pieces(template):
                case ("", name, ""):
                    value = values[name]
                    return int(value) if kinds.get(name) == "int" and isinstance(value, str) else value
            return fill(template, values)
        case dict():
            return {fill(name, values): fill_body(inner, values, kinds) for name, inner in template.items()}
        case list():
            return [fill_body(inner, values, kinds) for inner in template]
    return template


@dataclass(frozen=True, slots=True)
class RunId:
    """The parts of a run's id: `provider_run_id` is them in this order, joined by a slash."""

    kinds: Mapping[str, str]
    form: re.Pattern[str]

    @classmethod
    def of(cls, tables: Mapping[str, Any]) -> RunId:
        """Those of a definition. Further slashes are of the part of kind `path`, else of the last one."""
        kinds = id_parts(tables["run"])
        whole = next((name for name, kind in kinds.items() if kind == "path"), [*kinds][-1])
        return cls(kinds, re.compile("/".join("(.*)" if name == whole else "([^/]*)" for name in kinds), re.DOTALL))

    def split(self, provider_run_id: str) -> dict[str, str]:
        """The parts by name. Raises ValueError with a sentence if this is not such an id."""
        found = self.form.fullmatch(provider_run_id)
        if found is None:
            raise ValueError(f"a run id has the form {'/'.join(f'{{{name}}}' for name in self.kinds)}")
        parts = dict(zip(self.kinds, found.groups(), strict=True))
        for name, value in parts.items():
            if problem := _problem_of(self.kinds[name], value):
                raise ValueError(problem if len(parts) == 1 else f"{name}: {problem}")
        return parts

    def in_address(self, run: Mapping[str, Any], base_url: str, address: str) -> str:
        """The run's id in an address that fits [run]. Raises ValueError if it does not fit."""
        template = run.get("get") or run["post"]
        found = self.parts_in(template, urlsplit(base_url).path.rstrip("/"), urlsplit(address).path) or {}
        sent = dict(parse_qsl(urlsplit(address).query))
        for name, text in (*_halves(template)[1], *run.get("query", {}).items()):
            match pieces(word_text(text)):
                case ("", part, "") if part in self.kinds and name in sent:
                    found[part] = sent[name]
        if found.keys() != self.kinds.keys():
            raise ValueError(f"the address {urlsplit(address).path[:100]!r} does not fit {template}")
        joined = self.join(found)
        self.split(joined)
        return joined

    def parts_in(self, template: str, base: str, path: str) -> dict[str, str] | None:
        """The parts of an id in a path that fits the address `template` below `base`; None if it does not fit."""
        patterns = list(map(re.escape, pieces(base + template.partition("?")[0])))
        for at in range(1, len(patterns), 2):
            one = ".+?" if self.kinds.get(patterns[at]) == "path" else "[^/]+?"
            patterns[at] = f"(?P<{patterns[at]}>{one})" if patterns[at] in self.kinds else one
        found = re.fullmatch("".join(patterns) + "/?", path)
        return {name: unquote(value) for name, value in found.groupdict().items()} if found else None

    def join(self, values: Mapping[str, str]) -> str:
        """The id of the parts."""
        return "/".join(values[name] for name in self.kinds)


_UUID: Final = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")


def _problem_of(kind: str, value: str) -> str | None:
    match kind:
        case "int" if not re.fullmatch(r"-?\d{1,40}", value, re.ASCII):
            return "a run id is a whole number here"
        case "uuid" if not _UUID.fullmatch(value):
            return "a run id is a UUID here"
        case "path" if not value.strip("/") or ".." in value.split("/"):
            return "a run id is a path without `..` here"
        case "slug" if not value or value in (".", ".."):
            return "a run id is a name here"
    return None


def pause_s(
    given: Any, headers: Mapping[str, str], body: Json, notes: Notes, *, is_instant: bool = False
) -> float | None:
    """Seconds that are asked for: in the header that `given` names, or where a table with `header` or `path` says.

    `is_instant`: it holds the end of the pause, not its length. It is compared with the answer's own Date.
    """
    given = {"header": given} if isinstance(given, str) else given
    form = given.get("time")
    value: Any = headers.get(given["header"]) if "header" in given else find(given["path"], body, notes, "a pause")
    if is_instant or form in ("iso", "rfc822"):
        instant, date = instant_of(value, form or "iso"), instant_of(headers.get("date"), "rfc822")
        now_s = parse_instant(date).timestamp() if date else time.time()
        seconds = parse_instant(instant).timestamp() - now_s if instant else None
    elif form is None and "header" in given:  # seconds, milliseconds if the name says so, or a date
        as_if = "retry-after-ms" if given["header"].lower().endswith("-ms") else "retry-after"
        return requested_pause_s({as_if: value, "date": headers.get("date", "")}) if value else None
    else:
        try:
            seconds = float(value) * _UNITS_S[form or "s"] if not isinstance(value, bool) else None
        except (TypeError, ValueError):
            return None
    return min(seconds, PAUSE_MAX_S) if seconds is not None and 0 <= seconds < float("inf") else None


@dataclass(frozen=True, slots=True)
class Pages:
    """How a table's `next` leads from page to page. A cursor is text: an address, a value, or a number.

    Pages and offsets are counted from `first`.
    """

    given: Any
    first: int = 0

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> Pages:
        """Those of a table: counted from the number that its request names, else from page 1 or offset 0."""
        given = table.get("next")
        counted = given if isinstance(given, dict) else {}
        name = counted.get("page") or counted.get("offset")
        address = next(table[method] for method in METHODS if method in table)
        named = {**dict(_halves(address)[1]), **table.get("query", {})}
        value = table.get("body")
        for one in name.split(".") if name and name not in named else ():
            value = value.get(one) if isinstance(value, dict) else None
        first = str(named.get(name, value))
        return cls(given, int(first) if first.isdecimal() else int("page" in counted))

    def at(self, cursor: str | None) -> dict[str, Json]:
        """The parameters of the page at `cursor`; none for the first page."""
        if not isinstance(self.given, dict) or cursor is None:
            return {}
        counted = self.given.get("page") or self.given.get("offset")
        return {counted: int(cursor)} if counted else {self.given["query"]: cursor} if "query" in self.given else {}

    def address(self, cursor: str | None) -> str | None:
        """The address of the page at `cursor`, if a cursor is one."""
        return cursor if self.given == "link-header" or (isinstance(self.given, dict) and "url" in self.given) else None

    def after(
        self,
        cursor: str | None,
        headers: Mapping[str, str],
        body: Json,
        items: list[Any],
        absolute: Callable[[str], str],
    ) -> str | None:
        """The cursor of the page behind one with these items; None on the last, also where the cursor stays the same.

        `absolute` makes a whole address of one in the page; what it raises is raised.
        """
        notes = Notes()
        if self.given is None:
            return None
        if self.given == "link-header":
            found = _next_link(headers)
        elif "while" in self.given and not is_true(find(self.given["while"], body, notes)):
            return None
        elif paths := self.given.get("url") or self.given.get("cursor"):
            found = text_of(find(paths, body, notes))
        elif "last" in self.given:
            found = text_of(find(self.given["last"], items[-1], notes)) if items else None
        else:
            found = self._counted(cursor, len(items))
        if found and self.address(found):
            found = absolute(found)
        return None if found == cursor else found

    def _counted(self, cursor: str | None, count: int) -> str | None:
        """The next page or offset; None after a page that is not full, if the size of a full one is known."""
        step = self.given.get("step")
        sizes = step if isinstance(step, list) else [step]
        is_short = step is not None and count < max(sizes) and count not in sizes
        if not count or (is_short and "while" not in self.given):
            return None
        at = self.first if cursor is None else int(cursor)
        return str(at + (1 if "page" in self.given else step if isinstance(step, int) else count))


def _next_link(headers: Mapping[str, str]) -> str | None:
    every = headers.getall("link", []) if hasattr(headers, "getall") else [headers.get("link", "")]
    for address, parameters in _NEXT_LINK.findall(", ".join(every)):
        if _REL_NEXT.search(parameters):
            return str(address)
    return None


def instant_as(instant: datetime, form: str) -> Json:
    """An instant as a parameter."""
    if form in _UNITS_S:
        return int(instant.timestamp() / _UNITS_S[form])
    if form == "iso":
        return format_instant(instant)
    from email.utils import format_datetime  # takes 10 ms to import, and is hardly ever wanted

    return format_datetime(instant.astimezone(UTC), usegmt=True)


def list_fields(listing: Mapping[str, Any]) -> RunFields | None:
    """The fields to keep of a page that is too large: the items, and the place of the next page."""
    items, following = listing["items"], listing.get("next")
    if not items.isidentifier() or listing.get("items_as") == "map":
        return None
    paths = following if isinstance(following, dict) else {}
    texts = [path for key in ("url", "cursor", "while") if key in paths for path in _several(paths[key])]
    names = {text.partition(".")[0] for text in texts}
    return RunFields(frozenset(names), items=items) if all(name.isidentifier() for name in names) else None


def rows_in(listing: Mapping[str, Any], body: Json) -> Rows:
    """The rows of a page. Raises BadPayload if the body is not such a page."""
    found = body if listing["items"] == "@" else find(listing["items"], body, Notes(), "list.items")
    if listing.get("items_as") == "map" and isinstance(found, dict):
        return list(found.items())
    if listing.get("items_as", "list") == "list" and isinstance(found, list):
        return [(None, item) for item in found]
    raise BadPayload(f"the answer is not a page of runs at `{listing['items']}`")


def _several(given: str | list[str]) -> list[str]:
    return [given] if isinstance(given, str) else given
