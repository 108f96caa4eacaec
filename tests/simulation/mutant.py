"""A planted fault: it changes a line of the real code, and the simulation must find it.

`text` stands in `file` exactly once, which a test checks: a change of that line is made here too, so that the fault
stays the one that is described.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """`fault` is what a person would say of it."""

    name: str
    fault: str
    file: str
    text: str
    instead: str
    more: tuple[tuple[str, str], ...] = ()
    """Further changes to the same file: what stands there, and what instead."""

    @property
    def module(self) -> str:
        """The name of the module that it is in."""
        return self.file.removesuffix(".py").replace("/", ".")
