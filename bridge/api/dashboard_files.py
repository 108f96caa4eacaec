"""The dashboard's static files: read once, compressed once, served under an address that holds their digest."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

from bridge.api.context import Request, RequestContext, Response
from bridge.api.request_models import NoQuery
from bridge.domain.errors import NotFound

_CONTENT_TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_MODULES: Final = '<link rel="modulepreload" href="/assets/{digest}/{name}">'


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    compressed: bytes
    content_type: str


@dataclass(frozen=True, slots=True)
class _Files:
    page: _File
    digest: str  # of all files: it is in their addresses, so that a browser may keep them for good
    assets: dict[str, _File]


async def show_page(context: RequestContext, request: Request[NoQuery]) -> Response:
    """Show the dashboard. It asks this API for everything, under the rights of a session; without one it shows a form."""
    context.rules.check_dashboard()
    return _response(_files().page, request, {})


async def show_asset(context: RequestContext, request: Request[NoQuery]) -> Response:
    """Show a file of the dashboard: a script, the style sheet or the icon."""
    context.rules.check_dashboard()
    files, digest, name = _files(), request.id("digest"), request.id("name")
    if digest != files.digest or name not in files.assets:
        raise NotFound("the dashboard has no such file; reload the page, which may be of another version")
    headers = {"ETag": f'"{digest}"', "Cache-Control": "public, max-age=31536000, immutable"}
    if headers["ETag"] in request.http.headers.get("If-None-Match", ""):
        return Response(304, headers=headers)
    return _response(files.assets[name], request, headers)


def _response(file: _File, request: Request[NoQuery], headers: dict[str, str]) -> Response:
    headers = {**headers, "Vary": "Accept-Encoding"}
    if "gzip" not in request.http.headers.get("Accept-Encoding", ""):
        return Response(200, file.body, file.content_type, headers)
    return Response(200, file.compressed, file.content_type, {**headers, "Content-Encoding": "gzip"})


@cache
def _files() -> _Files:
    folder = resources.files("bridge") / "web"
    read = {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}
    page = read.pop("index.html").decode()
    read = {name: body for name, body in sorted(read.items()) if name.rpartition(".")[2] in _CONTENT_TYPES}
    digest = hashlib.sha256(page.encode() + b"".join(name.encode() + body for name, body in read.items())).hexdigest()[
        :16
    ]
    preloads = "\n".join(_MODULES.format(digest=digest, name=name) for name in read if name.endswith(".js"))
    page = page.replace("{preloads}", preloads).replace("{digest}", digest)
    assets = {name: _file(body, _CONTENT_TYPES[name.rpartition(".")[2]]) for name, body in read.items()}
    return _Files(_file(page.encode(), "text/html; charset=utf-8"), digest, assets)


def _file(body: bytes, content_type: str) -> _File:
    return _File(body, gzip.compress(body, mtime=0), content_type)
