"""An HTTP server with scripted responses: for daemons that misbehave and receivers that record."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class StubRequest:
    """One request as it arrived."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.target).path


@dataclass
class StubResponse:
    """One response. `chunks` are sent one by one as a stream that then ends, instead of `body`."""

    status: int = 200
    body: bytes = b"{}"
    content_type: str = "application/json"
    chunks: list[bytes] | None = None
    date: str | None = field(default_factory=lambda: formatdate(usegmt=True))


@dataclass
class StubServer:
    """Responds by `respond(request)`; keeps the `requests` that arrived."""

    respond: Callable[[StubRequest], StubResponse]
    requests: list[StubRequest] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def stub_server(respond: Callable[[StubRequest], StubResponse]) -> Iterator[StubServer]:
    """Serve on a free port while the block runs."""
    stub = StubServer(respond)

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = StubRequest(self.command, self.path, headers, self.rfile.read(length))
            stub.requests.append(request)
            response = stub.respond(request)
            self.send_response_only(response.status)
            if response.date is not None:
                self.send_header("Date", response.date)
            self.send_header("Content-Type", response.content_type)
            self.send_header("Connection", "close")
            if response.chunks is None:
                self.send_header("Content-Length", str(len(response.body)))
            self.end_headers()
            for chunk in response.chunks if response.chunks is not None else [response.body]:
                self.wfile.write(chunk)
                self.wfile.flush()

        do_GET = do_POST = do_DELETE = do_PATCH = do_HEAD = _serve  # noqa: N815 - the names that http.server calls

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stub.port = server.server_address[1]
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02))
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
