"""The provider APIs: fetch one run, translate it into our words, start and cancel where that is possible.

One file per API, or a definition in `definitions/`; never stores anything and never decides when to ask.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridge.providers.registry import REGISTRY, open_http, provider_of

__all__ = ["REGISTRY", "open_http", "provider_of"]


def __getattr__(name: str) -> Any:
    """The registry when it is wanted: what only reads definitions needs no HTTP client."""
    if name in __all__:
        return getattr(import_module("bridge.providers.registry"), name)
    raise AttributeError(name)
