"""The requests of a definition: addresses and bodies filled in, hosts that may see the key, pages, pauses."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urljoin, urlsplit

from bridge.domain.definitions.check import PLACEHOLDER, hosts_of
from bridge.domain.definitions.expressions import ExpressionFailed, is_true, search
from bridge.domain.observation import FailureKind, PollFailed
from bridge.domain.run import Json
from bridge.domain.timestamps import format_instant, parse_instant
from bridge.providers.definition_reader import RunId, instant_of
from bridge.providers.fields import text_of
from bridge.providers.http import ProviderFailure, ProviderResponse
from bridge.providers.partial_json import RunFields
from bridge.providers.retry_after import PAUSE_MAX_S, requested_pause_s

Query = list[tuple[str, str]]
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_NEXT_LINK: Final = re.compile(r"<([^>]*)>((?:\s*;\s*[\w*-]+\s*=\s*(?:\"[^\"]*\"|[^\s;,]+))*)")
_REL_NEXT: Final = re.compile(r";\s*rel\s*=\s*(?:\"(?:[^\"]*\s)?next(?:\s[^\"]*)?\"|next\b)", re.IGNORECASE)
_UNITS_S: Final = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


class ForeignHost(ValueError):
    """An answer names an address that may not see the key."""


@dataclass(frozen=True, slots=True)
class Hosts:
    """The hosts that may see the key: that of the connection's base_url and those of the definition."""

    base_url: str
    others: frozenset[str]

    @classmethod
    def of(cls, tables: Mapping[str, Any], base_url: str) -> Hosts:
        """Those of a definition and a connection."""
        return cls(base_url, frozenset(hosts_of(tables)))

    def address(self, found: str) -> str:
        """The absolute address for one in an answer, which may be relative. Raises ForeignHost."""
        address = urljoin(self.base_url + "/", found.strip())
        wanted, base = urlsplit(address), urlsplit(self.base_url)
        try:
            place = (wanted.scheme, wanted.hostname, wanted.port or _DEFAULT_PORTS.get(wanted.scheme))
            own = (base.scheme, base.hostname, base.port or _DEFAULT_PORTS.get(base.scheme))
        except ValueError:
            raise ForeignHost("the answer names an address that is none") from None
        host = f"{wanted.hostname}:{wanted.port}" if wanted.port else wanted.hostname
        is_other = wanted.scheme == "https" and (host in self.others)
        if wanted.username is not None or not (place == own or is_other):
            raise ForeignHost(
                f"the answer names an address at {wanted.hostname or 'no host'}, which may not see the key"
            )
        return address


def fill_address(template: str, values: Mapping[str, str], kinds: Mapping[str, str]) -> tuple[str, Query]:
    """The percent-encoded path (or address) and the query of a template."""

    def encoded(found: re.Match[str]) -> str:
        name = found[1]
        return quote(values[name], safe="/" if kinds.get(name) == "path" else "", errors="replace")

    path, _, query = template.partition("?")
    pairs = [(fill(name, values), fill(value, values)) for name, value in parse_qsl(query, keep_blank_values=True)]
    return PLACEHOLDER.sub(encoded, path), pairs


def fill(template: str, values: Mapping[str, Any]) -> str:
    """A text with its names replaced, by texts as they are."""
    return PLACEHOLDER.sub(lambda found: str(values[found[1]]), template)


def fill_body(template: Json, values: Mapping[str, Json], kinds: Mapping[str, str]) -> Json:
    """A body with its names replaced. A text that is nothing but a name becomes that value: JSON, or a number."""
    match template:
        case str():
            alone = PLACEHOLDER.fullmatch(template)
            if alone is None:
                return fill(template, values)
            value = values[alone[1]]
            return int(value) if kinds.get(alone[1]) == "int" and isinstance(value, str) else value
        case dict():
            return {name: fill_body(inner, values, kinds) for name, inner in template.items()}
        case list():
            return [fill_body(inner, values, kinds) for inner in template]
    return template


def id_in_address(tables: Mapping[str, Any], base_url: str, address: str) -> str:
    """The run's id in an address that fits [run]. Raises ValueError if it does not fit."""
    run_id = RunId.of(tables)
    template = tables["run"].get("get") or tables["run"]["post"]
    path = template.partition("?")[0]
    base = urlsplit(base_url).path.rstrip("/")
    pattern = "".join(
        f"(?P<{part[1:-1]}>.+?)" if run_id.kinds.get(part[1:-1]) == "path" else f"(?P<{part[1:-1]}>[^/]+?)"
        if PLACEHOLDER.fullmatch(part) and part[1:-1] in run_id.kinds
        else "[^/]+?" if PLACEHOLDER.fullmatch(part) else re.escape(part)
        for part in re.split(r"(\{\w+\})", path)
    )  # fmt: skip
    found = re.fullmatch(re.escape(base) + pattern + "/?", urlsplit(address).path)
    if found is None:
        raise ValueError(f"the address {urlsplit(address).path[:100]!r} does not fit {path}")
    joined = run_id.join({name: unquote(value) for name, value in found.groupdict().items()})
    run_id.split(joined)
    return joined


def pause_s(given: Any, headers: Mapping[str, str], body: Json) -> float | None:
    """Seconds that a `hint` or an `after` asks for: the name of a header, or a table with `header` or `path`."""
    if isinstance(given, str):
        return _header_pause(given, headers)
    value: Any = headers.get(given["header"]) if "header" in given else value_at(given["path"], body)
    form = given.get("time")
    if form is None and "header" in given:
        return _header_pause(given["header"], headers)
    if form in ("iso", "rfc822"):
        return until_s(given, headers, body)
    try:
        seconds = float(value) * _UNITS_S[form or "s"] if not isinstance(value, bool) else None
    except (TypeError, ValueError):
        return None
    return min(seconds, PAUSE_MAX_S) if seconds is not None and 0 <= seconds < float("inf") else None


def _header_pause(name: str, headers: Mapping[str, str]) -> float | None:
    """A header with seconds, with milliseconds if its name ends in `-ms`, or with a date."""
    text = headers.get(name)
    if text is None:
        return None
    as_if = "retry-after-ms" if name.lower().endswith("-ms") else "retry-after"
    return requested_pause_s({as_if: text, "date": headers.get("date", "")})


def until_s(given: Mapping[str, Any], headers: Mapping[str, str], body: Json) -> float | None:
    """Seconds from the answer's own Date, or from now, to an instant in it; None if that has passed."""
    value: Any = headers.get(given["header"]) if "header" in given else value_at(given["path"], body)
    instant = instant_of(value, given.get("time", "iso"))
    if instant is None:
        return None
    date = instant_of(headers.get("date"), "iso")
    now_s = parse_instant(date).timestamp() if date else time.time()
    seconds = parse_instant(instant).timestamp() - now_s
    return min(seconds, PAUSE_MAX_S) if seconds >= 0 else None


def value_at(paths: str | list[str], body: Json) -> Any:
    """The first value of the paths that is not null; None if none is, or if an expression fails."""
    for path in [paths] if isinstance(paths, str) else paths:
        try:
            value = search(path)(body)
        except ExpressionFailed:
            continue
        if value is not None:
            return value
    return None


@dataclass(frozen=True, slots=True)
class Pages:
    """How a definition's `next` leads from page to page. A cursor is text: an address, a value, or a number."""

    given: Any

    def query(self, cursor: str | None) -> Query:
        """The query parameters of the page at `cursor`; those of the first page without one."""
        if not isinstance(self.given, dict):
            return []
        name = self.given.get("page") or self.given.get("offset") or self.given.get("query")
        return [(name, cursor)] if name is not None and cursor is not None else []

    def is_address(self) -> bool:
        """Whether a cursor is the address of the page."""
        return self.given == "link-header" or (isinstance(self.given, dict) and "url" in self.given)

    def after(
        self, cursor: str | None, headers: Mapping[str, str], body: Json, items: list[Any], hosts: Hosts
    ) -> str | None:
        """The cursor of the next page; None on the last. Raises ForeignHost."""
        if self.given is None:
            return None
        if self.given == "link-header":
            link = _next_link(headers)
            return hosts.address(link) if link else None
        following: dict[str, Any] = self.given
        if "while" in following and not is_true(value_at(following["while"], body)):
            return None
        if "url" in following:
            url = text_of(value_at(following["url"], body))
            return hosts.address(url) if url else None
        found: str | None
        if "cursor" in following:
            found = text_of(value_at(following["cursor"], body))
        elif "last" in following:
            found = text_of(value_at(following["last"], items[-1])) if items else None
        else:
            step = following.get("step")
            if not items or (step is not None and len(items) < step and "while" not in following):
                return None
            found = str(int(cursor or 1) + 1) if "page" in following else str(int(cursor or 0) + (step or len(items)))
        return None if found == cursor else found


def _next_link(headers: Mapping[str, str]) -> str | None:
    every = headers.getall("link", []) if hasattr(headers, "getall") else [headers.get("link", "")]
    for address, parameters in _NEXT_LINK.findall(", ".join(every)):
        if _REL_NEXT.search(parameters):
            return str(address)
    return None


def instant_as(instant: datetime, form: str) -> str:
    """An instant as a query parameter."""
    units = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
    return str(int(instant.timestamp() * units[form])) if form in units else format_instant(instant)


def list_fields(listing: Mapping[str, Any]) -> RunFields | None:
    """What is kept of a page that is too large: the items, and where the next page is."""
    items, following = listing["items"], listing.get("next")
    if not items.isidentifier() or listing.get("items_as") == "map":
        return None
    paths = following if isinstance(following, dict) else {}
    texts = [path for key in ("url", "cursor", "while") if key in paths for path in _several(paths[key])]
    names = {text.partition(".")[0] for text in texts}
    return RunFields(frozenset(names), items=items) if all(name.isidentifier() for name in names) else None


def rows_in(listing: Mapping[str, Any], body: Json) -> list[tuple[str | None, Json]] | None:
    """The items of a page, each with its key in a map; None if this is no such page."""
    found = body if listing["items"] == "@" else value_at(listing["items"], body)
    if listing.get("items_as") == "map" and isinstance(found, dict):
        return list(found.items())
    if listing.get("items_as", "list") == "list" and isinstance(found, list):
        return [(None, item) for item in found]
    return None


def items_in(listing: Mapping[str, Any], response: ProviderResponse, what: str) -> list[tuple[str | None, Json]]:
    """The items of a page. Raises ProviderFailure if this is no such page."""
    rows = rows_in(listing, response.body)
    if rows is None:
        raise unusable(f"{what}: the answer is no page of runs at `{listing['items']}`", response.status)
    return rows


def unusable(message: str, status: int) -> ProviderFailure:
    """The failure of an answer that cannot be used."""
    return ProviderFailure(PollFailed(FailureKind.BAD_PAYLOAD, message[:400], status))


def _several(given: str | list[str]) -> list[str]:
    return [given] if isinstance(given, str) else given
