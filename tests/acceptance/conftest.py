"""Slow stories start with the first test of this folder, if a test that checks them was selected."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.acceptance import killing, stories
from tests.acceptance.slowly import Slowly
from tests.support.postgres import Postgres


@pytest.fixture(scope="session", autouse=True)
def begun(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slowly | None]:
    if not any("slowly" in getattr(item, "fixturenames", ()) for item in request.session.items):
        yield None
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    folder = tmp_path_factory.mktemp
    slowly = Slowly(
        idle={
            one.__name__: partial(one, folder(one.__name__))
            for one in (stories.lose_a_run, stories.drain, stories.refuse_the_key)
        },
        busy={
            "demonstrate": partial(stories.demonstrate, folder("demo")),
            "kill on sqlite": partial(killing.kill_again_and_again, folder("sqlite")),
            "kill on postgresql": partial(killing.kill_again_and_again, folder("pg"), postgres.create_database()),
            "fuzz": partial(stories.fuzz, folder("fuzz")),
        },
    )
    yield slowly
    slowly.stop()


@pytest.fixture
def slowly(begun: Slowly | None) -> Slowly:
    assert begun is not None
    return begun


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder starts processes. The tests of slow stories run last, to give the stories time."""
    folder = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(folder):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: "slowly" in getattr(item, "fixturenames", ()))
