"""All planted faults."""

from __future__ import annotations

from typing import Final

from tests.simulation.mutant import Mutant
from tests.simulation.mutants_of_delivery import OF_DELIVERY
from tests.simulation.mutants_of_runs import OF_RUNS
from tests.simulation.mutants_of_upkeep import OF_UPKEEP

MUTANTS: Final = (*OF_RUNS, *OF_DELIVERY, *OF_UPKEEP)


def mutant_named(name: str) -> Mutant:
    """The one of this name."""
    return next(each for each in MUTANTS if each.name == name)
