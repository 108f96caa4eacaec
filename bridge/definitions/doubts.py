"""The warnings of `lint`: constructs that are valid in a definition but probably a mistake."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from bridge.definitions.check import is_here, texts_of, word_text
from bridge.definitions.schema import STATUSES, nodes_of
from bridge.domain.definition import id_parts, key_place, names_in, pieces
from bridge.domain.suggestions import dotted

_OVER: Final = ("gone", "lost", "failed", "cancelled", "succeeded", "partial")


def doubts_in(tables: dict[str, Any]) -> Iterator[str]:
    """A warning for each construct that is valid but probably a mistake; each begins with its key."""
    texts = list(texts_of(nodes_of(tables)))
    for at, text in texts:
        yield from (f"{dotted(at)}: {said}" for said in _doubts_of_text(text, is_body="body" in at))
        if at[-1] == "body" and text.lstrip().startswith('{"'):
            yield f"{dotted(at)}: JSON in quotes is sent as text; write a table: body = {{ … }}"
    parts = id_parts(tables["run"]).keys()
    for table in tables.keys() & {"output", "cancel"}:
        if parts.isdisjoint(name for at, text in texts if at[0] == table for name in names_in(text)):
            yield f"{table}: no part of the run's id stands in it, so it is the same for every run"
    used = {name for _, text in texts for name in names_in(text)} | parts
    for name in tables.get("vars", {}).keys() - used:
        yield f"vars.{name}: {{{name}}} stands nowhere in the file"
    yield from _doubts_of_key(tables)
    for canonical in STATUSES:
        for number, word in enumerate(tables["status"].get(canonical, ())):
            if said := _doubt_of_word(word_text(word)):
                yield f"status.{canonical}[{number}]: {said}"
    for number, rule in enumerate(tables.get("answer", ())):
        codes = rule["http"] if isinstance(rule.get("http"), list) else [rule.get("http")]
        if not rule.keys() & {"if", "header"} and {404, "4xx"} & set(codes) and rule["means"] in _OVER:
            said = "a run that is not there yet answers so, too; without this rule one that stays away is lost"
            yield f"answer[{number}]: {said}"
    if re.search(r"(^|\|\| ?)['`]", str(tables["read"]["status"])):
        yield "read.status: text in quotes is the same in every answer; what a missing status means is `absent`"
    rules = (*tables["status"].get("when", ()), *tables.get("answer", ()))
    ends = {rule.get("is") or rule.get("means") for rule in rules}
    for end in sorted({"failed", "succeeded"} - tables["status"].keys() - ends):
        yield f"status.{end}: neither a word nor a rule means it; such a run is unknown, and stays watched"
    if str(tables.get("trigger", {}).get("run_from")).rpartition(".")[2].lower() == "location":
        yield 'trigger.run_from: this is read in the body; write { header = "Location" } for the header'


def _doubts_of_text(text: str, *, is_body: bool) -> Iterator[str]:
    """Warnings about a template: in GraphQL `{id}` is a selection and no name, and no name contains `$`."""
    before = ""
    for number, piece in enumerate(pieces(text)):
        is_value = before.rstrip().endswith(('"', ":", "("))
        if number % 2 and is_body and before.count("{") > before.count("}") and not is_value:
            yield f"{{{piece}}} is replaced by a value; write {{{{{piece}}}}} to send it as it is"
        if number % 2 and before.endswith(("$", ":")) and (not is_body or len(before) == 1):
            yield f"the {before[-1]!r} before {{{piece}}} is sent as it is; a name stands in braces alone"
        before += "" if number % 2 else piece
    if re.search(r"\{\{ ?[\w.]+ ?(\|[^{}]*)?\}\}", before):
        yield "braces in braces are sent as they are; a value stands as {name}, and nothing is computed"


def _doubts_of_key(tables: Mapping[str, Any]) -> Iterator[str]:
    base = urlsplit(tables.get("base_url", ""))
    if base.scheme == "http" and not is_here(base.hostname) and key_place(tables):
        yield "base_url: http:// sends the key unencrypted; write https:// if the provider has it"
    for name, text in tables.get("headers", {}).items():
        if not names_in(text) and any(part in name.lower() for part in ("key", "token", "secret", "authorization")):
            yield f'headers.{name}: a key belongs into the connection; write auth = {{ header = "{name}" }}'


def _doubt_of_word(word: str) -> str:
    if "," in word:
        return f"{word!r} is one word with a comma; each word stands in quotation marks of its own"
    if word != word.strip():
        return f"{word!r} begins or ends with a blank, which counts"
    if "*" in word:
        return f"{word!r} is a word like any other, not a pattern; one in no list is unknown, and the run stays watched"
    return "a status that is null is not this text; write absent = …" if word == "null" else ""
