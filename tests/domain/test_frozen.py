"""Immutable values that are replaced very often."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bridge.domain.delivery import DeliveryState
from bridge.domain.frozen import replaced
from bridge.domain.run import Progress, RunStatus
from tests.support.sample_run import sample_run


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"id": "first"},
        {"provider_ref": "last"},
        {"status": RunStatus.FAILED, "progress": Progress(1, 2), "polls": 3},
    ],
)
def test_a_replaced_value_is_what_dataclasses_make_of_it(changes: dict[str, object]) -> None:
    run = sample_run()
    assert replaced(run, **changes) == replace(run, **changes)  # type: ignore[arg-type]


def test_a_field_that_it_does_not_have_is_refused() -> None:
    with pytest.raises(KeyError):
        replaced(Progress(1, 2), done=DeliveryState.PENDING)
