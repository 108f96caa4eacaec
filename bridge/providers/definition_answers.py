"""Interpret the answers of a provider that has a definition: the rules of [[answer]], the pauses of [pace], and [read].

No request is made here. The poller, `lint`, `try` and `test` share these functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from bridge.definitions.expressions import Notes, find, is_true
from bridge.domain.definition import Definition
from bridge.domain.errors import BadPayload
from bridge.domain.failure import FailureKind
from bridge.domain.frozen import frozen, replaced
from bridge.domain.ids import is_same_run_id
from bridge.domain.observation import LastResponse, ListedRun, Observation, Observed, PollFailed, PollResult
from bridge.domain.run import Json, RunStatus
from bridge.providers.definition_reader import DefinitionReader, Reading
from bridge.providers.definition_requests import Rows, RunId, allowed_address, pause_s
from bridge.providers.failures import MESSAGE_CHARS_MAX, error_text, failure_kind, judged_404, said_instead
from bridge.providers.fields import check_id, check_same_run, id_of, text_of
from bridge.providers.partial_json import without_damage
from bridge.providers.retry_after import requested_pause_s

FAILURES: Final = {  # what `means` says of an answer that shows no run
    "retry": FailureKind.SERVER_ERROR,
    "throttled": FailureKind.THROTTLED,
    "refused": FailureKind.UNAUTHORIZED,
    "not-found": FailureKind.NOT_FOUND,
}
_OF_ANY_REQUEST: Final = ("ok", "retry", "throttled", "refused")
_SENTENCES: Final = {
    "retry": "to be tried again",
    "throttled": "too many requests",
    "refused": "the key is refused",
    "not-found": "there is no such run",
    "unchanged": "unchanged, but nothing was seen before",
}


@frozen
class Answer:
    """An answer: status code, headers, and the body if it is JSON.

    `damaged` names the fields that could not be read whole. `failed` is the failure that any answer but a 2xx with JSON
    is without a definition.
    """

    status: int
    headers: Mapping[str, str]
    body: Json
    damaged: frozenset[str] = frozenset()
    failed: PollFailed | None = None


@frozen
class Meaning:
    """The meaning of an answer; `rule` is the [[answer]] that decided it, empty for the defaults.

    `pause_s` is the longest pause that the rule, [pace] and the usual headers ask for.
    """

    means: str
    rule: str
    pause_s: float | None
    notes: tuple[str, ...] = ()


class Answers:
    """Reads the answers of a provider with this definition."""

    def __init__(self, definition: Definition) -> None:
        self.definition, self.tables = definition, definition.tables
        self.reader = DefinitionReader(self.tables)
        self.run_id = RunId.of(self.tables)
        self._rules = self.tables.get("answer", ())
        self._hints = self.tables.get("pace", {}).get("hint", ())
        self.is_by_body = not self._rules and not self._hints
        """Whether two answers with the same body mean the same, whatever their codes and headers are."""

    def meaning_of(self, answer: Answer, *, is_of_run: bool = True) -> Meaning:
        """The first [[answer]] that fits, else the default of the code.

        Rules about a run do not count where the answer is not about one: to the list, the check and the start.
        """
        means, rule, asked, notes = _default(answer), "", None, Notes()
        for number, each in enumerate(self._rules):
            if (is_of_run or each["means"] in _OF_ANY_REQUEST) and _fits(each, answer, notes, f"answer[{number}].if"):
                means, rule = each["means"], f"answer[{number}]"
                if given := each.get("until") or each.get("after"):
                    asked = pause_s(given, answer.headers, answer.body, notes, is_instant="until" in each)
                break
        usual = requested_pause_s(answer.headers, with_quota=means == "throttled")
        if asked is None and not self._hints:  # as of nearly every answer
            return Meaning(means, rule, usual, (*notes,))
        hints = (pause_s(hint, answer.headers, answer.body, notes) for hint in self._hints)
        hinted = next((one for one in hints if one is not None), None)
        return Meaning(means, rule, longest(asked, hinted, usual), (*notes,))

    def result_of(
        self,
        answer: Answer,
        *,
        run_id: str | None = None,
        last: LastResponse | None = None,
        redacted: Callable[[str], str] = str,
    ) -> tuple[PollResult, Reading | None]:
        """The poll result for the run `run_id`, and the reading of the body if it was read."""
        meaning, failed = self.meaning_of(answer), answer.failed
        means, pause = meaning.means, longest(meaning.pause_s, failed.retry_after_s) if failed else meaning.pause_s
        if failed is not None and meaning.notes:
            failed = replace(failed, message=f"{failed.message}; {meaning.notes[0]}"[:MESSAGE_CHARS_MAX])
        if means == "unchanged" and last is not None:
            return Observed(last.observation, pause, etag=last.etag, is_unchanged=True, body=last.body), None
        if failed is not None and not meaning.rule:
            hint = f'; if it is its own, say so: [[answer]] http = {failed.status}, means = "not-found"'
            return replace(judged_404(failed, answer.body, hint=hint), retry_after_s=pause), None
        if means in FAILURES or means == "unchanged":
            kind = FAILURES.get(means, FailureKind.BAD_PAYLOAD)
            by = f" ({self.definition.name} {self.definition.version}: {meaning.rule})" if meaning.rule else ""
            text, _ = error_text(answer.body)
            quoted = f"HTTP {answer.status}, {redacted(text)}" if text else f"HTTP {answer.status}"
            said = f"{failed.message if failed else quoted}: {_SENTENCES[means]}{by}"
            return PollFailed(kind, said[:MESSAGE_CHARS_MAX], answer.status, pause), None
        if means == "gone":
            return Observed(Observation(RunStatus.LOST, "gone")), None
        try:
            reading = self._read(answer, means, run_id)
        except BadPayload as error:
            what = said_instead(answer.status, answer.body, error, redacted)
            return PollFailed(FailureKind.BAD_PAYLOAD, what[:MESSAGE_CHARS_MAX], answer.status, pause), None
        remarks = (*meaning.notes, *reading.remarks)
        return Observed(reading.observation, pause, remarks=remarks), reading

    def _read(self, answer: Answer, means: str, run_id: str | None) -> Reading:
        """The reading of a body that shows a run, by a code or a rule. Raises BadPayload if it does not."""
        if means == "ok" and not isinstance(answer.body, dict | list):
            raise BadPayload("the answer is not a JSON object")
        reading = self.reader.read(answer.body)
        if run_id is not None and "id" not in answer.damaged:
            self.check_same_run(reading.answered_id, run_id)
        seen = reading.observation
        if means != "ok":
            status, word = RunStatus(means), seen.provider_status
            word = str(answer.status) if seen.status is RunStatus.UNKNOWN else word
            elsewhere = status in self.reader.output_after and seen.output is None
            seen = replace(seen, status=status, provider_status=word, output_is_elsewhere=elsewhere)
            reading = replaced(reading, remarks=tuple(one for one in reading.remarks if "read.status finds" not in one))
        elif not reading.rule and seen.status is RunStatus.UNKNOWN and _is_error(answer.body, seen):
            raise BadPayload("the answer is an error instead of a run")
        if answer.damaged and self.reader.fields:
            seen = without_damage(seen, answer.damaged, self.reader.fields)
        return reading if seen is reading.observation else replaced(reading, observation=seen)

    def check_same_run(self, found: Json, run_id: str) -> None:
        """Raise BadPayload if an answer names another run: neither the whole id nor a part of it."""
        if found == run_id:  # as nearly always
            return
        text = id_of(found)
        if text is not None and not any(is_same_run_id(text, part) for part in self.run_id.split(run_id).values()):
            check_same_run(text, run_id)

    def check_run_id(self, provider_run_id: str) -> str | None:
        """Text of the kind, or of the parts, that the definition names."""
        if problem := check_id(provider_run_id):
            return problem
        try:
            self.run_id.split(provider_run_id)
        except ValueError as error:
            return str(error)
        return None

    def runs_in(self, rows: Rows, variables: Mapping[str, str]) -> tuple[tuple[ListedRun, ...], str | None]:
        """The runs on a page of [list], and what could not be read in its items, as a sentence."""
        found, remark, notes = list[ListedRun | None](), None, Notes()
        for key, item in rows:
            found.append(self.listed(key, item, variables, notes))
            failed = (f"in an item of [list]: {note}" for note in notes if not note.startswith("read.status finds"))
            remark = remark or next(failed, None)
            notes.clear()
        runs = tuple(filter(None, found))
        if rows and not runs:
            remark = "list.id finds no run id in any item of [list]"
        elif runs and all(run.observation is None for run in runs):
            said = "read.status finds nothing in any item of [list], so it shows no change and discovers no run"
            remark = f'{said}; name its path in an item, too: status = ["job.status", "status"]'
        return runs, remark

    def listed(self, key: str | None, item: Json, variables: Mapping[str, str], notes: Notes) -> ListedRun | None:
        """The run of an item of [list], whose `key` it has in a map; None if it has no id that a run could have."""
        listing = self.tables["list"]
        run_id = self._id_at(listing.get("id", []), item, variables, notes) or key
        if run_id is None or self.check_run_id(run_id) is not None:
            return None
        try:
            reading = self.reader.read(item, notes)
        except BadPayload:
            return ListedRun(run_id, None, needs_detail=True)
        seen = reading.observation
        whole = listing.get("whole", False)
        is_whole = whole if isinstance(whole, bool) else isinstance(item, dict) and item.keys() >= set(whole)
        if seen.provider_status == "null" and (not reading.rule or (reading.rule == "absent" and not is_whole)):
            return ListedRun(run_id, None, needs_detail=True)  # a summary may lack its status
        return ListedRun(run_id, seen, needs_detail=not is_whole)

    def _id_at(self, paths: Any, body: Json, variables: Mapping[str, str], notes: Notes) -> str | None:
        """The id at a path, or joined from parts at several paths and from variables; None if a part is missing."""
        if not isinstance(paths, dict):
            return text_of(find(paths, body, notes))
        found = {name: text_of(find(path, body, notes)) for name, path in paths.items()}
        parts = {name: found.get(name) or variables.get(name) or "" for name in self.run_id.kinds}
        return self.run_id.join(parts) if all(parts.values()) else None

    def started(self, answer: Answer, variables: Mapping[str, str], base_url: str) -> str:
        """The id of the run in the answer to a trigger. Raises BadPayload if there is none."""
        origin, notes = self.tables["trigger"]["run_from"], Notes()
        by = next(iter(origin)) if isinstance(origin, dict) and origin.keys() in ({"header"}, {"url"}) else None
        try:
            if by is None:
                run_id = self._id_at(origin, answer.body, variables, notes)
            else:
                place = origin[by]
                named = answer.headers.get(place) if by == "header" else self._id_at(place, answer.body, {}, notes)
                if named is None:
                    raise BadPayload(f"there is no {place} in it")
                address = allowed_address(self.tables, base_url, named)
                run_id = self.run_id.in_address(self.tables["run"], base_url, address)
            if run_id is None or check_id(run_id) is not None:
                raise BadPayload("; ".join(notes) or "nothing stands where [trigger] says")
            self.run_id.split(run_id)
        except (BadPayload, ValueError) as error:
            raise BadPayload(f"the answer holds no run id: {error}") from None
        return run_id


def longest(*pauses: float | None) -> float | None:
    """The longest of the pauses that were asked for."""
    return max((one for one in pauses if one is not None), default=None)


def _default(answer: Answer) -> str:
    """The meaning by the status code alone."""
    if 200 <= answer.status < 300:
        return "ok"
    if answer.status == 304:
        return "unchanged"
    kind = failure_kind(answer.status, answer.headers)
    return next((means for means, one in FAILURES.items() if one is kind), "retry")


def _fits(rule: Mapping[str, Any], answer: Answer, notes: Notes, key: str) -> bool:
    """Whether code, headers and condition of a rule fit an answer."""
    codes = rule.get("http", answer.status)
    if {answer.status, f"{answer.status // 100}xx"}.isdisjoint(codes if isinstance(codes, list) else [codes]):
        return False
    if any((answer.headers.get(name) or "").strip() != value for name, value in rule.get("header", {}).items()):
        return False
    return "if" not in rule or (answer.body is not None and is_true(find(rule["if"], answer.body, notes, key)))


def _is_error(body: Json, seen: Observation) -> bool:
    """Whether a body without a status is an error document: it says what is wrong and shows nothing of a run."""
    said, _ = error_text(body)
    shows = (seen.output, seen.progress, seen.created_at, seen.started_at, seen.finished_at, seen.workflow_id)
    return said is not None and all(one is None for one in shows)
