"""All planted faults."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.simulation.mutant import Mutant
from tests.simulation.mutants_of_delivery import OF_DELIVERY
from tests.simulation.mutants_of_runs import OF_RUNS
from tests.simulation.mutants_of_upkeep import OF_UPKEEP
from tests.simulation.planting import ROOT

MUTANTS: Final = (*OF_RUNS, *OF_DELIVERY, *OF_UPKEEP)


def mutant_named(name: str) -> Mutant:
    """The one of this name; `FILE=OTHER` puts the text of another file in the place of a whole module."""
    file, _, other = name.partition("=")
    if other:
        source = (ROOT / file).read_text(encoding="utf-8")
        return Mutant(name, "", file, source, Path(other).read_text(encoding="utf-8"))
    return next(each for each in MUTANTS if each.name == name)
