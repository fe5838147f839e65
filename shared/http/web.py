"""The web application of a service: request context, metrics, problems, API documentation and health."""

import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Annotated, Any

import fastapi_offline
from fastapi import Depends, FastAPI
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.staticfiles import StaticFiles

from shared.http import clients, health, problem_pages, problems, request_checks, summary, time_limit
from shared.observability import tracing
from shared.http.auth import Authenticator, Caller
from shared.db.database import is_retryable, is_unavailable
from shared.logging_config import REQUEST_ID, TRACE_PARENT
from shared.http.problems import Problem
from shared.prometheus import http as http_metrics
from shared.prometheus import registry
from shared.runtime.server import ShutdownSignal
from shared.runtime.settings import ProcessSettings

log = logging.getLogger(__name__)
access_log = logging.getLogger("access")

MAX_BODY_BYTES = 1024 * 1024

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]


class LeanRoute(APIRoute):
    """A route that FastAPI documents but does not handle: the endpoint receives the request and returns the response.

    FastAPI's own request handling costs more than posting a transfer (docs/adr/0002).
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            response = await endpoint(Request(scope, receive))
            await response(scope, receive, send)

        self.app = app


class _Application(FastAPI):
    """FastAPI without its error middleware: Service converts all exceptions into responses."""

    def build_middleware_stack(self) -> Asgi:
        return AsyncExitStackMiddleware(self.router)


class _CpuTime:
    """Measures the CPU time of requests that no other request overlaps; other tasks are included."""

    def __init__(self) -> None:
        self._running = self._started = 0

    def start(self) -> tuple[int, float]:
        """Start a request; returns what `stop` takes."""
        self._started += 1
        self._running += 1
        return (self._started if self._running == 1 else 0), time.thread_time()

    def stop(self, started: tuple[int, float]) -> float | None:
        """End a request; returns its CPU time in seconds, or None if another one overlapped it."""
        self._running -= 1
        number, begin = started
        return time.thread_time() - begin if number == self._started else None


class Service:
    """The ASGI application of a service: FastAPI, wrapped in the common handling of requests.

    It adds request id, trace, identity headers, request checks, metrics and access log, and converts every exception
    into a response. Lean routes without path parameters are called directly, bypassing FastAPI.
    """

    def __init__(self, app: FastAPI, settings: ProcessSettings) -> None:
        self.app = app
        for route in app.routes:
            if isinstance(route, Route):
                route.app = request_checks.checked(route.app, request_checks.query_parameters(route))
        self._direct = {
            (method, route.path): route
            for route in app.routes
            if isinstance(route, LeanRoute) and "{" not in route.path
            for method in route.methods or ()
        }
        self._identity = [
            (b"x-app-version", settings.app_version.encode()),
            (b"x-app-track", settings.app_track.encode()),
        ]
        self._logs = settings.access_log
        self._cpu = _CpuTime()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, cpu = time.perf_counter(), self._cpu.start()
        method = scope["method"]
        if method == "HEAD":
            # `head`: a handler may skip the work for the body.
            scope, send = {**scope, "method": "GET", "head": True}, _without_body(send)
        headers = scope["headers_by_name"] = dict(scope["headers"])
        request_id = _request_id(headers.get(b"x-request-id", b""))
        scope["request_id"] = request_id.decode()
        REQUEST_ID.set(scope["request_id"])
        TRACE_PARENT.set(tracing.current_traceparent() or _traceparent(headers.get(b"traceparent", b"")))
        status, code = 0, ""

        async def send_with_identity(message: Message) -> None:
            nonlocal status, code
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *self._own_headers(request_id)]
            else:
                code = code or (problems.code_of(message.get("body", b"")) if status >= 400 else "")
            await send(message)

        http_metrics.IN_PROGRESS.inc()
        try:
            limited = _limited(receive, headers.get(b"content-length", b"0"))
            if scope["path"].startswith("/api/"):
                await time_limit.respond_in_time(self._handle, scope, limited, send_with_identity)
            else:
                await self._handle(scope, limited, send_with_identity)
        except ClientDisconnect:
            # The client disconnected before its request was read: recorded as 499, as in NGINX.
            pass
        except Exception as error:  # pylint: disable=broad-exception-caught  # last handler before the server
            if status:
                raise
            problem = _problem_of(self._with_allowed_methods(error, scope))
            response = problems.response(problem, scope["path"], scope["request_id"])
            await response(scope, receive, send_with_identity)
        finally:
            http_metrics.IN_PROGRESS.dec()
            self._record(scope, method, (status or 499, code), time.perf_counter() - start, self._cpu.stop(cpu))

    def _own_headers(self, request_id: bytes) -> list[tuple[bytes, bytes]]:
        closing = [(b"connection", b"close")] if ShutdownSignal.now else []
        return [*self._identity, (b"x-request-id", request_id), *closing]

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        lines, headers = scope["headers"], scope["headers_by_name"]
        request_checks.check_size(len(scope["path"]) + len(scope["query_string"]), len(lines))
        request_checks.check_headers(lines, headers)
        route = self._direct.get((scope["method"], scope["path"]))
        if route is None:
            if scope["path"].endswith("\n"):
                # The `$` of a route's pattern also matches before a trailing newline.
                raise HTTPException(404)
            await self.app(scope, receive, send)
            return
        request_checks.check(scope, ())
        scope["app"], scope["route"] = self.app, route
        response = await route.endpoint(Request(scope, receive))
        await response(scope, receive, send)

    def _with_allowed_methods(self, error: Exception, scope: Scope) -> Exception:
        """List all methods of the path in a 405; Starlette lists only those of the first matching route."""
        if not isinstance(error, HTTPException) or error.status_code != 405:
            return error
        routes = [
            route for route in self.app.routes if isinstance(route, Route) and route.matches(scope)[0] != Match.NONE
        ]
        methods = {method for route in routes for method in route.methods or ()}
        allowed = sorted(methods | ({"HEAD"} if "GET" in methods else set()))
        return HTTPException(405, headers={"Allow": ", ".join(allowed)})

    def _record(self, scope: Scope, method: str, outcome: tuple[int, str], seconds: float, cpu: float | None) -> None:
        """Record a request's status and problem code, duration, and CPU time if it is measured."""
        status, code = outcome
        route = scope.get("route")
        handler = getattr(route, "path_format", None) or getattr(route, "path", None) or "unmatched"
        http_metrics.observe(handler, method, status, seconds, code)
        headers = scope["headers_by_name"]
        if canary_status := headers.get(b"x-canary-status"):
            http_metrics.count_canary_retry(handler, method, canary_status, status)
        if scope["path"].startswith("/api/"):
            if cpu is not None:
                http_metrics.observe_cpu(handler, method, cpu)
            # What a canary has answered already is that client's outcome.
            if not canary_status and (bucket := clients.bucket_of_request(headers)) is not None:
                http_metrics.count_outcome(bucket, status)
        tracing.name_request(method, handler)
        if not self._logs or scope["path"].startswith(tracing.QUIET):
            return
        # Successful writes are logged with their group commit; a line for each would cost a seventh of the CPU.
        if status >= 400 or not isinstance(route, LeanRoute):
            fields = {"method": method, "handler": handler, "status": status}
            access_log.info("request", extra={**fields, "duration_ms": round(seconds * 1000, 2)})


def _without_body(send: Send) -> Send:
    """Return a `send` that drops the body, for HEAD requests handled as GET."""

    async def headers_only(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return headers_only


def _request_id(header: bytes) -> bytes:
    """Return the client's request id, or a new one."""
    return header if _REQUEST_ID.fullmatch(header) else secrets.token_hex(16).encode()


def _traceparent(header: bytes) -> str:
    """Return the client's traceparent, or a new one that is not sampled."""
    parent = header.decode("latin-1")
    if tracing.TRACEPARENT.fullmatch(parent):
        return parent
    random = secrets.token_hex(24)
    return f"00-{random[:32]}-{random[32:]}-00"


def _limited(receive: Receive, content_length: bytes) -> Receive:
    """Return a `receive` that rejects bodies over the limit, with or without Content-Length."""
    received = 0

    async def limited() -> Message:
        nonlocal received
        if content_length.isdigit() and int(content_length) > MAX_BODY_BYTES:
            raise _TOO_LARGE
        message = await receive()
        received += len(message.get("body", b""))
        if received > MAX_BODY_BYTES:
            raise _TOO_LARGE
        return message

    return limited


_TOO_LARGE = Problem(
    "payload-too-large", f"The body exceeds {MAX_BODY_BYTES} bytes; send less at once.", headers={"Connection": "close"}
)


def _problem_of(error: Exception) -> Problem:
    """Convert an exception into a problem: 503 if the database is not available, and a logged 500 if unexpected."""
    if is_unavailable(error) or is_retryable(error):
        log.warning("database not available: %r", error)
        return problems.unavailable("The database is not available; retry with the same Idempotency-Key.")
    problem = problems.from_exception(error)
    if problem.status == 500:
        log.error("unhandled %s", type(error).__name__, exc_info=error)
    return problem


_BEARER = HTTPBearer(auto_error=False, description="A JWT; in development: make token SUB=alice")


async def current_caller(request: Request, _shown: Annotated[Any, Depends(_BEARER)] = None) -> Caller:
    """Return the caller of the request. Raises Problem (unauthorized)."""
    authenticator: Authenticator = request.app.state.authenticator
    return await authenticator.authenticate(request.headers.get("authorization"))


def lean_documentation(
    body: type[BaseModel] | None, *, parameters: Sequence[Mapping[str, Any]] = (), required: bool = True
) -> dict[str, Any]:
    """Return the OpenAPI description of a LeanRoute that FastAPI cannot derive: body, parameters and security."""
    documentation: dict[str, Any] = {"security": [{_BEARER.scheme_name: []}], "parameters": list(parameters)}
    if body is not None:
        content = {"application/json": {"schema": _inlined(body.model_json_schema())}}
        documentation["requestBody"] = {"required": required, "content": content}
    return documentation


def _inlined(schema: Any, definitions: Mapping[str, Any] | None = None) -> Any:
    """Return a JSON Schema with its references resolved, so that it can be embedded anywhere."""
    if isinstance(schema, list):
        return [_inlined(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    definitions = schema.get("$defs", definitions) or {}
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {key: _inlined(item, definitions) for key, item in schema.items() if key != "$defs"}


def link(method: str, path: str, *, body: str | None = None, source: str = "/id", **parameters: str) -> dict[str, Any]:
    """Return an OpenAPI link from a response to another operation.

    The value at `source` (a JSON pointer) in the response becomes the id in the path of the operation or, with `body`,
    that field of its body; `parameters` map other path parameters to pointers.
    """
    operation: dict[str, Any] = {"operationRef": f"#/paths/{path.replace('~', '~0').replace('/', '~1')}/{method}"}
    if body is not None:
        return {**operation, "requestBody": {body: f"$response.body#{source}"}}
    pointers = parameters or {"id": source}
    return {**operation, "parameters": {name: f"$response.body#{pointer}" for name, pointer in pointers.items()}}


def documented_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of the problem responses with these statuses."""
    documented: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        kinds = {code: kind for code, kind in problems.PROBLEM_TYPES.items() if kind.status == status}
        schema = problems.ProblemDocument.model_json_schema()
        schema["properties"]["code"]["enum"] = list(kinds)
        schema["properties"]["status"]["const"] = status
        documented[status] = {
            "description": "; ".join(kind.title for kind in kinds.values()),
            "content": {problems.MEDIA_TYPE: {"schema": schema}},
        }
    return documented


def create_app(
    settings: ProcessSettings,
    description: str,
    *,
    routes: Sequence[BaseRoute],
    internal_routes: Sequence[BaseRoute],
    checks: Callable[[], Mapping[str, health.Check]],
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]],
    public_fields: Callable[[], Mapping[str, Any]] = dict,
) -> Service:
    """Return the application of a service; routes are matched in order, so list frequent ones first.

    `public_fields` returns additional fields for the public operations page.
    """
    docs = f"/docs/{settings.service}"
    app = _Application(
        title=settings.service,
        description=description,
        version=settings.app_version,
        openapi_url=f"{docs}/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    # Not include_router: it adds a second, slower layer of dispatching.
    app.router.routes[:0] = routes
    own_routes = [
        *health.routes(checks),
        summary.route(settings, checks, public_fields),
        _metrics_route(settings),
        problem_pages.route(),
    ]
    app.router.routes.extend([*internal_routes, *own_routes, *_docs_routes(docs)])
    return Service(app, settings)


def _metrics_route(settings: ProcessSettings) -> Route:
    async def metrics(_request: Request) -> Response:
        content = registry.render(settings.service, settings.app_version, settings.app_track)
        return Response(content, headers={"Content-Type": registry.CONTENT_TYPE})

    return Route("/metrics", metrics)


def _docs_routes(docs: str) -> list[BaseRoute]:
    async def to_folder(_request: Request) -> Response:
        return RedirectResponse(f"{docs}/")

    async def swagger_ui(_request: Request) -> Response:
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=docs.rpartition("/")[2],
            swagger_js_url="assets/swagger-ui-bundle.js",
            swagger_css_url="assets/swagger-ui.css",
            swagger_favicon_url="assets/favicon.png",
        )

    assets = StaticFiles(directory=Path(fastapi_offline.__file__).parent / "static")
    return [Route(docs, to_folder), Route(f"{docs}/", swagger_ui), Mount(f"{docs}/assets", assets)]
