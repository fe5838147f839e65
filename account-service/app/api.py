"""The HTTP API of account-service: an endpoint reads the request, calls the service and responds."""

from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import APIRouter, Depends
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from app import schemas
from app.application.account_numbers import new_account_number
from app.application.queries import Queries
from app.application.requests import LedgerRequest, LedgerResponse, RequestContext, TransferBatch
from app.domain.commands import (
    CaptureHold,
    Command,
    Deposit,
    OpenAccount,
    PlaceHold,
    ReleaseHold,
    Reverse,
    SetStatus,
    Transfer,
    Withdraw,
)
from app.domain.model import account_data
from app.service import AccountService
from app.settings import AccountSettings
from shared.http import bodies, idempotency, paging
from shared.http.auth import CASH_DESK, Caller, require_operator
from shared.http.clients import bucket_of_request
from shared.http.bodies import EmptyBody, StrictBody
from shared.ids import new_id, utc_now
from shared.logging_config import TRACE_PARENT
from shared.http.problems import Problem
from shared.http.web import LeanRoute, current_caller, documented_problems, lean_documentation, link

Body = TypeVar("Body", bound=StrictBody)

_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": True,
    "description": "Unique key of this operation; a repeated request with the same key gets the first response.",
    # As parsed by shared/http/idempotency.py: quoted, or bare without commas and without spaces at either end.
    "schema": {
        "type": "string",
        "maxLength": 257,
        "pattern": '^(?!""$)("[ !#-~]{1,255}"|[!-+\\--~]([ -+\\--~]{0,253}[!-+\\--~])?)$',
    },
}
_ID = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}

_ACCOUNT = "/api/v1/accounts/{id}"
# OpenAPI links: the operations that a response can be used for.
_ACCOUNT_LINKS = {
    "get": link("get", _ACCOUNT),
    **{action: link("post", f"{_ACCOUNT}/{action}") for action in ("deposits", "withdrawals", "holds")},
    **{action: link("post", f"{_ACCOUNT}/{action}") for action in ("freeze", "unfreeze", "close")},
    "pay": link("post", "/api/v1/transfers", body="from_account"),
    "receive": link("post", "/api/v1/transfers", body="to_account"),
}
_TRANSACTION_LINKS = {
    "reverse": link("post", "/api/v1/reversals", body="transaction_id"),
    "payer": link("get", _ACCOUNT, source="/from_account"),
    "payee": link("get", _ACCOUNT, source="/to_account"),
}
_HOLD_LINKS = {
    **{action: link("post", f"/api/v1/holds/{{id}}/{action}") for action in ("captures", "voids")},
    "account": link("get", _ACCOUNT, source="/account_id"),
}
_LINKS: dict[type, dict[str, Any]] = {
    schemas.AccountView: _ACCOUNT_LINKS,
    schemas.TransactionView: _TRANSACTION_LINKS,
    schemas.HoldView: _HOLD_LINKS,
}

# FastAPI documents lean routes, but does not parse their requests (docs/adr/0002-lean-routes.md).
_writes = APIRouter(prefix="/api/v1", route_class=LeanRoute)
_reads = APIRouter(prefix="/api/v1")


def _document(
    path: str, body: type[StrictBody], view: type, status: int, *, keyed: bool = True, body_required: bool = True
) -> dict[str, Any]:
    """Return the OpenAPI documentation of a route that writes."""
    parameters = [*([_KEY] if keyed else []), *([_ID] if "{id" in path else [])]
    return {
        "path": path,
        "status_code": status,
        "responses": {
            status: {"model": view, "links": _LINKS.get(view, {})},
            **documented_problems(400, 401, 403, 404, 409, 413, 415, 422, 429, 500, 503),
        },
        "openapi_extra": lean_documentation(body, parameters=parameters, required=body_required),
    }


def _service(request: Request) -> AccountService:
    service: AccountService = request.app.state.service
    return service


def _queries(request: Request) -> Queries:
    queries: Queries = request.app.state.queries
    return queries


def _context(request: Request) -> RequestContext:
    scope = request.scope
    client_bucket = bucket_of_request(scope["headers_by_name"])
    return RequestContext(scope["path"], scope["request_id"], TRACE_PARENT.get(), client_bucket)


def _hashed_path(request: Request) -> str:
    """Return the path that is hashed with the request, in lower case: ids are not case-sensitive."""
    path: str = request.scope["path"]
    return path.lower()


def _to_http(response: LedgerResponse) -> Response:
    media_type = "application/json" if response.status < 400 else "application/problem+json"
    headers = {"Idempotent-Replayed": "true"} if response.replayed else None
    return Response(response.body, response.status, headers, media_type)


async def _execute(
    request: Request,
    model: type[Body],
    to_command: Callable[[Body, Caller], Command | TransferBatch],
    status: int = 201,
) -> Response:
    """Execute a request that requires an Idempotency-Key."""
    caller = await current_caller(request)
    key = idempotency.parse_key(request.headers.get("idempotency-key"))
    path, context = _hashed_path(request), _context(request)
    try:
        body = await bodies.read(request, model)
    except (ValidationError, Problem):
        # A request that was valid when it was executed is still replayed, even if validation has changed since.
        if (content_hash := await _hash_of_invalid(request, model)) is not None:
            if (response := await _service(request).replay(caller, key, content_hash, context)) is not None:
                return _to_http(response)
        raise
    request_hash = idempotency.request_hash(path, body.model_dump())
    ledger_request = LedgerRequest(
        caller, to_command(body, caller), status, context, (caller.subject, key), request_hash
    )
    return _to_http(await _service(request).execute(ledger_request))


async def _hash_of_invalid(request: Request, model: type[Body]) -> bytes | None:
    """Return the hash of an invalid request; None if it cannot be parsed, so that it was never valid."""
    try:
        content = idempotency.canonical(model, bodies.loads(await request.body() or b"{}", model.max_nodes))
        return idempotency.request_hash(_hashed_path(request), content)
    except (ValueError, TypeError, Problem):
        return None


async def _set_status(request: Request, status: str) -> Response:
    """Execute an operator's change of an account's status, which is idempotent without a key."""
    caller = await current_caller(request)
    require_operator(caller)
    await bodies.read(request, EmptyBody)
    ledger_request = LedgerRequest(caller, SetStatus(_id(request), status), 200, _context(request))
    return _to_http(await _service(request).execute(ledger_request))


def _id(request: Request) -> str:
    return str(request.path_params["id"])


@_writes.post(**_document("/transfers", schemas.TransferBody, schemas.TransactionView, 201))
async def transfer(request: Request) -> Response:
    """Transfer money between two accounts of the same currency; the caller must own the paying account."""
    return await _execute(request, schemas.TransferBody, _transfer_of)


def _transfer_of(body: schemas.TransferBody, _caller: Caller) -> Transfer:
    return Transfer(new_id(), body.from_account, body.to_account, body.amount, body.currency, body.reference)


@_writes.post(**_document("/accounts/{id:uuid}/deposits", schemas.MoneyBody, schemas.TransactionView, 201))
async def deposit(request: Request) -> Response:
    """Deposit money; requires the scope bank:deposit or bank:operator (bank:synthetic for own accounts)."""

    def command(body: schemas.MoneyBody, caller: Caller) -> Deposit:
        # The ledger decides which accounts a synthetic caller may credit.
        if not (caller.is_cash_desk or caller.is_operator or caller.is_synthetic):
            raise Problem("forbidden", f"A deposit requires the scope {CASH_DESK}; use a token that has it.")
        return Deposit(new_id(), _id(request), body.amount, body.currency, body.reference)

    return await _execute(request, schemas.MoneyBody, command)


@_writes.post(**_document("/accounts/{id:uuid}/withdrawals", schemas.MoneyBody, schemas.TransactionView, 201))
async def withdraw(request: Request) -> Response:
    """Withdraw money from an account."""

    def command(body: schemas.MoneyBody, _caller: Caller) -> Withdraw:
        return Withdraw(new_id(), _id(request), body.amount, body.currency, body.reference)

    return await _execute(request, schemas.MoneyBody, command)


@_writes.post(**_document("/transfers:batch", schemas.BatchBody, schemas.BatchView, 200))
async def transfer_batch(request: Request) -> Response:
    """Execute up to 1000 transfers, each with its own key and result; a refused transfer does not stop the others.

    The key of a transfer is an idempotency key: the same transfer can be repeated in a batch or on its own.
    """

    def command(body: schemas.BatchBody, caller: Caller) -> TransferBatch:
        context = _context(request)
        return TransferBatch(
            tuple(
                LedgerRequest(
                    caller,
                    _transfer_of(item, caller),
                    201,
                    context,
                    (caller.subject, item.key),
                    idempotency.request_hash("/api/v1/transfers", item.model_dump(exclude={"key"})),
                )
                for item in body.transfers
            )
        )

    return await _execute(request, schemas.BatchBody, command, 200)


@_writes.post(**_document("/accounts", schemas.OpenAccountBody, schemas.AccountView, 201))
async def open_account(request: Request) -> Response:
    """Open an account owned by the caller."""

    def command(body: schemas.OpenAccountBody, _caller: Caller) -> OpenAccount:
        return OpenAccount(new_id(), new_account_number(), body.currency, body.name)

    return await _execute(request, schemas.OpenAccountBody, command)


@_writes.post(**_document("/reversals", schemas.ReversalBody, schemas.TransactionView, 201))
async def reverse(request: Request) -> Response:
    """Reverse a transaction; only the recipient of the money or an operator can do so."""

    def command(body: schemas.ReversalBody, _caller: Caller) -> Reverse:
        return Reverse(new_id(), body.transaction_id, body.reason)

    return await _execute(request, schemas.ReversalBody, command)


@_writes.post(**_document("/accounts/{id:uuid}/holds", schemas.HoldBody, schemas.HoldView, 201))
async def place_hold(request: Request) -> Response:
    """Reserve money until the hold is captured, voided, or expires after `expires_in` seconds (default: 7 days)."""
    settings: AccountSettings = request.app.state.settings

    def command(body: schemas.HoldBody, _caller: Caller) -> PlaceHold:
        life = timedelta(seconds=body.expires_in or settings.hold_default_seconds)
        return PlaceHold(new_id(), _id(request), body.amount, body.currency, utc_now() + life)

    return await _execute(request, schemas.HoldBody, command)


@_writes.post(**_document("/holds/{id:uuid}/captures", schemas.CaptureBody, schemas.HoldView, 201, body_required=False))
async def capture_hold(request: Request) -> Response:
    """Capture a hold, in full or in part; the rest is released. A hold placed by an operator requires an operator."""

    def command(body: schemas.CaptureBody, _caller: Caller) -> CaptureHold:
        return CaptureHold(new_id(), _id(request), body.amount)

    return await _execute(request, schemas.CaptureBody, command)


@_writes.post(**_document("/holds/{id:uuid}/voids", EmptyBody, schemas.HoldView, 201, body_required=False))
async def void_hold(request: Request) -> Response:
    """Void a hold without paying it out. A hold placed by an operator requires an operator."""

    def command(_body: EmptyBody, _caller: Caller) -> ReleaseHold:
        return ReleaseHold(_id(request), "voided")

    return await _execute(request, EmptyBody, command)


def _status_document(action: str) -> dict[str, Any]:
    path = f"/accounts/{{id:uuid}}/{action}"
    return _document(path, EmptyBody, schemas.AccountView, 200, keyed=False, body_required=False)


@_writes.post(**_status_document("freeze"))
async def freeze(request: Request) -> Response:
    """Freeze an account: it can receive money but not pay. Operators only."""
    return await _set_status(request, "frozen")


@_writes.post(**_status_document("unfreeze"))
async def unfreeze(request: Request) -> Response:
    """Unfreeze an account. Operators only."""
    return await _set_status(request, "active")


@_writes.post(**_status_document("close"))
async def close(request: Request) -> Response:
    """Close an account with a zero balance permanently. Operators only."""
    return await _set_status(request, "closed")


@_reads.get(
    "/accounts",
    response_model=schemas.AccountPage,
    responses={
        200: {"links": {"first": link("get", _ACCOUNT, source="/items/0/id")}},
        **documented_problems(400, 401, 422, 500, 503),
    },
)
async def list_accounts(
    request: Request,
    caller: Annotated[Caller, Depends(current_caller)],
    limit: paging.Limit = paging.DEFAULT_LIMIT,
    cursor: paging.Cursor = None,
) -> Response:
    """List the caller's accounts, oldest first; operators see all accounts."""
    after = paging.decode_cursor(cursor) if cursor else None
    found = await _queries(request).accounts(caller, after, limit + 1)
    return paging.page([account_data(account) for account in found], limit)


@_reads.get(
    "/accounts/{id:uuid}",
    response_model=schemas.AccountView,
    responses={200: {"links": _ACCOUNT_LINKS}, **documented_problems(400, 401, 404, 422, 500, 503)},
    openapi_extra={"parameters": [_ID]},
)
async def get_account(request: Request, caller: Annotated[Caller, Depends(current_caller)]) -> Response:
    """Get an account."""
    account = await _queries(request).account(caller, _id(request))
    return Response(orjson.dumps(account), media_type="application/json")


ROUTES: list[BaseRoute] = [*_writes.routes, *_reads.routes]
