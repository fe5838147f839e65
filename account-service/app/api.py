"""The HTTP API of account-service: an endpoint reads the request, calls the service and responds."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from app import schemas
from app.application.account_numbers import new_account_number
from app.application.requests import LedgerRequest, TransferBatch
from app.domain.commands import Deposit, OpenAccount, Reverse, SetLimits, SetStatus, Transfer, Withdraw
from app.domain.model import account_data
from app.http.routes import ACCOUNT, ACCOUNT_LINKS, ID, context_of, document, execute, id_of, queries_of
from app.http.routes import Body, metadata_of, service_of, to_http
from shared.http import bodies, idempotency, paging
from shared.http.auth import CASH_DESK, Caller, require_operator
from shared.http.bodies import EmptyBody
from shared.http.problems import Problem
from shared.http.responses import json_response
from shared.http.web import LeanRoute, current_caller, documented_problems, link
from shared.ids import Identifier, new_id
from shared.timestamps import Timestamp

# FastAPI documents lean routes, but does not parse their requests (docs/adr/0002-lean-routes.md).
_writes = APIRouter(prefix="/api/v1", route_class=LeanRoute)
_reads = APIRouter(prefix="/api/v1")


async def _change(request: Request, model: type[Body], command: Callable[[Body], SetStatus | SetLimits]) -> Response:
    """Execute an operator's change of an account, which is idempotent without a key."""
    caller = await current_caller(request)
    require_operator(caller)
    body = await bodies.read(request, model)
    return to_http(await service_of(request).execute(LedgerRequest(caller, command(body), 200, context_of(request))))


async def _set_status(request: Request, status: str) -> Response:
    return await _change(request, EmptyBody, lambda _: SetStatus(id_of(request), status))


@_writes.post(**document("/transfers", schemas.TransferBody, schemas.TransactionView, 201))
async def transfer(request: Request) -> Response:
    """Transfer money between two accounts of the same currency; the caller must own the paying account."""
    return await execute(request, schemas.TransferBody, _transfer_of)


def _transfer_of(body: schemas.TransferBody | schemas.BatchItemBody, _caller: Caller) -> Transfer:
    metadata = metadata_of(body) if isinstance(body, schemas.TransferBody) else None
    return Transfer(new_id(), body.from_account, body.to_account, body.amount, body.currency, body.reference, metadata)


@_writes.post(**document("/accounts/{id:uuid}/deposits", schemas.MoneyBody, schemas.TransactionView, 201))
async def deposit(request: Request) -> Response:
    """Deposit money; requires the scope bank:deposit or bank:operator (bank:synthetic for own accounts)."""

    def command(body: schemas.MoneyBody, caller: Caller) -> Deposit:
        # The ledger decides which accounts a synthetic caller may credit.
        if not (caller.is_cash_desk or caller.is_operator or caller.is_synthetic):
            raise Problem("forbidden", f"A deposit requires the scope {CASH_DESK}; use a token that has it.")
        return Deposit(new_id(), id_of(request), body.amount, body.currency, body.reference, metadata_of(body))

    return await execute(request, schemas.MoneyBody, command)


@_writes.post(**document("/accounts/{id:uuid}/withdrawals", schemas.MoneyBody, schemas.TransactionView, 201))
async def withdraw(request: Request) -> Response:
    """Withdraw money from an account."""

    def command(body: schemas.MoneyBody, _caller: Caller) -> Withdraw:
        return Withdraw(new_id(), id_of(request), body.amount, body.currency, body.reference, metadata_of(body))

    return await execute(request, schemas.MoneyBody, command)


@_writes.post(**document("/transfers:batch", schemas.BatchBody, schemas.BatchView, 200))
async def transfer_batch(request: Request) -> Response:
    """Execute up to 1000 transfers, each with its own key and result; with `atomic` all of them or none.

    The key of a transfer is an idempotency key: the same transfer can be repeated in a batch or on its own.
    """

    def command(body: schemas.BatchBody, caller: Caller) -> TransferBatch:
        context = context_of(request)
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
            ),
            atomic=body.atomic is True,
        )

    return await execute(request, schemas.BatchBody, command, 200)


@_writes.post(**document("/accounts", schemas.OpenAccountBody, schemas.AccountView, 201))
async def open_account(request: Request) -> Response:
    """Open an account owned by the caller."""

    def command(body: schemas.OpenAccountBody, _caller: Caller) -> OpenAccount:
        return OpenAccount(new_id(), new_account_number(), body.currency, body.name, metadata_of(body))

    return await execute(request, schemas.OpenAccountBody, command)


@_writes.post(**document("/reversals", schemas.ReversalBody, schemas.TransactionView, 201))
async def reverse(request: Request) -> Response:
    """Reverse a transaction in full or in part; only the recipient of the money or an operator can do so."""

    def command(body: schemas.ReversalBody, _caller: Caller) -> Reverse:
        return Reverse(new_id(), body.transaction_id, body.reason, body.amount, metadata_of(body))

    return await execute(request, schemas.ReversalBody, command)


def _status_document(action: str) -> dict[str, Any]:
    path = f"/accounts/{{id:uuid}}/{action}"
    return document(path, EmptyBody, schemas.AccountView, 200, keyed=False, body_required=False)


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


@_writes.post(**document("/accounts/{id:uuid}/limits", schemas.LimitsBody, schemas.AccountView, 200, keyed=False))
async def set_limits(request: Request) -> Response:
    """Set the overdraft limit and the daily debit limit of an account. Operators only."""

    def command(body: schemas.LimitsBody) -> SetLimits:
        return SetLimits(id_of(request), body.overdraft_limit, body.daily_debit_limit)

    return await _change(request, schemas.LimitsBody, command)


@_reads.get(
    "/accounts",
    response_model=schemas.AccountPage,
    responses={
        200: {"links": {"first": link("get", ACCOUNT, source="/items/0/id")}},
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
    accounts = await queries_of(request).accounts(caller, after, limit + 1)
    return paging.page([account_data(account) for account in accounts], limit)


@_reads.get(
    "/accounts/{id:uuid}",
    response_model=schemas.AccountView,
    responses={200: {"links": ACCOUNT_LINKS}, **documented_problems(400, 401, 404, 422, 500, 503)},
    openapi_extra={"parameters": [ID]},
)
async def get_account(request: Request, caller: Annotated[Caller, Depends(current_caller)]) -> Response:
    """Get an account."""
    account = await queries_of(request).account(caller, id_of(request))
    return json_response(account)


@_reads.get(
    "/accounts/{id:uuid}/balance",
    response_model=schemas.BalanceView,
    responses={
        200: {"links": {"account": link("get", ACCOUNT, source="/account_id")}},
        **documented_problems(400, 401, 404, 422, 500, 503),
    },
    openapi_extra={"parameters": [ID]},
)
async def get_balance(
    request: Request,
    caller: Annotated[Caller, Depends(current_caller)],
    at: Annotated[
        Timestamp | None, Query(description="Time of the balance; entries of this time are included.")
    ] = None,
    as_of_transaction: Annotated[
        Identifier | None, Query(description="Transaction after which the balance is shown, instead of `at`.")
    ] = None,
) -> Response:
    """Get the balance of an account at a time or after a transaction; by default now."""
    if at is not None and as_of_transaction is not None:
        errors = [{"pointer": "/query/as_of_transaction", "detail": "cannot be combined with `at`"}]
        raise Problem("validation-failed", "Use either `at` or `as_of_transaction`.", errors)
    balance = await queries_of(request).balance(caller, id_of(request), at, as_of_transaction)
    return json_response(balance)


ROUTES: list[BaseRoute] = [*_writes.routes, *_reads.routes]
