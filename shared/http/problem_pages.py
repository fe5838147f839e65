"""The page behind a problem's `type`: `GET /problems/{code}` says what happened and what to do.

The table in docs/problems.md is generated from the same texts.
"""

import html
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shared.http.problems import KINDS, Kind

# What NGINX alone answers; the titles are those of its template.
EDGE_KINDS: Mapping[str, Kind] = {
    "tls-required": Kind(400, "This port speaks TLS"),
    "not-implemented": Kind(501, "This transfer coding is not supported"),
    "bad-gateway": Kind(502, "Two replicas failed on this request"),
    "http-version": Kind(505, "This version of HTTP is not supported"),
}


@dataclass(frozen=True, slots=True)
class Advice:
    """What a problem means, and what its receiver does about it; in Markdown."""

    meaning: str
    remedy: str


ADVICE: Mapping[str, Advice] = {
    "malformed-request": Advice(
        "the body is not JSON or repeats a name, a header that has one value is repeated, or the request is not HTTP",
        "send valid UTF-8 JSON with each name once, and each header once",
    ),
    "tls-required": Advice("plain HTTP on a port that speaks TLS (NGINX)", "use https"),
    "idempotency-key-missing": Advice(
        "a POST that moves money or opens an account has no usable `Idempotency-Key`",
        "send 1 to 255 printable ASCII characters, unique to the operation; in quotes if there is a comma",
    ),
    "unauthorized": Advice(
        "no token, or one that is expired, foreign or malformed", "get a token: `make token SUB=alice`"
    ),
    "forbidden": Advice(
        "the token lacks a scope, or only somebody else may do this", "use a token with the scope that `detail` names"
    ),
    "not-found": Advice(
        "there is nothing, or nothing that you may see",
        "check the id and whose token you use; a new account takes a moment to appear in the history",
    ),
    "method-not-allowed": Advice("the resource exists, the method does not", "see the `Allow` header"),
    "insufficient-funds": Advice("`available` (balance less holds) is too small", "pay less, or deposit money first"),
    "account-frozen": Advice("the account may receive but not pay", "ask an operator to unfreeze it"),
    "account-closed": Advice("the account is closed for good", "use another account"),
    "already-reversed": Advice("a transaction is reversed at most once", "nothing"),
    "not-reversible": Advice("a reversal cannot be reversed", "make a new transaction"),
    "hold-not-active": Advice("the hold was captured or voided, or it has expired", "place a new hold"),
    "hold-exceeded": Advice("the capture is larger than the hold", "capture less"),
    "balance-not-zero": Advice("an account with money or holds cannot be closed", "pay out and void first"),
    "balance-limit": Advice("the balance would exceed the maximum of an account", "use another account"),
    "request-in-progress": Advice(
        "the first request with this key is still running", "ask again after `Retry-After` seconds"
    ),
    "payload-too-large": Advice("the body is over 1 MiB", "send less at once"),
    "uri-too-long": Advice("path and query are over 8 KiB", "shorten the query"),
    "unsupported-media-type": Advice(
        "the body is not `application/json` in UTF-8, or it is compressed",
        "send plain JSON; the headers `Accept` and `Accept-Encoding` of the answer say what is accepted",
    ),
    "validation-failed": Advice("a field or a query parameter is wrong, unknown or missing", "see `errors`"),
    "currency-mismatch": Advice("account and request differ in currency", "use the account's currency"),
    "same-account": Advice("payer and payee are one account", "name two accounts"),
    "idempotency-key-reused": Advice("the key belongs to another request", "use a new key"),
    "rate-limited": Advice(
        "too many requests from one address (NGINX), too many operations of one subject (a batch counts as its"
        " transfers), or too many long statements at once",
        "send the same request with the same key after `Retry-After` seconds",
    ),
    "headers-too-large": Advice("a header is over 8 KiB, or there are more than 100", "send fewer, smaller headers"),
    "internal-error": Advice("an error of the bank", "retry with the same key: it has one effect at most"),
    "not-implemented": Advice("an unknown transfer coding (NGINX)", "use Content-Length or chunked"),
    "bad-gateway": Advice(
        "two replicas died or did not respond while they worked on the request (NGINX)",
        "retry after `Retry-After` seconds with the same key; report it if it happens again",
    ),
    "unavailable": Advice(
        "the database, the service or a replica is down, or too many requests are waiting",
        "retry after `Retry-After` seconds with the same key",
    ),
    "http-version": Advice("not HTTP/1.x (NGINX)", "use HTTP/1.1"),
}


def kinds() -> dict[str, Kind]:
    """Return every kind of problem that a client can get, by status and then in the order of the code."""
    return dict(sorted({**KINDS, **EDGE_KINDS}.items(), key=lambda item: item[1].status))


def as_markdown(code: str) -> str:
    """Return the page of a problem. Raises KeyError for an unknown code."""
    kind, advice = kinds()[code], ADVICE[code]
    return (
        f"# {kind.title}\n\n`{code}`, HTTP status {kind.status}\n\n"
        f"- What happened: {advice.meaning}.\n- What to do: {advice.remedy}.\n"
    )


def as_html(code: str) -> str:
    """Return the page of a problem. Raises KeyError for an unknown code."""
    kind, advice = kinds()[code], ADVICE[code]
    title, meaning, remedy = (html.escape(text) for text in (kind.title, advice.meaning, advice.remedy))
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>\n<h1>{title}</h1>\n'
        f"<p><code>{code}</code>, HTTP status {kind.status}</p>\n"
        f"<dl><dt>What happened</dt><dd>{meaning}.</dd><dt>What to do</dt><dd>{remedy}.</dd></dl></html>\n"
    )


async def _page(request: Request) -> Response:
    code = request.path_params["code"]
    if code not in ADVICE:
        raise HTTPException(404)
    headers = {"Vary": "Accept"}
    # Browsers name HTML; what does not reads Markdown as well.
    if "text/html" in request.headers.get("accept", "").lower():
        return Response(as_html(code), headers=headers, media_type="text/html")
    return Response(as_markdown(code), headers=headers, media_type="text/markdown")


def route() -> Route:
    """Return the route `/problems/{code}`."""
    return Route("/problems/{code}", _page)
