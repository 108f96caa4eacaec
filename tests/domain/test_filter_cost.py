"""The length and the cost of a filter are bounded."""

from __future__ import annotations

import pytest

from bridge.domain.errors import FilterFailed
from bridge.domain.filter import GATHERINGS_MAX, STEPS_MAX, compile_filter, evaluate, matches
from bridge.domain.jmespath_interpreter import TEXT_CHARS_MAX
from bridge.domain.run import Json

# --- when it is made ---


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("foo(@)", r"there is no function foo\(\)"),
        ("data.run.tags[?map(&lenght(@), @)]", r"there is no function lenght\(\)"),
        ("length(@, @)", r"length\(\) takes 1 argument, not 2"),
        ("contains(data.run.tags)", r"contains\(\) takes 2 arguments, not 1"),
        ("a && {b: [sort_by(a, &b, c)]}", r"sort_by\(\) takes 2 arguments, not 3"),
    ],
)
def test_a_call_that_can_never_work_is_refused_by_its_name(expression: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        compile_filter(expression)


@pytest.mark.parametrize("expression", ["not_null(a, b, c)", "merge(a)", "max_by(a, &b)", "not_null(a)"])
def test_functions_of_any_number_take_any_number(expression: str) -> None:
    assert compile_filter(expression)


def test_a_filter_gathers_a_few_lists_and_objects_and_no_more() -> None:
    def gathering(count: int) -> str:
        return " || ".join(["contains(['failed', 'cancelled'], data.run.status)"] * count)

    assert GATHERINGS_MAX == 8
    assert matches(gathering(8), {"data": {"run": {"status": "failed"}}})
    with pytest.raises(ValueError, match="at most 8 lists or objects"):
        compile_filter(gathering(9))
    with pytest.raises(ValueError, match="at most 8 lists or objects"):
        compile_filter("|".join(["[@,@][]"] * 22))


# --- when an event comes ---


MANY = [1] * 120_000  # 240 KB of an event of at most 256 KiB
NUMBERED = [{"n": number} for number in range(9000)]


@pytest.mark.parametrize(
    ("expression", "body"),
    [
        ("|".join(["[@,@][]"] * 8), MANY),
        ("[" + ",".join(["@"] * 500) + "][]", MANY),
        ("|".join(["[@,@]"] * 8) + " | to_string(@)", MANY[:1000]),
        ("[[@,@],[@,@]] | [@,@] | [@,@,@,@,@,@] | @ == [@[0],@[1],@[2],@[3],@[4],@[5]]", [MANY[:2000]]),
        ("contains([a,a,a,a], [b,b,b,b,b,b])", {"a": MANY[:50_000], "b": MANY[:50_000]}),
        ("join(a, b)", {"a": "x" * 100_000, "b": ["y"] * 50_000}),
        ("map(&'" + "x" * 900 + "', @) | join('', @)", MANY[:10_000]),
        ("map(&`" + "9" * 900 + "`, @) | to_string(@)", MANY[:10_000]),
        ("|".join(["to_string(to_array(@))"] * 40), ["\\" * 1000]),
        ("reverse(" * 100 + "@" + ")" * 100, MANY),
        ("[?[?[?@ == `2`]]]", [[MANY[:200]] * 100] * 3),
        ("map(&map(&map(&@, @), @), @)", [[MANY[:200]] * 100] * 3),
        ("[?@ == `2`]", MANY),
    ],
)
def test_the_worst_that_is_taken_ends_within_its_steps_on_the_worst_event(expression: str, body: Json) -> None:
    """It is judged in the write transaction: one filter that multiplies would hold up everybody's runs."""
    with pytest.raises(FilterFailed, match=f"takes more than {STEPS_MAX} steps"):
        evaluate(expression, body)
    assert not matches(expression, body)


@pytest.mark.parametrize(
    ("expression", "body"),
    [
        ("length(@) > `3` && contains(@, `1`)", MANY),
        ("[?n > `8000`]", NUMBERED),
        ("sort_by(@, &n)[0]", NUMBERED[::-1]),
        ("[].n | sum(@)", NUMBERED),
        ("contains(@, 'needle') || contains(@, 'x')", "x" * 250_000),
        ("to_string(@)", NUMBERED),
        ("@ != `{}`", {str(number): number for number in range(20_000)}),
    ],
)
def test_what_one_asks_of_a_large_output_is_affordable(expression: str, body: Json) -> None:
    assert matches(expression, body)


def test_no_text_is_made_that_is_much_longer_than_an_event() -> None:
    assert TEXT_CHARS_MAX == 4 * 256 * 1024
    body: Json = {"a": "x" * 1000, "b": ["y"] * 1000}
    assert matches("join(a, b)", body)
    assert not matches("join(a, b)", {"a": "x" * 1000, "b": ["y"] * 1100})
