"""Read the body of a response: bounded, decompressed, decoded and parsed."""

from __future__ import annotations

import asyncio
import codecs
import json
import zlib
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Final

import aiohttp

from bridge.domain.errors import BadPayload
from bridge.domain.run import Json
from bridge.domain.strict_json import parse_json_text
from bridge.providers.partial_json import RunFields, RunScanner

BODY_BYTES_MAX: Final = 8 * 1024 * 1024
SCANNED_BYTES_MAX: Final = 128 * 1024 * 1024  # of a run's body, which is not kept
_CHUNK_BYTES: Final = 64 * 1024
_GZIP: Final = b"\x1f\x8b"  # no text begins so
_HEAD_BYTES: Final = 4096  # enough to tell what a body is


async def read_pieces(response: aiohttp.ClientResponse, bytes_max: int, chunk: bytes = b"") -> AsyncGenerator[bytes]:
    """The unpacked body in pieces of 64 KiB; `chunk` was read before. Raises BadPayload beyond `bytes_max` bytes."""
    if (response.content_length or 0) > bytes_max:
        raise _too_large(bytes_max)
    content, decompress, size = response.content, _Decompressor(response.headers.get("Content-Encoding", "")), 0
    chunk = chunk or (content.read_nowait() if content.is_eof() else b"")  # usually all of it came with the head
    while chunk or (not content.at_eof() and (chunk := await content.read(_CHUNK_BYTES))):
        for piece in decompress(chunk):
            size += len(piece)
            if size > bytes_max:
                raise _too_large(bytes_max)
            yield piece
        chunk = b""
    if rest := decompress.finish():
        yield rest


async def read_bytes(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    """The whole body. Raises BadPayload beyond `bytes_max` bytes."""
    async with aclosing(read_pieces(response, bytes_max)) as pieces:
        return b"".join([piece async for piece in pieces])


def parse_bytes(data: bytes, response: aiohttp.ClientResponse | None) -> Json:
    """The JSON of a body: UTF-8, -16 or -32, or else in the charset that the response declares. Raises BadPayload."""
    try:
        text = data.decode(json.detect_encoding(data)).removeprefix("\ufeff")
    except UnicodeDecodeError:
        try:
            text = data.decode((response and response.charset) or "ascii")
        except (UnicodeDecodeError, LookupError):
            raise BadPayload("the body is not UTF-8") from None
    return parse_json_text(text)


class Body:
    """The body of one response; with `fields`, the body of a run that is read as far as it can be.

    `data` is the whole body, or None if it is larger than `bytes_max`; `size` counts its bytes, `head` has the first.
    """

    def __init__(self, bytes_max: int, fields: RunFields | None) -> None:
        self.data: bytes | None = b""
        self.head = b""
        self.size = 0
        self.is_read = False
        """Whether the body has come to its end."""
        self.bytes_max = bytes_max
        self._fields = fields
        self._scanner: RunScanner | None = None
        self._response: aiohttp.ClientResponse | None = None
        self._came = b""

    def take(self, response: aiohttp.ClientResponse) -> bool:
        """Take a small body that came with the head, as most do; whether that was all of it."""
        self._response, content = response, response.content
        if content.is_eof() and content.total_bytes <= _CHUNK_BYTES and "Content-Encoding" not in response.headers:
            self._came = came = content.read_nowait()
            if not came.startswith(_GZIP):
                self.data, self.head, self.size, self.is_read = came, came[:_HEAD_BYTES], len(came), True
        return self.is_read

    async def read(self, response: aiohttp.ClientResponse) -> None:
        """Read a body that `take` did not take. Raises BadPayload if it is too large and has no `fields`."""
        kept: list[bytes] = []
        is_run = self._fields is not None and self._fields.items is None
        async with aclosing(
            read_pieces(response, SCANNED_BYTES_MAX if is_run else self.bytes_max, self._came)
        ) as pieces:
            async for piece in pieces:
                self.head = self.head or piece[:_HEAD_BYTES]
                self.size += len(piece)
                kept.append(piece)
                if self.size > self.bytes_max and self._fields:
                    self.data = None
                    await self._scan(kept, self._fields)
                    kept.clear()
        if self.data is not None:
            self.data = b"".join(kept)
        self.is_read = True

    @property
    def is_partly_read(self) -> bool:
        """Whether the reading of a large body found some of a run's members, even if it was interrupted."""
        return self._scanner is not None and bool(self._scanner.members)

    async def parse(self) -> tuple[Json, frozenset[str]]:
        """The value, and the names of its members that could not be read whole. Raises BadPayload."""
        if self.data is not None:
            try:
                return parse_bytes(self.data, self._response), frozenset()
            except BadPayload:
                if not self._fields or not self.data.strip():
                    raise
                await self._scan(_slices(self.data), self._fields)
                if not (self._scanner and self._scanner.is_closed and self._scanner.members):
                    raise
        if self._scanner is None:
            raise BadPayload("the body is empty")
        members, damaged = self._scanner.members, self._scanner.damaged
        if not self._scanner.is_closed and self._fields and self._fields.output:
            damaged = damaged | ({self._fields.output} - members.keys())
        return members, frozenset(damaged)

    async def _scan(self, pieces: Iterator[bytes] | list[bytes], fields: RunFields) -> None:
        for piece in pieces:
            if self._scanner is None:
                self._scanner = RunScanner(fields)
                encoding = json.detect_encoding(piece)
                is_utf8 = encoding.startswith("utf-8")
                self._decoder = None if is_utf8 else codecs.getincrementaldecoder(encoding)(errors="replace")
            self._scanner.feed(self._decoder.decode(piece).encode() if self._decoder else piece)
            await asyncio.sleep(0)  # a large body must not hold the loop


def _slices(data: bytes) -> Iterator[bytes]:
    return (data[start : start + _CHUNK_BYTES] for start in range(0, len(data), _CHUNK_BYTES))


def _too_large(bytes_max: int) -> BadPayload:
    return BadPayload(f"the body is larger than {bytes_max} bytes")


class _Decompressor:
    """Unpacks gzip and deflate, 64 KiB at a time: some servers ignore `Accept-Encoding: identity`.

    The bytes decide; the header may be missing, or still there after a proxy has unpacked the body.
    """

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding.strip().lower()[:40]
        self._start: bytes | None = b""  # None once enough has come to know the packing
        self._is_packed = False
        self._inflate = zlib.decompressobj()  # of no use unless it is packed

    def __call__(self, chunk: bytes) -> Iterator[bytes]:
        """The pieces that this chunk yields."""
        if self._start is not None:
            chunk = self._start + chunk
            if len(chunk) < 2:
                self._start = chunk
                return
            self._start, wbits = None, self._wbits(chunk)
            if wbits is not None:
                self._is_packed, self._inflate = True, zlib.decompressobj(wbits=wbits)
        try:
            while chunk and self._is_packed:
                if self._inflate.eof and chunk.startswith(_GZIP):  # one gzip file behind another is one text
                    self._inflate = zlib.decompressobj(wbits=31)
                elif self._inflate.eof:
                    break  # bytes after the end count, and spoil the JSON
                yield self._inflate.decompress(chunk, _CHUNK_BYTES)
                chunk = self._inflate.unused_data if self._inflate.eof else self._inflate.unconsumed_tail
        except zlib.error:
            raise BadPayload("the body cannot be unpacked: it is damaged") from None
        if chunk:
            yield chunk

    def _wbits(self, start: bytes) -> int | None:
        """Zlib's `wbits` for a body that begins with these bytes; None if it is not compressed."""
        is_plain = self._encoding in ("", "identity") or start.lstrip()[:1] in (b"{", b"[")
        if start.startswith(_GZIP) and "," not in self._encoding:
            return 31
        if self._encoding == "deflate" and start[0] & 15 == 8 and int.from_bytes(start[:2]) % 31 == 0:
            return 15
        if not is_plain and self._encoding == "deflate":
            return -15  # without the header that it should have
        if self._encoding in ("gzip", "x-gzip") and not is_plain:
            raise BadPayload("the body is not the gzip that its header promises")
        if not is_plain:
            raise BadPayload(f"the body is packed as {self._encoding}, though identity was asked for")
        return None

    def finish(self) -> bytes:
        """The last bytes. Raises BadPayload if the packed body is not complete."""
        if self._is_packed and not self._inflate.eof:
            raise BadPayload("the packed body breaks off")
        return self._start or b""
