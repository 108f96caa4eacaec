"""The mistakes of a definition: of every key by its kind, then of the keys together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from bridge.definitions.expressions import makes_list
from bridge.definitions.schema import STATUSES, At, Fault, Node, faults_at, meant, nodes_of
from bridge.domain.definition import METHODS, id_parts, key_place, names_in, parts_elsewhere, pieces

_OUR_HEADERS: Final = frozenset({"host", "content-length", "transfer-encoding", "connection"})
_RESERVED: Final = frozenset({"key", "workflow", "inputs"})


def faults_in(tables: dict[str, Any]) -> list[Fault]:
    """Every fault of a definition, with the path of the key.

    Rules across keys are checked without the keys that are wrong by themselves, and reported only for tables in which
    no key is.
    """
    nodes = list(nodes_of(tables))
    found = [fault for node in nodes for fault in faults_at(node)]
    if found:
        tables = _without(tables, {at for at, _ in found})
        nodes = list(nodes_of(tables))
    if not {"run", "read", "status"} <= tables.keys():
        return found
    together = (
        *_words(tables["status"]), *_rules(tables), *_ids(tables), *_placeholders(tables, nodes), *_hosts(tables, nodes),
    )  # fmt: skip
    inside = {at[:length] for at, _ in found for length in range(1, len(at))}
    return [*found, *(fault for fault in together if fault[0] not in inside)]


def _without(value: Any, paths: set[At], at: At = ()) -> Any:
    match value:
        case dict():
            return {key: _without(inner, paths, (*at, key)) for key, inner in value.items() if (*at, key) not in paths}
        case list():
            kept = ((number, inner) for number, inner in enumerate(value) if (*at, number) not in paths)
            return [_without(inner, paths, (*at, number)) for number, inner in kept]
    return value


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
    """Check keys that exclude or require one another, depending on their values."""
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
    of_key = key_place(tables).get("header", "").lower()
    if of_key in _OUR_HEADERS:
        at = ("auth", "send", "header") if "exchange" in tables["auth"] else ("auth", "header")
        yield at, f"the key cannot be sent in {of_key}: this header belongs to HTTP itself; name another"
    for name in tables.get("headers", {}):
        if name.lower() in {*_OUR_HEADERS, of_key}:
            why = "the key is sent in it" if name.lower() == of_key else "it belongs to HTTP itself"
            yield ("headers", name), f"this header cannot be set: {why}; leave it out"
    status = tables["read"].get("status", [])
    paths = status.get("path", []) if isinstance(status, dict) else status
    for path in [paths] if isinstance(paths, str) else paths:
        if makes_list(path):
            yield ("read", "status"), f"`{path}` finds a list, and a status is one word; take one item, as in `[0]`"
    trigger, listing = tables.get("trigger", {}), tables.get("list")
    if trigger.get("inputs", {}).get("merge") and not isinstance(trigger.get("body", {}), dict):
        yield ("trigger", "body"), "a table is needed here, because `inputs.merge` puts members into it"
    if listing and "id" not in listing and listing.get("items_as") != "map":
        yield ("list",), "the key `id` is missing: where in an item its id stands"


def _ids(tables: dict[str, Any]) -> Iterator[Fault]:
    """Tables with the parts of a run's id, of which variables may give some."""
    parts, variables = id_parts(tables["run"]), _variables(tables)
    for table, key in (("list", "id"), ("trigger", "run_from")):
        given = tables.get(table, {}).get(key)
        if not isinstance(given, dict) or (table == "trigger" and given.keys() in ({"header"}, {"url"})):
            continue
        for name in given:
            if name not in parts:
                yield (table, key, name), f"no part of the run's id is called `{name}`{meant(name, parts)}"
        for name in () if table == "list" else parts:
            if name not in given and name not in variables:
                yield (table, key), f"the id's part `{name}` is missing; give its path, or a variable of this name"


def _placeholders(tables: dict[str, Any], nodes: list[Node]) -> Iterator[Fault]:
    """Names in braces must be known where they stand; every part of the id must be in [run]."""
    parts, variables = id_parts(tables["run"]).keys(), _variables(tables)
    of_run = parts | variables
    known = dict.fromkeys(("run", "output", "cancel"), of_run)
    known |= {"trigger": variables | {"workflow", "inputs"}, "auth": variables | {"key"}}
    used: set[str] = set()
    for at, text in texts_of(nodes):
        table, names = str(at[0]), known.get(str(at[0]), variables)
        used |= set(names_in(text)) if table == "run" else set()
        for name in names_in(text):
            if name == "key" and table != "auth":
                yield at, "`{key}` may stand in [auth] only"
            elif name == "inputs" and table == "trigger" and (text != "{inputs}" or at[1] != "body"):
                yield at, "`{inputs}` is JSON: it may stand in the body only, as a whole value"
            elif name not in names:
                allowed = ", ".join(f"{{{one}}}" for one in sorted(names)) or "none here"
                own = "" if name == "id" else f"; or declare it: [vars] {name} = {{ … }}"
                own += f", or as a part of the id: [run] id = {{ {name} = … }}" if table == "run" and own else ""
                yield at, f"unknown name {{{name}}}; allowed: {allowed}{meant(name, names) or own}"
        if at[-1] in METHODS and any(brace in one for one in pieces(text)[::2] for brace in "{}"):
            yield at, "a brace without its partner or its name"
    asks = any(method in tables["run"] for method in METHODS) and used <= of_run
    for name in parts - used if asks else ():
        yield ("run",), f"no {{{name}}} stands in [run], so every run would be the same; write it into the address"


def _variables(tables: dict[str, Any]) -> set[str]:
    """The names that a connection gives: [vars], and the parts of a run's id that the items of [list] do not have."""
    return {*tables.get("vars", {}), *parts_elsewhere(tables)}


def texts_of(nodes: Iterable[Node]) -> Iterator[tuple[At, str]]:
    """The texts in which names in braces are replaced, the names in bodies, too."""
    for at, value, schema, _ in nodes:
        if "x-text" in schema:
            yield from [(at, value)] if isinstance(value, str) else ()
            yield from (((*at, name), name) for name in (value if isinstance(value, dict) else ()))


def _hosts(tables: dict[str, Any], nodes: list[Node]) -> Iterator[Fault]:
    """An address with a host of its own must be one that may see the key."""
    allowed = hosts_of(tables)
    for at, value, schema, _ in nodes:
        if schema.get("x-check") in ("address", "exchange"):
            address = value.rpartition(" ")[2]
            try:
                parts = urlsplit(address)
                host, is_plain = parts.netloc, parts.scheme == "http" and not is_here(parts.hostname)
            except ValueError as error:
                yield at, f"{address} is not an address: {error}"
                continue
            if host and host not in allowed:
                yield at, f"the host {host} is not in `hosts`, so it may not see the key"
            elif is_plain and not tables.get("base_url", "").startswith("http:"):
                yield at, "the key would be sent unencrypted; the address begins with https://"


def is_here(host: str | None) -> bool:
    """Whether requests to this host stay on this machine, where they need no encryption."""
    return host in ("127.0.0.1", "localhost", "::1")


def hosts_of(tables: Mapping[str, Any]) -> set[str]:
    """The hosts, with their ports if given, that see the key besides that of a connection's own base_url."""
    own = urlsplit(tables["base_url"]).netloc if "base_url" in tables else ""
    return {*tables.get("hosts", ()), *([own] if own else ())}
