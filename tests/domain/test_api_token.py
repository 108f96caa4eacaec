"""Tokens of the API."""

from __future__ import annotations

import pytest

from bridge.domain.api_token import Scope


@pytest.mark.parametrize(
    ("scope", "covered"),
    [
        (Scope.READ, {Scope.READ}),
        (Scope.REGISTER, {Scope.READ, Scope.REGISTER}),
        (Scope.ADMIN, {Scope.READ, Scope.REGISTER, Scope.ADMIN}),
    ],
)
def test_a_scope_covers_itself_and_those_below_it(scope: Scope, covered: set[Scope]) -> None:
    assert {wanted for wanted in Scope if scope.covers(wanted)} == covered
