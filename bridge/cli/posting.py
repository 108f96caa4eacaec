"""One signed POST to a URL that the operator named on the command line; no retries, no redirects, no guard."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import click

from bridge import __version__
from bridge.domain.signing import hmac_v1

TIMEOUT_S: Final = 15.0  # what the daemon gives a receiver
_ANSWER_BYTES_MAX: Final = 8 * 1024


@dataclass(frozen=True, slots=True)
class Posted:
    """What came of it: a status, or why there was none. `took_ms` in milliseconds."""

    status: int | None
    why: str | None
    took_ms: int

    @property
    def is_taken(self) -> bool:
        """Whether the receiver said 2xx."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def shown(self) -> str:
        """`200`, or the reason."""
        return str(self.status) if self.status is not None else str(self.why)


class Receiver:
    """Where to post; UsageError unless `url` is an http or https URL."""

    def __init__(self, url: str, keys: list[bytes]) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            parts, host, port = urlsplit(""), None, None
        if not host or parts.scheme not in ("http", "https") or any(ord(character) <= 32 for character in url):
            raise click.UsageError(f"{url!r} is no http:// or https:// URL")
        self.url = url
        self._is_tls, self._host, self._port = parts.scheme == "https", host, port
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._keys = keys

    def post(self, event_id: str, body: bytes) -> Posted:
        """Send `body` as the webhook `event_id`, signed with every key there is."""
        begun = time.monotonic()
        status, why = None, None
        try:
            status = self._exchange(self._headers(event_id, body), body)
        except TimeoutError:
            why = f"no answer within {TIMEOUT_S:.0f} s"
        except ssl.SSLError as error:
            why = f"TLS failed: {error.reason or 'no details'}"
        except socket.gaierror:
            why = "the name cannot be resolved"
        except OSError as error:
            why = (error.strerror or "the connection broke").lower()
        except (http.client.HTTPException, ValueError) as error:
            why = f"no HTTP answer ({type(error).__name__})"
        return Posted(status, why, round((time.monotonic() - begun) * 1000))

    def _headers(self, event_id: str, body: bytes) -> dict[str, str]:
        now = int(time.time())
        signed = hmac_v1.signature_headers(self._keys, event_id, now, body)
        if not self._keys:
            del signed["webhook-signature"]
        return {"Content-Type": "application/json", "User-Agent": f"runbridge/{__version__}", **signed}

    def _exchange(self, headers: dict[str, str], body: bytes) -> int:
        kind = http.client.HTTPSConnection if self._is_tls else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=TIMEOUT_S)
        try:
            connection.request("POST", self._target, body=body, headers=headers)
            response = connection.getresponse()
            response.read1(_ANSWER_BYTES_MAX)
            return response.status
        finally:
            connection.close()
