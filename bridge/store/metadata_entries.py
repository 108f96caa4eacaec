"""Metadata as it is found: each key with its value is an entry, of which the index holds a hash."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

from pydantic_core import to_json

from bridge.domain.run import Json


def entry_of(key: str, text: str) -> int:
    """The hash of a key with the text of its value, as a signed number of 64 bits."""
    data = f"{key}\0{text}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(data, digest_size=8).digest(), signed=True)


def entries_of(metadata: Mapping[str, Json]) -> list[int]:
    """The hashes of all entries. The text of a value that is none is its JSON (`5`, `true`)."""
    texts = {key: value if isinstance(value, str) else to_json(value).decode() for key, value in metadata.items()}
    return sorted({entry_of(key, text) for key, text in texts.items()})
