"""A filter that can never match is refused when an endpoint is made, with the remedy."""

from __future__ import annotations

import json

import pytest

from bridge.cli.trigger import sample_event
from bridge.domain.event import EventType
from bridge.domain.filter_check import check_filter


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ('data.run.status == "failed"', "write text in single quotes: 'failed'"),
        ('contains(data.run.tags, "red")', "write text in single quotes: 'red'"),
        ('data.run.output.items[?state == "it\'s"]', "write text in single quotes: 'it\\'s'"),
        ("failed", "no event has a field `failed`; write text in single quotes: 'failed'"),
        ("data.run.status == failed", "no event has a field `failed`"),
        ("data.run.error != null", "write the value in backticks, as in data.run.error == `null`"),
        ("data.run['status'] == 'failed'", "write a dot before a name"),
        ("'status' == 'failed'", "both sides of a comparison are constants"),
        ("data.run.statuss", "no event has `data.run.statuss`; did you mean `status`?"),
        ("status == 'failed'", "did you mean `data.run.status`?"),
        ("run.status == 'failed'", "did you mean `data.run`?"),
        ("data.run.duration > `5`", "there are id, connection, provider"),
        ("data.run.progress.done > `2`", "there are completed, total"),
        ("data.run.tags.red", r"write `data.run.tags[].red`, or contains(data.run.tags, 'text')"),
        ("data.run.id.x", "`data.run.id` is a plain value without fields"),
        ("data.run.tags[0].x", "is a plain value without fields"),
        ("data.run.tags[?x == 'y']", "is a plain value without fields"),
        ("data.run.status == 'faild'", "`data.run.status` is never 'faild'; did you mean 'failed'?"),
        ("'faild' == data.run.status", "did you mean 'failed'?"),
        ("data.run.status == `7`", "it is one of queued, running"),
        ("type == 'run.finishd'", "did you mean 'run.finished'?"),
        ("data.previous_status == 'x'", "it is one of queued"),
        ("data.run | statuss", "no event has `data.run.statuss`"),
        ("data.run.settled && !(data.run.colour)", "no event has `data.run.colour`"),
        ("!data.run.settled", "add parentheses, as in !(data.run.settled)"),
        ("sort_by(data.run.tags, &x)", "is a plain value without fields"),
        ("length(dta) > `0`", "did you mean `data`?"),
        ("data.run.settled == 'true'", "is true or false and never equals text; write `data.run.settled` alone"),
        ("data.sequence == '1'", "`data.sequence` is a number and never equals text"),
        ("data.run.error.code == `404`", "write text in single quotes: '404'"),
        ("data.run.tags == 'red'", "write contains(data.run.tags, 'red')"),
        ("data.run.progress == `3`", "`data.run.progress` is an object"),
        ("data.run.progress > `3`", "`>` compares numbers, or texts, and `data.run.progress` is an object"),
        ("data.run.output.score > `true`", "`>` compares numbers, or texts, and 'True' is true or false"),
        ("data.run.settled > `0`", "`data.run.settled` is true or false"),
        ("data.run.id > `5`", "`>` never holds between text and a number"),
        ("length(data.run.tags) > '1'", "write a number in backticks, as in `3`"),
        ("length(data.run.tags) == '1'", "`length()` is a number and never equals text"),
        ("type(data.run.output) == 'dict'", "`type()` is never 'dict'; it is one of string, number"),
        ("starts_with(type, 'runs.')", "no `type` passes starts_with(…, 'runs.')"),
        ("contains(data.run.status, 'faild')", "no `data.run.status` passes contains(…, 'faild')"),
        ("contains(['faild'], data.run.status)", "`data.run.status` is none of these"),
        ("data.run[0].status", "`data.run` is not a list"),
        ("data.run.status[0]", "`data.run.status` is not a list"),
        (
            "data.run.metadata == 'x'",
            "`data.run.metadata` is an object and never equals text; compare one of its fields",
        ),
        ("data.connection == 'hub'", "`data.connection` is an object and never equals text"),
        ("data.endpoint[0]", "`data.endpoint` is not a list"),
        ("data.run.status == 'failed' || 'lost'", "'lost' alone is always true; compare it with a field"),
        ("!(data.run.error) && !'lost'", "'lost' alone is always true"),
        ("'failed'", "as in data.run.status == 'failed'"),
        ("data.run.status ==", "not a JMESPath expression"),
        ("!" * 900 + "data", "not a JMESPath expression"),
    ],
)
def test_what_no_event_has_is_refused_with_the_remedy(expression: str, says: str) -> None:
    with pytest.raises(ValueError) as refused:
        check_filter(expression)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    "expression",
    [
        "data.run.status == 'failed'",
        "data.run.status != 'faild'",
        "data.run.created_at >= '2026-01-01'",
        "data.run.finished_at > data.run.started_at",
        "data.run.metadata.priority > '5' || '0.5' < data.run.output.score",
        "data.run.output.score > `0.5`",
        "contains(['failed', 'expired'], data.run.status)",
        "contains(data.run.tags, 'red')",
        "data.run.tags[?starts_with(@, 'in')]",
        "!(data.run) || data.run.status == 'failed'",
        "data.run | status == 'failed'",
        "data.run.{s: status}.s == 'failed'",
        "data.run.[status, id][0]",
        "data.*.status",
        "data.run.error.message | contains(@, 'quota')",
        "data.run.output.anything[?at == 'all'].goes",
        "data.run.metadata.\"a key\" == 'x'",
        'data.run.output.items[?"a-key" == `1`]',
        "data.run.metadata.customer == `7`",
        "map(&status, data.run.output.steps)",
        "sort_by(data.run.output.items, &n)[0]",
        "data.connection.name == 'hub'",
        "data.endpoint.description",
        "data.run.output_url",
        "data.run.settled == `true` && data.sequence > `1` && length(data.run.tags) == `0`",
        "data.run.progress.completed >= data.run.progress.total",
        "data.run.status != `3` && data.run.error.code != `404`",
        "contains(['x', 'failed'], data.run.status) || contains('failed, lost', data.run.status)",
        "starts_with(type, 'run.') && contains(data.run.status, 'ed') && type(data.run.output) == 'object'",
        "data.run.output.score > `0.5` || data.run.metadata.score > data.run.output.score",
        "data.run.error == `null` || data.run.tags[0] == 'red' || to_number(data.run.metadata.n) > `3`",
        "(data.run.error.code || 'none') == 'none'",
        "`false`",
        "@",
    ],
)
def test_what_an_event_may_have_is_taken(expression: str) -> None:
    check_filter(expression)


@pytest.mark.parametrize("event_type", list(EventType))
def test_every_name_of_every_event_is_known(event_type: EventType) -> None:
    def paths(value: object, path: str) -> list[str]:
        found = [path] if path else []
        if isinstance(value, dict):
            found += [deep for name, item in value.items() for deep in paths(item, f"{path}.{name}".lstrip("."))]
        return found

    for path in paths(json.loads(sample_event(event_type).body), ""):
        check_filter(path)
