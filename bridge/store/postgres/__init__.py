"""The PostgreSQL engine: connections, transactions, LISTEN/NOTIFY."""

from __future__ import annotations

import sys
from importlib.util import LazyLoader, find_spec, module_from_spec
from types import ModuleType
from typing import TYPE_CHECKING


def deferred_module(name: str) -> ModuleType:
    """The module `name`, whose code runs when an attribute of it is first read."""
    if name in sys.modules:
        return sys.modules[name]
    spec = find_spec(name)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(name)
    spec.loader = LazyLoader(spec.loader)
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    package, _, own_name = name.rpartition(".")
    setattr(sys.modules[package], own_name, module)  # as an import does
    return module


if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql

    dialect = postgresql
else:  # on SQLite it is never read
    dialect = deferred_module("sqlalchemy.dialects.postgresql")
