"""Checks of every request before its endpoint runs: target, headers, content type and query.

Nothing is silently ignored: a misspelt parameter or a second Idempotency-Key may cost money, so the request is
rejected.
"""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.routing import Route

from shared.http.problems import Problem, shortened

MAX_TARGET_BYTES = 8 * 1024
MAX_HEADERS = 100
_MAX_PARAMETERS = 50

# List-valued headers, which may be repeated (RFC 9110, section 5.3) and do not affect the result.
_LISTS = frozenset(
    b"accept-charset accept-encoding accept-language baggage cache-control connection cookie expect forwarded"
    b" if-match if-none-match keep-alive link pragma prefer priority te trailer tracestate transfer-encoding"
    b" upgrade via warning x-forwarded-for x-forwarded-host x-forwarded-proto".split()
)
_JSON = frozenset({b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8"})

Headers = Mapping[bytes, bytes]
Scope = MutableMapping[str, Any]
Asgi = Callable[[Scope, Any, Any], Awaitable[None]]


class QueryRoute(Route):
    """A Starlette route for GET with its list of query parameters."""

    def __init__(self, path: str, endpoint: Callable[..., Any], *parameters: str) -> None:
        super().__init__(path, endpoint)
        self.parameters = parameters


def check_size(target_bytes: int, headers: int) -> None:
    """Raise Problem if target or number of headers exceed the limits of NGINX."""
    if target_bytes > MAX_TARGET_BYTES:
        raise Problem("uri-too-long", f"Path and query exceed {MAX_TARGET_BYTES} bytes; shorten the query.")
    if headers > MAX_HEADERS:
        raise Problem("headers-too-large", f"The request has more than {MAX_HEADERS} headers; send fewer.")


def check_headers(lines: Sequence[tuple[bytes, bytes]], headers: Headers) -> None:
    """Raise Problem (malformed-request) if a single-valued header is repeated.

    `headers` are the lines by name. It would be unclear whether the first or the last line counts.
    """
    if len(lines) == len(headers):
        return
    seen: set[bytes] = set()
    for name, _ in lines:
        if name in seen and name not in _LISTS:
            raise Problem("malformed-request", f"Send the header {shortened(name.decode('latin-1'))} once.")
        seen.add(name)


def query_parameters(route: Route) -> tuple[str, ...]:
    """Return the names of the query parameters of a route."""
    if isinstance(route, QueryRoute):
        return route.parameters
    return _parameters_of(route.dependant) if isinstance(route, APIRoute) else ()


def _parameters_of(dependant: Dependant) -> tuple[str, ...]:
    nested = [name for dependency in dependant.dependencies for name in _parameters_of(dependency)]
    return tuple(dict.fromkeys([*(field.alias for field in dependant.query_params), *nested]))


def checked(app: Asgi, parameters: Sequence[str]) -> Asgi:
    """Wrap the application of a route in `check`; unknown paths and methods are rejected before."""

    async def checked_app(scope: Scope, receive: Any, send: Any) -> None:
        check(scope, parameters)
        await app(scope, receive, send)

    return checked_app


def check(scope: Scope, parameters: Sequence[str]) -> None:
    """Raise Problem for a body or query that the endpoint would not interpret as the client intended."""
    if scope["method"] != "GET":
        check_content(scope["headers_by_name"])
    if scope["query_string"]:
        check_query(scope["query_string"], parameters)


def check_content(headers: Headers) -> None:
    """Raise Problem (unsupported-media-type) if the request has a body that is not uncompressed JSON.

    A body without Content-Type is parsed as JSON; without a body, type and coding do not matter.
    """
    media_type, coding = headers.get(b"content-type"), headers.get(b"content-encoding")
    if (media_type is None or media_type in _JSON) and coding is None:
        return
    if b"transfer-encoding" not in headers and not headers.get(b"content-length", b"").strip(b"0"):
        return
    if coding is not None and coding.strip().lower() != b"identity":
        raise Problem(
            "unsupported-media-type", "Send the body without a content coding.", headers={"Accept-Encoding": "identity"}
        )
    if media_type is not None and not _is_json(media_type):
        raise Problem(
            "unsupported-media-type", "Send application/json in UTF-8.", headers={"Accept": "application/json"}
        )


def _is_json(media_type: bytes) -> bool:
    """Return whether a Content-Type is application/json without parameters other than charset=utf-8."""
    type_, *parameters = (part.strip() for part in media_type.lower().split(b";"))
    return type_ == b"application/json" and parameters in ([], [b"charset=utf-8"], [b'charset="utf-8"'])


def check_query(query: bytes, known: Sequence[str]) -> None:
    """Raise Problem (validation-failed) for unknown and repeated parameters."""
    try:
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=_MAX_PARAMETERS)
    except ValueError as error:
        detail = f"The query has more than {_MAX_PARAMETERS} parameters; send fewer."
        raise Problem("validation-failed", detail, [{"pointer": "/query", "detail": "too many parameters"}]) from error
    names = [name for name, _ in pairs]
    supported = f"supported: {', '.join(known)}" if known else "this resource has none"
    wrong = {name: f"unknown parameter; {supported}" for name in names if name not in known}
    wrong |= {name: "duplicate parameter" for name in known if names.count(name) > 1}
    if wrong:
        errors = [{"pointer": f"/query/{shortened(name)}", "detail": reason} for name, reason in wrong.items()]
        raise Problem("validation-failed", "Invalid query; see `errors`.", errors)
