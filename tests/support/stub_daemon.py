"""A real HTTP server that says what a test tells it to: for daemons that misbehave and receivers that record."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.target).path


@dataclass
class Said:
    """One answer. `chunks` are sent one by one as a stream that then ends, instead of `body`."""

    status: int = 200
    body: bytes = b"{}"
    content_type: str = "application/json"
    chunks: list[bytes] | None = None


@dataclass
class StubDaemon:
    """Answers by `answer(request)`; keeps what arrived in `seen`."""

    answer: Callable[[Seen], Said]
    seen: list[Seen] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def stub_daemon(answer: Callable[[Seen], Said]) -> Iterator[StubDaemon]:
    """Serve on a free port while the block runs."""
    stub = StubDaemon(answer)

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            headers = {name.lower(): value for name, value in self.headers.items()}
            seen = Seen(self.command, self.path, headers, self.rfile.read(length))
            stub.seen.append(seen)
            said = stub.answer(seen)
            self.send_response(said.status)
            self.send_header("Content-Type", said.content_type)
            self.send_header("Connection", "close")
            if said.chunks is None:
                self.send_header("Content-Length", str(len(said.body)))
            self.end_headers()
            for chunk in said.chunks if said.chunks is not None else [said.body]:
                self.wfile.write(chunk)
                self.wfile.flush()

        do_GET = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815 - the names that http.server looks for

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
