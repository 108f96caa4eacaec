"""The built-in definitions: each without a mistake, and each word, rule and answer shown by a fixture."""

from __future__ import annotations

import runpy

import pytest

from bridge.definitions.files import BUILT_IN, Definitions
from bridge.providers.definition_answers import Answers
from bridge.providers.fixtures import compare, fixtures_beside, read_fixture, unseen_words

DEFINITIONS = Definitions()
NAMES = [name for name in DEFINITIONS.names if DEFINITIONS.files[name].path.is_relative_to(BUILT_IN)]


def test_there_is_a_catalogue():
    assert len(NAMES) >= 31


@pytest.mark.parametrize("name", NAMES)
def test_every_fixture_is_read_as_it_says(name):
    answers = Answers(DEFINITIONS.get(name))
    fixtures = [read_fixture(path) for path in fixtures_beside(DEFINITIONS.files[name].path)]

    assert {one.name: one.differences for one in (compare(answers, each) for each in fixtures) if one.differences} == {}
    assert list(unseen_words(answers, fixtures)) == []
    assert all(each.expect for each in fixtures)


@pytest.mark.parametrize("name", NAMES)
def test_every_definition_says_where_it_comes_from(name):
    tables = DEFINITIONS.get(name).tables

    assert tables["docs"].startswith("https://")
    assert tables["checked"]


@pytest.mark.parametrize("name", [name for name in NAMES if "list" in DEFINITIONS.get(name).tables])
def test_every_list_has_a_fixture(name):
    fixtures = [read_fixture(path) for path in fixtures_beside(DEFINITIONS.files[name].path)]

    assert any(each.request == "list" and each.expect["items"] for each in fixtures)


def test_the_page_is_what_the_definitions_say():
    """`.venv/bin/python deploy/catalogue.py` writes it again."""
    written = runpy.run_path("deploy/catalogue.py")

    assert written["PAGE"].read_text() == written["page"]()


@pytest.mark.parametrize("name", NAMES)
def test_every_definition_says_how_it_was_checked_and_what_it_cannot_say(name):
    text = DEFINITIONS.files[name].path.read_text()

    assert "\n# Checked: " in text
    assert "\n# Not said: " in text
