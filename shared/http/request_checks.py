"""What every request is checked for before its endpoint runs: target, headers, content type and query.

Nothing that a client sends is ignored silently: a misspelt parameter or a second Idempotency-Key is a mistake that may
cost money, so it is refused.
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

# Fields with a list as their value, which may come in several lines (RFC 9110, section 5.3) and decide nothing here.
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
    """A plain route for GET that names the query parameters it takes."""

    def __init__(self, path: str, endpoint: Callable[..., Any], *parameters: str) -> None:
        super().__init__(path, endpoint)
        self.parameters = parameters


def check_size(target_bytes: int, headers: int) -> None:
    """Raise Problem when the target or the number of headers is larger than NGINX would let through."""
    if target_bytes > MAX_TARGET_BYTES:
        raise Problem("uri-too-long", f"Path and query may have {MAX_TARGET_BYTES} bytes.")
    if headers > MAX_HEADERS:
        raise Problem("headers-too-large", f"A request may have {MAX_HEADERS} headers.")


def check_headers(lines: Sequence[tuple[bytes, bytes]], headers: Headers) -> None:
    """Raise Problem (malformed-request) when a header that has one value is repeated.

    `headers` are the lines by name. Only the first or last line would count, and which one is not obvious to anybody.
    """
    if len(lines) == len(headers):
        return
    seen: set[bytes] = set()
    for name, _ in lines:
        if name in seen and name not in _LISTS:
            raise Problem("malformed-request", f"Send the header {shortened(name.decode('latin-1'))} once.")
        seen.add(name)


def query_parameters(route: Route) -> tuple[str, ...]:
    """Return the names of the query parameters that a route takes."""
    if isinstance(route, QueryRoute):
        return route.parameters
    return _parameters_of(route.dependant) if isinstance(route, APIRoute) else ()


def _parameters_of(dependant: Dependant) -> tuple[str, ...]:
    nested = [name for one in dependant.dependencies for name in _parameters_of(one)]
    return tuple(dict.fromkeys([*(field.alias for field in dependant.query_params), *nested]))


def checked(app: Asgi, parameters: Sequence[str]) -> Asgi:
    """Return a route's application behind `check`; unknown paths and methods have been answered before."""

    async def checked_app(scope: Scope, receive: Any, send: Any) -> None:
        check(scope, parameters)
        await app(scope, receive, send)

    return checked_app


def check(scope: Scope, parameters: Sequence[str]) -> None:
    """Raise Problem for a body or a query that the endpoint would not read as its sender meant it."""
    if scope["method"] != "GET":
        check_content(scope["headers_by_name"])
    if scope["query_string"]:
        check_query(scope["query_string"], parameters)


def check_content(headers: Headers) -> None:
    """Raise Problem (unsupported-media-type) when the request has a body that is not plain JSON.

    A body without a Content-Type is read as JSON; without a body neither type nor coding matters.
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
    """Tell whether a Content-Type is application/json without parameters but charset=utf-8."""
    kind, *parameters = (part.strip() for part in media_type.lower().split(b";"))
    return kind == b"application/json" and parameters in ([], [b"charset=utf-8"], [b'charset="utf-8"'])


def check_query(query: bytes, known: Sequence[str]) -> None:
    """Raise Problem (validation-failed) for unknown and for repeated parameters."""
    try:
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=_MAX_PARAMETERS)
    except ValueError as error:
        detail = f"A query may have {_MAX_PARAMETERS} parameters."
        raise Problem("validation-failed", detail, [{"pointer": "/query", "detail": "too many parameters"}]) from error
    names = [name for name, _ in pairs]
    takes = f"this resource takes {', '.join(known)}" if known else "this resource takes none"
    wrong = {name: f"unknown parameter; {takes}" for name in names if name not in known}
    wrong |= {name: "given more than once" for name in known if names.count(name) > 1}
    if wrong:
        errors = [{"pointer": f"/query/{shortened(name)}", "detail": why} for name, why in wrong.items()]
        raise Problem("validation-failed", "See `errors` for what to change.", errors)
