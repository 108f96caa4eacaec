"""Endpoint filters: JMESPath over the event's body, refused when made, never an error when an event comes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.cli.trigger import sample_event
from bridge.domain.event import EventType, run_event
from bridge.domain.filter import FILTER_CHARS_MAX, compile_filter, matches
from bridge.domain.run import Json, Progress, RunStatus
from tests.support.sample_run import REGISTERED_AT, sample_run

FUNCTIONS_OF_ONE = [
    "abs", "avg", "ceil", "floor", "keys", "length", "max", "min", "not_null", "reverse", "sort", "sum", "to_array",
    "to_number", "to_string", "type", "values",
]  # fmt: skip
FUNCTIONS_OF_TWO = ["contains", "ends_with", "starts_with", "join", "merge", "not_null"]
LITERALS = ["'x'", "'inf'", "`1`", "`0`", "`1e999`", "`null`", "`[]`", "`{}`", "`true`", '`[1, "a", null]`']
NAMES = [
    "id", "type", "data", "run", "status", "tags", "metadata", "progress", "completed", "output", "a", "b", "missing",
]  # fmt: skip
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)
paths = st.lists(
    st.sampled_from([*NAMES, "*", "[0]", "[-1]", "[]", "[*]", "[::2]", "[?a]"]), min_size=1, max_size=4
).map(lambda parts: ".".join(parts).replace(".[", "["))
arguments = st.just("@") | paths | st.sampled_from(LITERALS)
calls = st.one_of(
    st.builds("{}({})".format, st.sampled_from(FUNCTIONS_OF_ONE), arguments),
    st.builds("{}({}, {})".format, st.sampled_from(FUNCTIONS_OF_TWO), arguments, arguments),
    st.builds("{}({}, &{})".format, st.sampled_from(["sort_by", "max_by", "min_by"]), arguments, arguments),
    st.builds("map(&{}, {})".format, arguments, arguments),
)
expressions = st.recursive(
    calls,
    lambda inner: st.one_of(
        st.builds("{}({})".format, st.sampled_from(FUNCTIONS_OF_ONE), inner),
        st.builds("{} {} {}".format, inner, st.sampled_from(["==", "!=", "<", ">=", "&&", "||", "|"]), inner),
        st.builds("!({})".format, inner),
        st.builds("[{}, {}]".format, inner, inner),
    ),
    max_leaves=3,
)


def finished(status: str = "succeeded", **more: Any) -> Json:
    """The body of the last event of a run."""
    run = sample_run(status=RunStatus(status), **more)
    event = run_event(
        "evt_1", EventType.RUN_FINISHED, run, sequence=2, previous_status=RunStatus.RUNNING, now=REGISTERED_AT
    )
    body: Json = json.loads(event.body)
    return body


@pytest.mark.parametrize(
    ("expression", "wanted", "unwanted"),
    [
        ("data.run.status == 'failed'", finished("failed"), finished()),
        ("contains(data.run.tags, 'invoices')", finished(tags=("a", "invoices")), finished(tags=("a",))),
        ("!(data.run) || data.run.status == 'failed'", finished("failed"), finished()),
        ("data.run.workflow_id", finished(workflow_id="wf"), finished()),
        ("data.run.metadata.customer == `7`", finished(metadata={"customer": 7}), finished(metadata={"customer": 8})),
        ("data.run.tags", finished(tags=("a",)), finished()),
        ("data.run.tags[?starts_with(@, 'in')]", finished(tags=("in1",)), finished(tags=("out",))),
        ("!(data.run.settled)", finished("running"), finished()),
        ("data.run.progress.completed > `2`", finished(progress=Progress(3, 5)), finished(progress=Progress(2, 5))),
        ("@", finished(), {}),
    ],
)
def test_what_the_expression_says_of_the_body_decides(expression: str, wanted: Json, unwanted: Json) -> None:
    assert matches(expression, wanted)
    assert not matches(expression, unwanted)


def test_an_event_without_a_run_is_no_trouble_for_a_filter_about_runs() -> None:
    ping = json.loads(sample_event(EventType.BRIDGE_PING).body)
    assert not matches("data.run.status == 'failed'", ping)
    assert not matches("contains(data.run.tags, 'invoices')", ping)
    assert matches("!(data.run) || data.run.status == 'failed'", ping)


@pytest.mark.parametrize("value", [None, False, "", [], {}])
def test_what_jmespath_calls_false_lets_nothing_through(value: Json) -> None:
    assert not matches("value", {"value": value})


@pytest.mark.parametrize("value", [True, "x", [0], {"a": None}, 1, 0, 0.0])
def test_what_jmespath_calls_true_passes_and_every_number_is(value: Json) -> None:
    """In JMESPath only null, false and empty values are false: progress of 0 passes too."""
    assert matches("value", {"value": value})


# --- when it is made ---


@pytest.mark.parametrize(
    "expression",
    [
        "", " ", "data.", "data.run.status = 'failed'", "a ==", "(a", "a)", "'open", "a[", "&&", "a b", "#", "²",
        "(" * 1000, "\ud800", "\0",
    ],
)  # fmt: skip
def test_a_mistake_is_reported_in_one_line(expression: str) -> None:
    with pytest.raises(ValueError, match="not a JMESPath expression: ") as refused:
        compile_filter(expression)
    assert "\n" not in str(refused.value)


def test_at_most_1024_characters_are_taken() -> None:
    assert FILTER_CHARS_MAX == 1024
    longest = "a || " * 204 + "data"
    assert len(longest) == 1024
    compile_filter(longest)
    with pytest.raises(ValueError, match="at most 1024 characters"):
        compile_filter(longest + " ")


@pytest.mark.filterwarnings("ignore:deprecated string literal syntax")
@given(st.text(max_size=40) | st.text("ab.[]()*@&|!'`\"-?:=<{},0\\ ", max_size=30))
def test_any_text_is_an_expression_or_a_value_error(text: str) -> None:
    try:
        compile_filter(text)
    except ValueError:
        assert not matches(text, finished())
    else:
        assert matches(text, finished()) in {True, False}


# --- when an event comes ---


@pytest.mark.parametrize(
    "expression",
    [
        "length(data.run.error)",
        "sort(data.run.output)",
        "join(', ', data.run.output)",
        "unheard_of(data)",
        "length(data, data)",
        "data.run.tags[::0]",
        "contains(data.run.provider_run_id, data.run.workflow_id)",
        "contains(data.run.provider_run_id, `1`)",
        "max_by(data.run.output, &@)",
        "max_by(data.run.metadata.lines, &k)",
        "ceil(to_number('inf'))",
        "floor(`-1e999`)",
        "sum(data.run.metadata.numbers)",
        "avg(data.run.metadata.numbers)",
    ],
)
def test_an_expression_that_fails_on_an_event_lets_it_pass_by_without_an_error(expression: str) -> None:
    """It is judged in the transaction that records the run: an error there would lose the transition for everybody."""
    lines: Json = [{"k": 1}, {"k": "b"}]
    body = finished(output=[1, "a", None], metadata={"lines": lines, "numbers": [10**400, 0.5]})
    assert not matches(expression, body)


@pytest.mark.slow
@given(expressions, json_values)
@settings(max_examples=400, deadline=None)
def test_no_expression_fails_on_any_body(expression: str, body: Json) -> None:
    assert matches(expression, body) in {True, False}
    assert matches(expression, finished(output=body)) in {True, False}


def test_a_body_of_any_depth_is_judged() -> None:
    deep: Json = 1
    for _ in range(5000):
        deep = [deep]
    assert matches("to_string(@)", deep) in {True, False}
    assert matches("@ == @", deep) in {True, False}


@pytest.mark.parametrize(
    ("expression", "remedy"),
    [
        ("   ", "write a condition, as in data.run.status == 'failed'"),
        ("data.run.settled and data.run.status == 'failed'", "write && for and, || for or, ! for not"),
        ("not data.run.settled", "write && for and, || for or, ! for not"),
        ("data.run.status = 'this and that'", "compare with =="),
        ("data.run.status === 'failed'", "compare with =="),
        ("data.run.status in ['failed']", "write contains(['failed', 'lost'], data.run.status) for one of these"),
        ("data.run.metadata.order-id == '1'", 'a name with a dash stands in double quotes: "order-id"'),
        ("$.data.run.settled", "a path begins with a name, as in data.run.status"),
    ],
)
def test_what_other_languages_have_is_named_with_its_remedy(expression: str, remedy: str):
    with pytest.raises(ValueError, match="not a JMESPath expression: ") as refused:
        compile_filter(expression)
    assert str(refused.value).endswith(f"; {remedy}")
