"""Documentation of the problem types: `GET /problems/{code}` explains what happened and what to do.

docs/problems.md is generated from the same texts.
"""

import html
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shared.http.problems import PROBLEM_TYPES, ProblemType

# Problem types that only NGINX returns; its template contains the same titles.
NGINX_PROBLEM_TYPES: Mapping[str, ProblemType] = {
    "tls-required": ProblemType(400, "HTTPS required"),
    "not-implemented": ProblemType(501, "Transfer coding not supported"),
    "bad-gateway": ProblemType(502, "Bad gateway"),
    "http-version": ProblemType(505, "HTTP version not supported"),
}


@dataclass(frozen=True, slots=True)
class Advice:
    """Meaning of a problem type and remedy for the client, in Markdown."""

    meaning: str
    remedy: str


ADVICE: Mapping[str, Advice] = {
    "malformed-request": Advice(
        "the body is not JSON or has duplicate names, a single-valued header is repeated, or it is not valid HTTP",
        "send valid JSON in UTF-8, and each name and header once",
    ),
    "tls-required": Advice("plain HTTP on the HTTPS port (NGINX)", "use https"),
    "idempotency-key-missing": Advice(
        "a POST that moves money, opens an account or creates a webhook has no valid `Idempotency-Key`",
        "send 1 to 255 printable ASCII characters, unique to the operation; quote keys that contain a comma",
    ),
    "unauthorized": Advice(
        "the token is missing, malformed, expired or of another issuer",
        "request a new token; in development: `make token SUB=alice`",
    ),
    "forbidden": Advice(
        "the token lacks a scope, or the account belongs to another customer", "use a token with the scope in `detail`"
    ),
    "not-found": Advice(
        "the resource does not exist, or the caller may not see it",
        "check the id and the token's subject; a new account appears in the history after a short delay",
    ),
    "method-not-allowed": Advice("the resource does not support this method", "use a method of the `Allow` header"),
    "not-acceptable": Advice(
        "the `Accept` header allows none of the media types of the resource", "send one of those that `detail` lists"
    ),
    "insufficient-funds": Advice(
        "`available` (balance minus holds plus overdraft limit) is less than the amount",
        "reduce the amount or deposit money first",
    ),
    "account-frozen": Advice("the account can receive money but not pay", "ask an operator to unfreeze it"),
    "account-closed": Advice("the account is closed permanently", "use another account"),
    "already-reversed": Advice("the whole transaction has already been reversed", "nothing to do"),
    "reversal-exceeded": Advice(
        "the amount is more than what earlier reversals have left of the transaction", "reduce the amount"
    ),
    "batch-refused": Advice(
        "another transfer of the same atomic batch was refused, so none was executed",
        "correct the refused transfer, and send the batch with a new `Idempotency-Key`",
    ),
    "not-reversible": Advice("reversals cannot be reversed", "post a new transaction"),
    "hold-not-active": Advice("the hold has been captured or voided, or has expired", "place a new hold"),
    "hold-exceeded": Advice("the amount of the capture exceeds what is left of the hold", "reduce the amount"),
    "expiry-out-of-range": Advice(
        "the new expiry of a hold is not later than its current one, or more than a year after it was placed",
        "choose another `expires_in`, or place a new hold",
    ),
    "balance-not-zero": Advice(
        "an account with a balance or active holds cannot be closed",
        "capture or void the holds in `holds`, and pay out the balance",
    ),
    "overdraft-in-use": Advice(
        "the new overdraft limit is less than what the account has already used of its overdraft",
        "set a higher limit, or let the account be credited first",
    ),
    "daily-limit-exceeded": Advice(
        "the withdrawals, transfers out and placed holds of the UTC day would exceed the account's daily debit limit",
        "reduce the amount, wait until midnight UTC, or ask an operator to raise the limit",
    ),
    "balance-limit": Advice("the balance would exceed the maximum of an account", "use another account"),
    "not-sealed": Advice(
        "the transaction is posted, but no signed root of the ledger covers it yet",
        "request its proof after `Retry-After` seconds",
    ),
    "webhooks-disabled": Advice("this bank sends no webhooks", "ask its operators to set `WEBHOOK_KEY`"),
    "webhook-limit": Advice("the client has as many webhooks as it can have", "delete one first"),
    "request-in-progress": Advice(
        "the first request with this key is still in progress", "retry after `Retry-After` seconds"
    ),
    "events-pruned": Advice(
        "the producer's outbox no longer has the event (between services only)",
        "read the producer's snapshot; services do this without an operator",
    ),
    "payload-too-large": Advice("the body exceeds 1 MiB", "split it into smaller requests"),
    "uri-too-long": Advice("path and query exceed 8 KiB", "shorten the query"),
    "unsupported-media-type": Advice(
        "the body is not `application/json` in UTF-8, or it is compressed",
        "send uncompressed JSON; see the headers `Accept` and `Accept-Encoding` of the response",
    ),
    "validation-failed": Advice(
        "a field or query parameter is invalid, unknown or missing", "correct the fields in `errors`"
    ),
    "currency-mismatch": Advice("the currencies of account and request differ", "use the account's currency"),
    "too-many-currencies": Advice(
        "the legs of a transaction group have more than two currencies", "post a group for each pair of currencies"
    ),
    "same-account": Advice("payer and payee are the same account", "specify two accounts"),
    "idempotency-key-reused": Advice("the key was used for a different request", "use a new key"),
    "rate-limited": Advice(
        "too many requests from one address (NGINX), too many operations of one subject (each transfer of a batch"
        " and each leg of a group counts), or too many concurrent long statements",
        "retry with the same key after `Retry-After` seconds",
    ),
    "headers-too-large": Advice(
        "a header exceeds 8 KiB, or there are more than 100 headers", "send fewer or smaller headers"
    ),
    "internal-error": Advice(
        "an unexpected error in the service", "retry with the same key; the request has at most one effect"
    ),
    "not-implemented": Advice(
        "the request uses an unknown transfer coding (NGINX)", "use Content-Length or chunked encoding"
    ),
    "bad-gateway": Advice(
        "two replicas failed or did not respond while processing the request (NGINX)",
        "retry with the same key after `Retry-After` seconds; report the problem if it persists",
    ),
    "unavailable": Advice(
        "the database, the service or a replica is not available, or the queue is full",
        "retry with the same key after `Retry-After` seconds",
    ),
    "http-version": Advice("the request does not use HTTP/1.x (NGINX)", "use HTTP/1.1"),
}


def problem_types() -> dict[str, ProblemType]:
    """Return all problem types by code, sorted by status."""
    return dict(sorted({**PROBLEM_TYPES, **NGINX_PROBLEM_TYPES}.items(), key=lambda item: item[1].status))


def as_markdown(code: str) -> str:
    """Return the page of a problem type. Raises KeyError for an unknown code."""
    kind, advice = problem_types()[code], ADVICE[code]
    return (
        f"# {kind.title}\n\n`{code}`, HTTP status {kind.status}\n\n"
        f"- What happened: {advice.meaning}.\n- What to do: {advice.remedy}.\n"
    )


def as_html(code: str) -> str:
    """Return the page of a problem type. Raises KeyError for an unknown code."""
    kind, advice = problem_types()[code], ADVICE[code]
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
    # Browsers accept HTML; all other clients get Markdown.
    if "text/html" in request.headers.get("accept", "").lower():
        return Response(as_html(code), headers=headers, media_type="text/html")
    return Response(as_markdown(code), headers=headers, media_type="text/markdown")


def route() -> Route:
    """Return the route `/problems/{code}`."""
    return Route("/problems/{code}", _page)
