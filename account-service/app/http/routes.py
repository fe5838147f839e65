"""What the routes of the API have in common: their documentation, and the execution of requests that write."""

from collections.abc import Callable
from typing import Any, TypeVar

import orjson
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from app import schemas
from app.application.queries import Queries
from app.application.requests import LedgerRequest, LedgerResponse, RequestContext, TransferBatch
from app.domain.commands import Command
from app.service import AccountService
from shared.http import bodies, idempotency
from shared.http.auth import Caller
from shared.http.bodies import StrictBody
from shared.http.clients import bucket_of_request
from shared.http.problems import Problem
from shared.http.web import current_caller, documented_problems, lean_documentation, link
from shared.logging_config import TRACE_PARENT

Body = TypeVar("Body", bound=StrictBody)

ID = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}

ACCOUNT = "/api/v1/accounts/{id}"
# OpenAPI links: the operations that a response can be used for.
ACCOUNT_LINKS = {
    "get": link("get", ACCOUNT),
    **{action: link("post", f"{ACCOUNT}/{action}") for action in ("deposits", "withdrawals")},
    "hold": link("post", f"{ACCOUNT}/holds"),
    **{action: link("post", f"{ACCOUNT}/{action}") for action in ("freeze", "unfreeze", "close", "limits")},
    "holds": link("get", f"{ACCOUNT}/holds"),
    "balance": link("get", f"{ACCOUNT}/balance"),
    "pay": link("post", "/api/v1/transfers", body="from_account"),
    "receive": link("post", "/api/v1/transfers", body="to_account"),
}
_TRANSACTION_LINKS = {
    "reverse": link("post", "/api/v1/reversals", body="transaction_id"),
    "payer": link("get", ACCOUNT, source="/from_account"),
    "payee": link("get", ACCOUNT, source="/to_account"),
}
_GROUP_LINKS = {"reverse": link("post", "/api/v1/transaction-groups/{id}/reversals")}
HOLD_LINKS = {
    **{action: link("post", f"/api/v1/holds/{{id}}/{action}") for action in ("captures", "extensions", "voids")},
    "get": link("get", "/api/v1/holds/{id}"),
    "account": link("get", ACCOUNT, source="/account_id"),
}
_LINKS: dict[type, dict[str, Any]] = {
    schemas.AccountView: ACCOUNT_LINKS,
    schemas.TransactionView: _TRANSACTION_LINKS,
    schemas.GroupView: _GROUP_LINKS,
    schemas.HoldView: HOLD_LINKS,
}


def document(
    path: str, body: type[StrictBody], view: type, status: int, *, keyed: bool = True, body_required: bool = True
) -> dict[str, Any]:
    """Return the OpenAPI documentation of a route that writes."""
    parameters = [*([idempotency.KEY_PARAMETER] if keyed else []), *([ID] if "{id" in path else [])]
    return {
        "path": path,
        "status_code": status,
        "responses": {
            status: {"model": view, "links": _LINKS.get(view, {})},
            **documented_problems(400, 401, 403, 404, 409, 413, 415, 422, 429, 500, 503),
        },
        "openapi_extra": lean_documentation(body, parameters=parameters, required=body_required),
    }


def service_of(request: Request) -> AccountService:
    """Return the service that executes requests."""
    service: AccountService = request.app.state.service
    return service


def queries_of(request: Request) -> Queries:
    """Return the reads of the ledger."""
    queries: Queries = request.app.state.queries
    return queries


def context_of(request: Request) -> RequestContext:
    """Return path, ids and client bucket of a request."""
    scope = request.scope
    client_bucket = bucket_of_request(scope["headers_by_name"])
    return RequestContext(scope["path"], scope["request_id"], TRACE_PARENT.get(), client_bucket)


def _request_hash(request: Request, model: type[StrictBody], content: Any) -> bytes:
    """Return the hash of a request; the path is in lower case, because ids are not case-sensitive."""
    path: str = request.scope["path"]
    return idempotency.request_hash(path.lower(), bodies.hashed_content(model, content))


def to_http(response: LedgerResponse) -> Response:
    """Return the HTTP response with the response of the ledger."""
    media_type = "application/json" if response.status < 400 else "application/problem+json"
    headers = {"Idempotent-Replayed": "true"} if response.replayed else None
    return Response(response.body, response.status, headers, media_type)


async def execute(
    request: Request,
    model: type[Body],
    to_command: Callable[[Body, Caller], Command | TransferBatch],
    status: int = 201,
) -> Response:
    """Execute a request that requires an Idempotency-Key."""
    caller = await current_caller(request)
    key = idempotency.parse_key(request.headers.get("idempotency-key"))
    context = context_of(request)
    try:
        body = await bodies.read(request, model)
    except (ValidationError, Problem):
        # A request that was valid when it was executed is still replayed, even if validation has changed since.
        if (content_hash := await _hash_of_invalid(request, model)) is not None:
            if (response := await service_of(request).replay(caller, key, content_hash, context)) is not None:
                return to_http(response)
        raise
    request_hash = _request_hash(request, model, body.model_dump())
    ledger_request = LedgerRequest(
        caller, to_command(body, caller), status, context, (caller.subject, key), request_hash
    )
    return to_http(await service_of(request).execute(ledger_request))


async def _hash_of_invalid(request: Request, model: type[Body]) -> bytes | None:
    """Return the hash of an invalid request; None if it cannot be parsed, so that it was never valid."""
    try:
        content = idempotency.canonical(model, bodies.loads(await request.body() or b"{}", model.max_nodes))
        return _request_hash(request, model, content)
    except (ValueError, TypeError, Problem):
        return None


def metadata_of(body: schemas.MetadataBody) -> str | None:
    """Return the metadata of a request as they are stored; None without."""
    return orjson.dumps(body.metadata, option=orjson.OPT_SORT_KEYS).decode() if body.metadata else None


def id_of(request: Request) -> str:
    """Return the id in the path."""
    return str(request.path_params["id"])
