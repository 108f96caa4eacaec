"""What is wrong with a definition: every key by its kind, then what the keys say together."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from bridge.definitions.schema import STATUSES, At, Fault, faults_of, meant
from bridge.domain.definition import PLACEHOLDER

_BRACES: Final = re.compile(r"[{}]")
_REQUESTS: Final = ("run", "output", "list", "trigger", "cancel", "check")
METHODS: Final = ("get", "post", "put", "patch", "delete")
_RESERVED: Final = frozenset({"key", "workflow", "inputs"})


def faults_in(tables: dict[str, Any]) -> list[Fault]:
    """Every fault of a definition, with the path of the key.

    What the keys say together is judged without those that are wrong by themselves, and where none is inside.
    """
    found = list(faults_of(tables))
    rest = _without(tables, {at for at, _ in found})
    if not {"run", "read", "status"} <= rest.keys():
        return found
    together = (*_words(rest["status"]), *_rules(rest), *_placeholders(rest), *_hosts(rest), *_groups(rest))
    inside = {at[:length] for at, _ in found for length in range(1, len(at))}
    return [*found, *(fault for fault in together if fault[0] not in inside)]


def _without(value: Any, paths: set[At], at: At = ()) -> Any:
    match value:
        case dict():
            return {
                name: _without(inner, paths, (*at, name)) for name, inner in value.items() if (*at, name) not in paths
            }
        case list():
            kept = ((number, inner) for number, inner in enumerate(value) if (*at, number) not in paths)
            return [_without(inner, paths, (*at, number)) for number, inner in kept]
    return value


def id_parts(run: Mapping[str, Any]) -> dict[str, str]:
    """The parts of a run's id with their kinds, in order."""
    kinds = run.get("id", "slug")
    return kinds if isinstance(kinds, dict) else {"id": kinds}


def word_text(word: object) -> str:
    """A word of the provider as text: a number or a boolean by its JSON."""
    return word if isinstance(word, str) else json.dumps(word)


def _words(status: dict[str, Any]) -> Iterator[Fault]:
    seen: dict[str, str] = {}
    for canonical in STATUSES:
        for number, word in enumerate(status.get(canonical, ())):
            text = word_text(word)
            folded = text.casefold() if status.get("case") == "ignore" else text
            if folded in seen:
                yield ("status", canonical, number), f"the word {text!r} stands in `{seen[folded]}`, too; keep one"
            seen[folded] = canonical
    if not seen and "when" not in status:
        yield ("status",), f"no word at all; put theirs into {', '.join(STATUSES)}"


def _rules(tables: dict[str, Any]) -> Iterator[Fault]:
    progress = tables["read"].get("progress", {})
    if "completed" in progress and "total" not in progress:
        yield ("read", "progress"), "the key `total` is missing beside `completed`"
    if "path" in progress and "as" not in progress:
        yield ("read", "progress"), "the key `as` is missing: percent, fraction or ratio"
    for number, answer in enumerate(tables.get("answer", ())):
        if not answer.keys() & {"http", "header", "if"}:
            yield ("answer", number), "no condition; give http, header or if"
        if {"until", "after"} <= answer.keys():
            yield ("answer", number), "`until` (an instant) and `after` (a pause) exclude each other"
    for name, spec in tables.get("vars", {}).items():
        if spec.get("required") and "default" in spec:
            yield ("vars", name), "a required variable needs no default"
        if name in _RESERVED or (name == "id" and name in id_parts(tables["run"])):
            yield ("vars", name), f"`{name}` has a meaning of its own; choose another name"
    auth = tables.get("auth")
    if isinstance(auth, dict):
        yield from _auth(auth)


def _auth(auth: dict[str, Any]) -> Iterator[Fault]:
    allowed = {"exchange": {"body", "token", "expires", "send"}, "header": {"scheme"}, "query": set[str]()}
    chosen = next((name for name in allowed if name in auth), None)
    if chosen is None:
        return
    for extra in auth.keys() - allowed[chosen] - {chosen}:
        yield ("auth", extra), f"`{extra}` does not go with `{chosen}`"
    if chosen == "exchange" and "token" not in auth:
        yield ("auth",), "the key `token` is missing: where the answer holds the token"


def _groups(tables: dict[str, Any]) -> Iterator[Fault]:
    """Keys that need or exclude others within [list] and [output]."""
    needs = {"cursor": {"query"}, "last": {"query"}}
    allowed = {
        "url": {"while"},
        "cursor": {"query", "while"},
        "last": {"query", "while"},
        "page": {"while", "step"},
        "offset": {"step", "while"},
    }
    for table in ("list", "output"):
        following = tables.get(table, {}).get("next")
        if not isinstance(following, dict):
            continue
        chosen = next((name for name in allowed if name in following), None)
        if chosen is None:
            continue
        for name in sorted(needs.get(chosen, set()) - following.keys()):
            yield (table, "next"), f"`{chosen}` needs `{name}`: the query parameter of the next page"
        for name in sorted(following.keys() - allowed[chosen] - {chosen}):
            yield (table, "next", name), f"`{name}` does not go with `{chosen}`"
        if chosen == "page" and "while" not in following and "step" not in following:
            yield (table, "next"), "`page` needs `while` or `step`, or the last page is never known"
    listing, parts = tables.get("list"), id_parts(tables["run"])
    if listing and "id" not in listing and listing.get("items_as") != "map":
        yield ("list",), "the key `id` is missing: where in an item its id stands"
    if listing and isinstance(listing.get("id"), dict):
        known = parts.keys() | tables.get("vars", {}).keys()
        for name in listing["id"]:
            if name not in parts:
                yield ("list", "id", name), f"no part of the run's id is called `{name}`{meant(name, parts)}"
        for name in parts.keys() - listing["id"].keys() - known & parts.keys():
            yield ("list", "id"), f"the part `{name}` is missing"
    trigger = tables.get("trigger", {})
    if trigger.get("inputs", {}).get("merge") and not isinstance(trigger.get("body", {}), dict):
        yield ("trigger", "body"), "a table is needed here, because `inputs.merge` puts members into it"
    if "join" in tables.get("output", {}) and "next" not in tables["output"]:
        yield ("output", "join"), "`join` needs `next`: where the next page is"
    run_from = trigger.get("run_from")
    if isinstance(run_from, dict) and run_from.keys() not in ({"header"}, {"url"}):
        for name in sorted(parts.keys() - run_from.keys() - tables.get("vars", {}).keys()):
            missing = f"the part `{name}` of the run's id is missing; give its path, or a variable of this name"
            yield ("trigger", "run_from"), missing
        for name in sorted(run_from.keys() - parts.keys()):
            yield ("trigger", "run_from", name), f"no part of the run's id is called `{name}`{meant(name, parts)}"


def _placeholders(tables: dict[str, Any]) -> Iterator[Fault]:
    """Names in braces must be known where they stand; every part of the id must be in [run]."""
    parts, variables = id_parts(tables["run"]).keys(), set(tables.get("vars", {}))
    listed = tables.get("list", {}).get("id", "")
    shared = variables | (parts - listed.keys() if isinstance(listed, dict) else set[str]())
    known = {
        "run": parts | variables,
        "output": parts | variables,
        "cancel": parts | variables,
        "list": shared,
        "check": variables,
        "trigger": variables | {"workflow", "inputs"},
        "headers": variables,
        "auth": variables | {"key"},
        "base_url": variables,
    }
    for table, names in known.items():
        if table not in tables:
            continue
        for at, text in _texts(tables[table], (table,)):
            for name in PLACEHOLDER.findall(text):
                if name == "key" and table != "auth":
                    yield at, "`{key}` may stand in [auth] only"
                elif name == "inputs" and table == "trigger" and (text != "{inputs}" or at[1] != "body"):
                    yield at, "`{inputs}` is JSON: it may stand in the body only, as a whole value"
                elif name not in names:
                    allowed = ", ".join(f"{{{one}}}" for one in sorted(names)) or "none here"
                    own = "" if name in parts | {"id"} else f"; or declare it: [vars] {name} = {{ … }}"
                    yield at, f"unknown name {{{name}}}; allowed: {allowed}{meant(name, names) or own}"
            if at[-1] in METHODS and _BRACES.search(PLACEHOLDER.sub("", text)):
                yield at, "a brace without its partner or its name"
    used = {name for _, text in _texts(tables["run"], ("run",)) for name in PLACEHOLDER.findall(text)}
    asks = any(method in tables["run"] for method in METHODS) and used <= known["run"]
    for name in parts - used if asks else ():
        yield ("run",), f"the part {{{name}}} of the id stands nowhere in [run], so every run would be the same"


def _texts(value: Any, at: At) -> Iterator[tuple[At, str]]:
    """The texts in addresses, queries, headers and bodies; not the expressions, whose braces are JMESAt's."""
    match value:
        case str():
            yield at, value
        case dict():
            for name, inner in value.items():
                if len(at) != 1 or at[0] == "headers" or name in {*METHODS, "query", "body", "exchange"}:
                    yield from _texts(inner, (*at, name))
                if at[1:2] == ("body",):
                    yield (*at, name), name
        case list():
            for number, inner in enumerate(value):
                yield from _texts(inner, (*at, number))


def _hosts(tables: dict[str, Any]) -> Iterator[Fault]:
    """An address with a host of its own must be one that may see the key."""
    allowed = hosts_of(tables)
    auth = tables.get("auth")
    addresses = [((table, method), tables.get(table, {}).get(method, "")) for table in _REQUESTS for method in METHODS]
    if isinstance(auth, dict) and "exchange" in auth:
        addresses.append((("auth", "exchange"), auth["exchange"].partition(" ")[2]))
    for at, address in addresses:
        if not address.startswith("/") and address and urlsplit(address).netloc not in allowed:
            yield at, f"the host {urlsplit(address).netloc} is not in `hosts`, so it may not see the key"


def hosts_of(tables: Mapping[str, Any]) -> set[str]:
    """The hosts, with their ports if given, that see the key besides that of a connection's own base_url."""
    own = urlsplit(tables["base_url"]).netloc if "base_url" in tables else ""
    return {*tables.get("hosts", ()), *([own] if own else ())}
