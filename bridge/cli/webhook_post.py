"""One signed POST to a URL given on the command line, without retries, redirects or address guard."""

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

TIMEOUT_S: Final = 15.0  # as [delivery] timeout
_RESPONSE_BYTES_MAX: Final = 8 * 1024


@dataclass(frozen=True, slots=True)
class WebhookResult:
    """The status of the response, or the reason why there was none. `took_ms` in milliseconds."""

    event_id: str
    status: int | None
    why: str | None
    took_ms: int

    @property
    def is_accepted(self) -> bool:
        """Whether the status is 2xx."""
        return self.status is not None and 200 <= self.status < 300

    def as_object(self) -> dict[str, object]:
        """The result as `--json` prints it."""
        return {"event_id": self.event_id, "status": self.status, "why": self.why, "duration_ms": self.took_ms}

    def __str__(self) -> str:
        """`200`, or the reason."""
        return str(self.status) if self.status is not None else str(self.why)


class WebhookTarget:
    """A URL to post to; raises click.UsageError unless `url` is an http or https URL."""

    def __init__(self, url: str, keys: list[bytes]) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            parts, host, port = urlsplit(""), None, None
        if not host or parts.scheme not in ("http", "https") or any(ord(character) <= 32 for character in url):
            raise click.UsageError(f"{url!r} is not an http:// or https:// URL")
        self.url = url
        self._is_tls, self._host, self._port = parts.scheme == "https", host, port
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._keys = keys

    def post(self, event_id: str, body: bytes) -> WebhookResult:
        """Send `body` as the webhook `event_id`, with one signature per key."""
        started = time.monotonic()
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
            why = f"no HTTP response ({type(error).__name__})"
        return WebhookResult(event_id, status, why, round((time.monotonic() - started) * 1000))

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
            response.read1(_RESPONSE_BYTES_MAX)
            return response.status
        finally:
            connection.close()
