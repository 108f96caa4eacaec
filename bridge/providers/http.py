"""One request to a provider, bounded in time and size, its failure judged once and for all.

Whatever goes wrong between us and the provider leaves here as a `ProviderFailure` that carries a domain
`PollFailed`. Follows no redirect, keeps no cookie, heeds no proxy variable, shows no secret.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import cached_property, lru_cache
from typing import Final
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from bridge import __version__
from bridge.domain.errors import BadPayload, BridgeError
from bridge.domain.frozen import frozen
from bridge.domain.observation import FailureKind, PollFailed
from bridge.domain.run import Json
from bridge.domain.strict_json import parse_json
from bridge.providers.pause import asked_pause_s, quota_is_used_up
from bridge.runtime.aiohttp_internals import disable_retry

BODY_BYTES_MAX: Final = 8 * 1024 * 1024
_ERROR_BYTES_MAX: Final = 64 * 1024
_CHUNK_BYTES: Final = 64 * 1024
_ERROR_READ_S: Final = 2.0  # the status line has already told the outcome; its body is only a courtesy
_MESSAGE_CHARS_MAX: Final = 400
_PATH_CHARS_MAX: Final = 150
_SAID_CHARS_MAX: Final = 200
_FAULTS: Final = (BadPayload, aiohttp.ClientError, OSError, ValueError)  # of an exchange; a timeout is an OSError
_SECRET_CHARS_MIN: Final = 6  # anything shorter would only make holes in ordinary words


class ProviderFailure(BridgeError):
    """The provider could not be asked or its answer cannot be used; `failed` says why.

    `code` is the provider's own error code where its error body had one.
    """

    def __init__(self, failed: PollFailed, code: str | None = None) -> None:
        self.failed = failed
        self.code = code
        super().__init__(failed.message)


@frozen
class ProviderResponse:
    """A 2xx answer with its JSON, or the 304 that an `etag` was sent for. Header names match in any case.

    `data` is the body unpacked; where it is what was known before, `is_known`, it is not read once more and `body` is
    None. `poll_after_s`: the provider asked not to be asked again sooner than that.
    """

    status: int
    headers: Mapping[str, str]
    body: Json
    data: bytes = b""
    poll_after_s: float | None = None
    is_known: bool = False


def new_session() -> aiohttp.ClientSession:
    """A session for all providers; to be made inside the running loop and closed by the caller.

    Has no time or connection limits of its own: deadlines stand beside each request, seats are the poller's.
    """
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None),
        headers={"User-Agent": f"runbridge/{__version__}", "Accept-Encoding": "identity"},
        auto_decompress=False,
        trust_env=False,
    )
    disable_retry(session)
    return session


class ProviderHttp:
    """Requests to one connection. `options` are the connection's own settings, for the provider's use."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        headers: dict[str, str],
        timeout_s: float,
        body_bytes_max: int = BODY_BYTES_MAX,
        *,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.options: Mapping[str, str] = options or {}
        self.body_bytes_max = body_bytes_max
        self._session = session
        self._base_url = base_url.rstrip("/")
        self._headers = {"Accept": "application/json", "Accept-Encoding": "identity", **headers}
        self._keys = [value.rpartition(" ")[2] for value in headers.values()]
        self.timeout_s = timeout_s

    @cached_property
    def _base(self) -> URL:
        return URL(self._base_url)

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        json_body: Json = None,
        timeout_s: float | None = None,
        expects_json: bool = True,
        etag: str | None = None,
        known: bytes | None = None,
    ) -> ProviderResponse:
        """The 2xx answer to one request; ProviderFailure for everything else, but 304 where `etag` was sent.

        `path` begins with a slash and is percent-encoded already. `timeout_s` covers the whole exchange,
        from the name lookup to the last byte. Without `expects_json` the body is read but not looked at, as where it
        is `known`.
        """
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        response: aiohttp.ClientResponse | None = None
        try:
            async with asyncio.timeout(limit_s):
                response = await self._open(method, path, query, json_body, etag)
                await self._check(method, path, response, etag)
                data = await _read_body(response, self.body_bytes_max)
            is_known = data == known
            body = parse_json(data) if expects_json and response.status != 304 and not is_known else None
            return ProviderResponse(
                response.status, response.headers, body, data, asked_pause_s(response.headers), is_known
            )
        except _FAULTS as error:
            raise self._fault(error, method, path, response, limit_s) from None
        finally:
            if response is not None and not response.closed:  # as it is by itself when its body has ended
                response.release()

    @asynccontextmanager
    async def stream(
        self, method: str, path: str, *, json_body: Json = None, timeout_s: float | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The chunks of a 2xx answer as they come, within the size cap; leaving the block closes the connection."""
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        response: aiohttp.ClientResponse | None = None
        try:
            async with asyncio.timeout(limit_s):
                response = await self._open(method, path, (), json_body, None)
                await self._check(method, path, response, None)
                async with aclosing(_chunks(response, self.body_bytes_max)) as chunks:
                    yield chunks
        except _FAULTS as error:
            raise self._fault(error, method, path, response, limit_s) from None
        finally:
            if response is not None:
                response.release()

    def _open(
        self, method: str, path: str, query: Sequence[tuple[str, str]], json_body: Json, etag: str | None
    ) -> Awaitable[aiohttp.ClientResponse]:
        # encoded=True: yarl must not undo the percent-encoding of a run id, nor fold its dots
        address = _address(self._base, path)
        if query:
            address = URL(f"{address}?{urlencode(query)}", encoded=True)
        headers = dict(self._headers)
        data = None
        if etag is not None:
            headers["If-None-Match"] = etag
        if json_body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(json_body, allow_nan=False).encode()
        return self._session.request(method, address, headers=headers, data=data, allow_redirects=False)

    async def _check(self, method: str, path: str, response: aiohttp.ClientResponse, etag: str | None) -> None:
        """ProviderFailure unless the status is a success, or the 304 that `etag` was sent for."""
        if 200 <= response.status < 300 or (response.status == 304 and etag):
            return
        kind = failure_kind(response.status, response.headers)
        message, code = error_text(await _read_error(response))
        said = f"HTTP {response.status}" + (f", {self._redacted(message)}" if message else "")
        if 300 <= response.status < 400:
            said += ", a redirect, which is not followed: check base_url"
        pause_s = asked_pause_s(response.headers, with_quota=kind is FailureKind.THROTTLED)
        raise self._failure(kind, method, path, said, response.status, pause_s, code)

    def _fault(
        self, error: Exception, method: str, path: str, response: aiohttp.ClientResponse | None, limit_s: float
    ) -> ProviderFailure:
        """What went wrong with an exchange, before its answer or in the middle of it."""
        match error:
            case BadPayload():
                kind, said = FailureKind.BAD_PAYLOAD, str(error)
            case TimeoutError():
                kind, said = FailureKind.TIMEOUT, f"no complete answer within {limit_s:g} s"
            case _:
                kind, said = _transport_failure(error)
        return self._failure(kind, method, path, said, None if response is None else response.status)

    def _failure(
        self,
        kind: FailureKind,
        method: str,
        path: str,
        said: str,
        status: int | None = None,
        retry_after_s: float | None = None,
        code: str | None = None,
    ) -> ProviderFailure:
        message = f"{method} {path[:_PATH_CHARS_MAX]}: {said}"[:_MESSAGE_CHARS_MAX]
        return ProviderFailure(PollFailed(kind, message, status, retry_after_s), code)

    def _redacted(self, text: str) -> str:
        # some servers repeat the key they were given in the error that refuses it
        for secret in self._keys:
            text = text.replace(secret, "****") if len(secret) >= _SECRET_CHARS_MIN else text
        return text[:_SAID_CHARS_MAX]


@lru_cache(maxsize=1024)  # a run is asked for again and again; a kilobyte each
def _address(base: URL, path: str) -> URL:
    return base.with_path(base.raw_path.rstrip("/") + path, encoded=True)


def failure_kind(status: int, headers: Mapping[str, str]) -> FailureKind:
    """What a status outside 2xx means for the poll; a 403 about a used-up quota is throttling."""
    match status:
        case 429:
            return FailureKind.THROTTLED
        case 403 if quota_is_used_up(headers):
            return FailureKind.THROTTLED
        case 401 | 403:
            return FailureKind.UNAUTHORIZED
        case 404 | 410:
            return FailureKind.NOT_FOUND
        case _ if status >= 500:
            return FailureKind.SERVER_ERROR
        case _:
            return FailureKind.REJECTED


def error_text(body: Json) -> tuple[str | None, str | None]:
    """Message and code in an error body, in any of the spellings that the providers use; None where absent."""
    if isinstance(body, str):
        printable = "".join(char if char.isprintable() else " " for char in body)  # it will be shown on a terminal
        return " ".join(printable.split()) or None, None
    if isinstance(body, list) and body:
        return error_text(body[0])
    if not isinstance(body, dict):
        return None, None
    code = body.get("code")
    own_code = code[:100] if isinstance(code, str) else None
    for key in ("message", "detail", "error", "msg"):
        message, inner_code = error_text(body.get(key))
        if message:
            return message, own_code or inner_code
    return None, own_code


def _transport_failure(error: Exception) -> tuple[FailureKind, str]:
    match error:
        case aiohttp.ClientConnectorDNSError():
            return FailureKind.DNS, f"the name {error.host} cannot be looked up"
        case aiohttp.ClientSSLError() | aiohttp.ServerFingerprintMismatch() | ssl.SSLError():
            return FailureKind.TLS, f"no TLS connection ({_reason(error)})"
        case aiohttp.ClientConnectorError():
            number = error.os_error.errno
            why = os.strerror(number) if number and number > 0 else "no address of it can be reached"
            return FailureKind.CONNECT, f"cannot connect to {error.host}:{error.port} ({why})"
        case aiohttp.ClientError() | OSError():
            return FailureKind.TRANSPORT, f"the connection broke ({_reason(error)})"
        case _:
            said = "the request cannot be made: base_url, api_key or an option holds a character that HTTP forbids"
            return FailureKind.REJECTED, said


def _reason(error: Exception) -> str:
    reason = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    words = getattr(reason, "verify_message", None) or getattr(reason, "reason", None)
    return f"{type(error).__name__}: {words}" if isinstance(words, str) else type(error).__name__


async def _read_error(response: aiohttp.ClientResponse) -> Json:
    try:
        async with asyncio.timeout(_ERROR_READ_S):
            return parse_json(await _read_body(response, _ERROR_BYTES_MAX))
    except (BadPayload, TimeoutError, aiohttp.ClientError, OSError):
        return None


async def _read_body(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    intake, content, pieces = _Intake(response, bytes_max), response.content, []
    if content.is_eof():  # all of it came with the head, as mostly: nothing to wait for
        pieces.append(intake(content.read_nowait()))
    while not content.at_eof() and (chunk := await content.read(_CHUNK_BYTES)):
        pieces.append(intake(chunk))
    intake.finish()
    return b"".join(pieces)


async def _chunks(response: aiohttp.ClientResponse, bytes_max: int) -> AsyncGenerator[bytes]:
    intake = _Intake(response, bytes_max)
    while chunk := await response.content.read(_CHUNK_BYTES):
        yield intake(chunk)
    intake.finish()


class _Intake:
    """Takes a body in piece by piece, unpacked, at most so many bytes of it."""

    def __init__(self, response: aiohttp.ClientResponse, bytes_max: int) -> None:
        self._bytes_max = self._room = bytes_max
        if (response.content_length or 0) > bytes_max:
            raise self._too_large()
        self._unpack = _Unpacker(response.headers.get("Content-Encoding", ""))
        self.finish = self._unpack.finish

    def __call__(self, chunk: bytes) -> bytes:
        piece = self._unpack(chunk, self._room + 1)
        self._room -= len(piece)
        if self._room < 0:
            raise self._too_large()
        return piece

    def _too_large(self) -> BadPayload:
        return BadPayload(f"the body is larger than {self._bytes_max} bytes")


class _Unpacker:
    """Undoes gzip, for servers that pack although identity was asked for; never beyond the room given."""

    def __init__(self, encoding: str) -> None:
        name = encoding.strip().lower()
        if name not in ("", "identity", "gzip", "x-gzip", "deflate"):
            raise BadPayload(f"the body is packed as {name[:40]}, though identity was asked for")
        self._packed = None if name in ("", "identity") else zlib.decompressobj(wbits=47)  # gzip or zlib, told by head

    def __call__(self, chunk: bytes, room: int) -> bytes:
        if self._packed is None or self._packed.eof:  # what follows the end spoils the JSON, and is counted
            return chunk
        try:
            return self._packed.decompress(chunk, room) + self._packed.unused_data
        except zlib.error:
            raise BadPayload("the body is not the gzip that its header promises") from None

    def finish(self) -> None:
        if self._packed is not None and not self._packed.eof:
            raise BadPayload("the packed body breaks off")
