"""One request from the wire to its response; every error becomes a problem document here."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from typing import Any
from urllib.parse import urlencode

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, InvalidURLError, LineTooLong
from prometheus_client import CollectorRegistry, Counter, Histogram

from bridge.api.authentication import CALLER, READING, Authentication, Caller, Rules
from bridge.api.context import IdempotencyKey, Request, RequestContext, Response, keep
from bridge.api.problem import CONTENT_TYPE, headers_of, make_problem, problem_of, status_of
from bridge.api.request_models import NoQuery
from bridge.api.request_parsing import check_host, check_path, read_body, read_given, read_key, read_query
from bridge.api.response_models import ProblemAnswer
from bridge.api.routes import ROUTES, Route
from bridge.domain.api_token import Scope
from bridge.domain.errors import BridgeError, Conflict, InvalidInput, Problem, StartUnknown
from bridge.domain.ids import new_id
from bridge.store.idempotency import StoredResponse, replace_response

LINE_BYTES_MAX = 256 * 1024  # a request line: ten metadata filters of 1,024 characters, percent-encoded
HEADER_BYTES_MAX = 8190  # aiohttp's own
BATCH_BYTES_MAX = 8 * 1024 * 1024  # a thousand registrations with their metadata
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Server": "runbridge",
}
REQUEST_ID = web.RequestKey("request_id", str)
_REQUESTS = new_id("req")[:-8]  # of this process; its requests are numbered, for a new id takes ten times as long
_NUMBERS = count()
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)
COMPRESSED_BYTES_MIN = 4096  # below, a gain of a packet is not worth the time
_COMPRESSED_ASIDE_BYTES = 64 * 1024  # from here on a thread compresses
_TAKES_GZIP = re.compile(r"\bgzip\b(?!\s*;\s*q=0(?:\.0*)?(?:\s*[,;]|\s*$))", re.IGNORECASE)
_METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "DELETE", "PUT", "OPTIONS"})
_log = structlog.get_logger("bridge.api")
_Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


class RequestMetrics:
    """Counts requests and their duration by route, never by address."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ["method", "route"]
        self._seconds = Histogram(
            "runbridge_api_duration_seconds", "Time of one request", labels, buckets=_SECONDS, registry=registry
        )
        self._responses = Counter(
            "runbridge_api_responses_total", "Requests by status", [*labels, "status"], registry=registry
        )
        self._series: dict[tuple[str, str, int], tuple[Histogram, Counter]] = {}

    def note(self, method: str, route: str, status: int, took_s: float) -> None:
        """Count one request."""
        series = self._series.get((method, route, status))
        if series is None:
            known = method if method in _METHODS else "other"
            series = (self._seconds.labels(known, route), self._responses.labels(known, route, status))
            self._series[known, route, status] = series
        series[0].observe(took_s)
        series[1].inc()


def build_middleware(
    rules: Rules,
    authentication: Authentication,
    open_routes: frozenset[tuple[str, str]],
    scopes: Mapping[tuple[str, str], Scope],
    busy: set[object],
    metrics: RequestMetrics,
) -> Any:
    """The outermost middleware: checks host and token, shows errors, logs and counts the request.

    `scopes`: what a token needs, by method and path, for anything but a GET. `busy` holds the connections that a request is under way on.
    """
    log = _log.bind()  # bound once: half of what a line costs

    async def authorize(request: web.Request, route: str | None) -> Caller | None:
        """The caller of a request that needs one. Raises a Refusal for a foreign host name or a caller who may not."""
        check_host(request, rules.allowed_hosts)
        path = route or request.path
        if (_method_of(request), path) in open_routes or not _is_guarded(request):
            return None
        caller = request[CALLER] = await authentication.caller(request)
        caller.require(scopes.get((request.method, path), Scope.READ))
        return caller

    @web.middleware
    async def serve(request: web.Request, handler: _Next) -> web.StreamResponse:
        request_id, started = f"{_REQUESTS}{next(_NUMBERS) & 0xFFFFFFFF:08x}", time.perf_counter()
        request[REQUEST_ID] = request_id
        busy.add(request.protocol)
        route, caller = _route_of(request), None
        try:
            caller = await authorize(request, route)
            response = await handler(request)
        except Exception as error:  # noqa: BLE001 - the last resort: no client sees a traceback
            response = _shown(error, request, request_id)
        finally:
            busy.discard(request.protocol)
        took_s = time.perf_counter() - started
        metrics.note(request.method, route or "none", response.status, took_s)
        _log_answer(log, request, response.status, request_id, took_s, caller)
        return response

    return serve


def _route_of(request: web.Request) -> str | None:
    """The path of its route with the names of its parts; None if there is no such address."""
    resource = request.match_info.route.resource
    return resource.canonical if resource else None


def _method_of(request: web.Request) -> str:
    return "GET" if request.method == "HEAD" else request.method


def _shown(error: Exception, request: web.Request, request_id: str) -> web.Response:
    """The problem document for an error."""
    match error:
        case BridgeError():
            return _problem(status_of(error), problem_of(error, request_id), headers_of(error))
        case web.HTTPException():
            return _routing_problem(error, request, request_id)
        case _:
            _log.error(
                "request.failed", request_id=request_id, method=request.method, path=request.path, exc_info=error
            )
            detail = f"something went wrong inside the bridge; its log tells more under {request_id}"
            return _problem(500, make_problem(500, detail, request_id=request_id), {})


def _log_answer(
    log: Any, request: web.Request, status: int, request_id: str, took_s: float, caller: Caller | None
) -> None:
    method, path, token = request.method, request.path, caller and caller.name
    log.debug(
        "request.answered",
        request_id=request_id,
        method=method,
        path=path,
        status=status,
        duration_ms=round(took_s * 1000),
        token=token,
    )
    if caller is not None and method not in READING and status < 400:
        log.info("api.changed", token=caller.name, method=method, path=path, status=status, request_id=request_id)


def _is_guarded(request: web.Request) -> bool:
    """True for every address that exists, and for everything under /v1 whether it exists or not."""
    return request.match_info.http_exception is None or request.path == "/v1" or request.path.startswith("/v1/")


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Set the headers of every response; a signal handler, so that streams get them too."""
    if isinstance(response, web.HTTPException):  # aiohttp refuses an unknown `Expect` before the middleware
        problem = _routing_problem(response, request, None)
        response.body = problem.body
        response.headers.update({"Content-Type": CONTENT_TYPE, "Content-Length": str(problem.content_length)})
    response.headers.update(SECURITY_HEADERS)
    response.headers.setdefault("Cache-Control", "no-store")
    if (request_id := request.get(REQUEST_ID)) is not None:
        response.headers["X-Request-Id"] = request_id


def refuse_malformed(status: int, error: BaseException | None) -> web.Response:
    """The problem document for a request that is not valid HTTP; what the client sent is not repeated."""
    match error:
        case LineTooLong():
            detail = f"a header may have at most {HEADER_BYTES_MAX} bytes, the request line {LINE_BYTES_MAX}"
        case InvalidURLError():
            detail = "the address in the request line is none; check its host, port and percent-encoding"
        case HttpProcessingError():
            wrong = " ".join(error.message.partition("\n\n")[0].split()).rstrip(":.")
            detail = f"this is not valid HTTP ({wrong}); send each header once and in the form that RFC 9112 gives it"
        case _:
            detail = "something went wrong inside the bridge; its log tells more"
    return _problem(status, make_problem(status, detail), {**SECURITY_HEADERS, "Cache-Control": "no-store"})


def build_handler(context: RequestContext, route: Route, rules: Rules) -> _Next:
    """The aiohttp handler for a line of the route table."""
    least_max = BATCH_BYTES_MAX if route.is_large else 0
    has_body, keeps_response = route.has_body, route.keeps_response

    async def handle(http: web.Request) -> web.StreamResponse:
        check_path(http)
        if not has_body:
            data = read_query(http, route.request_model, context.checks())
            return _on_wire(await route.handle(context, Request(http, data)), http)
        if http.query_string:
            read_query(http, NoQuery, context.checks())
        raw = await read_body(http, max(rules.body_bytes_max, least_max))
        key = read_key(http, raw) if keeps_response else None
        if key is not None:
            return _on_wire(await _answer_once(context, route, http, raw, key), http)
        data = read_given(route.request_model, raw, context=context.checks())
        return _on_wire(await route.handle(context, Request(http, data)), http)

    return handle


async def _answer_once(
    context: RequestContext, route: Route, http: web.Request, raw: object, key: IdempotencyKey
) -> Response:
    """The response kept for this key, or the handler's, which is then kept. Conflict while the first is under way."""
    if key.key in context.keys_in_flight:
        raise Conflict("a request with this Idempotency-Key is under way; ask again for its answer")
    context.keys_in_flight.add(key.key)
    try:
        kept = await context.find_kept(key.key)
        if kept is not None and kept.fingerprint != key.fingerprint:
            raise InvalidInput(
                [Problem("Idempotency-Key", "was used for another request; make a new key for this one")]
            )
        if kept is not None:
            content_type = CONTENT_TYPE if kept.status >= 400 else "application/json"
            return Response(kept.status, kept.body, content_type, {"Idempotency-Replayed": "true"})
        request = Request(http, read_given(route.request_model, raw, context=context.checks()), key)
        try:
            response = await route.handle(context, request)
        except StartUnknown as error:  # kept, because the same request again might start a second run
            body = problem_of(error, http[REQUEST_ID]).to_bytes()
            stored = StoredResponse(key.fingerprint, status_of(error), body)
            await context.database.write(lambda tx: replace_response(tx, key.key, stored))
            raise
        assert isinstance(response, Response)
        if not request.is_kept:
            await context.database.write(lambda tx: keep(tx, [(request.key, response)]))
        return response
    finally:
        context.keys_in_flight.discard(key.key)


def _on_wire(response: Response | web.StreamResponse, http: web.Request) -> web.StreamResponse:
    """The response of a handler as it is sent: with the link to a list's next page, and compressed where that pays."""
    if isinstance(response, web.StreamResponse):
        return response
    headers = {**response.headers, "Content-Type": response.content_type} if response.body else response.headers
    if response.next_cursor is not None:
        query = {name: http.query.getall(name) for name in http.query if name not in ("cursor", "after")}
        headers["Link"] = f'<?{urlencode({**query, "cursor": response.next_cursor}, doseq=True)}>; rel="next"'
    tag = headers.get("ETag")
    if tag is not None and http.method in READING and tag in http.headers.get("If-None-Match", ""):
        return web.Response(status=304, headers={**response.headers, "ETag": tag})
    sent = web.Response(
        status=response.status, body=response.body or None, headers=headers, zlib_executor_size=_COMPRESSED_ASIDE_BYTES
    )
    if len(response.body) >= COMPRESSED_BYTES_MIN and http.method == "GET" and "Content-Encoding" not in headers:
        sent.headers["Vary"] = "Accept-Encoding"
        if _TAKES_GZIP.search(http.headers.get("Accept-Encoding", "")):
            sent.enable_compression(web.ContentCoding.gzip)
    return sent


def _problem(status: int, problem: ProblemAnswer, headers: dict[str, str]) -> web.Response:
    return web.Response(status=status, body=problem.to_bytes(), headers={**headers, "Content-Type": CONTENT_TYPE})


def _routing_problem(error: web.HTTPException, request: web.Request, request_id: str | None) -> web.Response:
    detail, headers = "there is nothing at this address; GET /openapi.json tells what there is", {}
    if isinstance(error, web.HTTPMethodNotAllowed):
        exact = {route.method for route in ROUTES if route.path == request.path}  # `/v1/runs/batch` is no run's id
        allowed = {name for name in error.allowed_methods if not exact or name.replace("HEAD", "GET") in exact}
        headers = {"Allow": ", ".join(sorted(allowed))}
        detail = f"this address knows {headers['Allow']} only"
    elif isinstance(error, web.HTTPExpectationFailed):
        detail = "the only `Expect` that is known here is 100-continue"
    elif not isinstance(error, web.HTTPNotFound):
        detail = error.reason
    return _problem(error.status, make_problem(error.status, detail, request_id=request_id), headers)
