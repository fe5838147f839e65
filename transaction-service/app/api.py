"""The HTTP API of transaction-service: an endpoint parses the request, calls the service and responds."""

from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from app import schemas, statements
from app.formats import pdf
from app.formats.base import Format, Options, filename
from app.formats.camt053 import CamtFormat
from app.formats.csv_format import CsvFormat
from app.formats.json_format import JsonFormat
from app.http import streaming
from app.http.negotiation import negotiate
from app.http.streaming import StreamLimiter
from app.service import TransactionService
from app.storage.queries import TransactionFilter
from shared.http import paging
from shared.http.auth import Caller
from shared.http.problems import Problem
from shared.ids import Identifier, utc_now
from shared.timestamps import From, To
from shared.http.responses import json_response
from shared.http.web import current_caller, documented_problems, link

_ID = {"in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}

_Caller = Annotated[Caller, Depends(current_caller)]
_Account = Annotated[Identifier | None, Query(description="Filter by account.")]

_STATEMENT = "/api/v1/statements/{account_id}"
# Links from responses to further requests, in the OpenAPI document.
_LIST_LINKS = {
    "newest": link("get", "/api/v1/transactions/{id}", source="/items/0/id"),
    "older": link("get", "/api/v1/transactions", cursor="/next_cursor"),
    "of payer": link("get", "/api/v1/transactions", account_id="/items/0/from_account"),
    "statement of payer": link("get", _STATEMENT, account_id="/items/0/from_account"),
    "statement of payee": link("get", _STATEMENT, account_id="/items/0/to_account"),
}
_TRANSACTION_LINKS = {
    "of payer": link("get", "/api/v1/transactions", account_id="/from_account"),
    "statement of payee": link("get", _STATEMENT, account_id="/to_account"),
}
_STATEMENT_LINKS = {"transactions": link("get", "/api/v1/transactions", account_id="/account_id")}
_FLAG_LINKS = {
    "transaction": link("get", "/api/v1/transactions/{id}", source="/items/0/transaction_id"),
    "statement": link("get", _STATEMENT, account_id="/items/0/account_id"),
    "older": link("get", "/api/v1/flags", cursor="/next_cursor"),
}

# Media types of statements, the default first, with the extension of files to download.
_EXTENSIONS = {"application/json": None, "text/csv": "csv", "application/xml": "xml", pdf.MEDIA_TYPE: "pdf"}
_FORMATS: dict[str, type[Format]] = {
    "application/json": JsonFormat,
    "text/csv": CsvFormat,
    "application/xml": CamtFormat,
}

_reads = APIRouter(prefix="/api/v1")


def _service(request: Request) -> TransactionService:
    service: TransactionService = request.app.state.service
    return service


def _id(request: Request, name: str) -> str:
    return str(request.path_params[name])


def _after(cursor: str | None) -> str | None:
    return paging.decode_cursor(cursor) if cursor else None


@_reads.get(
    "/transactions",
    response_model=schemas.TransactionPage,
    responses={200: {"links": _LIST_LINKS}, **documented_problems(400, 401, 404, 422, 500, 503)},
)
async def list_transactions(
    request: Request,
    caller: _Caller,
    account_id: _Account = None,
    type_: Annotated[schemas.TransactionType | None, Query(alias="type", description="Filter by type.")] = None,
    start: From = None,
    end: To = None,
    reference: Annotated[
        schemas.Reference | None, Query(description="Search an account for this exact reference.")
    ] = None,
    counterparty: Annotated[
        Identifier | None, Query(description="Search an account for transactions with this account.")
    ] = None,
    min_amount: Annotated[
        schemas.SearchedAmount | None, Query(description="Search an account for at least this amount, in minor units.")
    ] = None,
    max_amount: Annotated[
        schemas.SearchedAmount | None, Query(description="Search an account for at most this amount, in minor units.")
    ] = None,
    code: Annotated[
        schemas.Code | None, Query(description="Search an account for refusals with this problem code.")
    ] = None,
    metadata_key: Annotated[
        schemas.MetadataKey | None, Query(description="Search an account for metadata with this key.")
    ] = None,
    metadata_value: Annotated[
        schemas.MetadataValue | None, Query(description="The value of `metadata_key`; by default any.")
    ] = None,
    group_id: Annotated[Identifier | None, Query(description="Filter by transaction group.")] = None,
    limit: paging.Limit = paging.DEFAULT_LIMIT,
    cursor: paging.Cursor = None,
) -> Response:
    """List the transactions of the caller's accounts, newest first; operators see all.

    A page of a search in an account reads at most 10,000 entries: it may have few or no items and a `next_cursor`.
    """
    filter_ = TransactionFilter(
        None if caller.is_operator else caller.subject,
        account_id,
        type_,
        start,
        end,
        reference,
        counterparty,
        min_amount,
        max_amount,
        code,
        metadata_key,
        metadata_value,
        group_id,
    )
    listing = await _service(request).transactions(caller, filter_, _after(cursor), limit + 1)
    through = statements.timestamp_or_none(listing.complete_through)
    fields = {"complete": listing.complete, "complete_through": through}
    return paging.page(listing.items, limit, listing.continue_after, **fields)


@_reads.get(
    "/transactions/{id:uuid}",
    response_model=schemas.TransactionView,
    responses={200: {"links": _TRANSACTION_LINKS}, **documented_problems(400, 401, 404, 422, 500, 503)},
    openapi_extra={"parameters": [{"name": "id", **_ID}]},
)
async def get_transaction(request: Request, caller: _Caller) -> Response:
    """Show a transaction."""
    return json_response(await _service(request).transaction(caller, _id(request, "id")))


@_reads.get(
    "/statements/{account_id:uuid}",
    response_model=schemas.StatementView,
    responses={
        200: {
            "content": {
                "text/csv": {"schema": {"type": "string"}},
                "application/xml": {"schema": {"type": "string"}},
                "application/pdf": {"schema": {"type": "string", "format": "binary"}},
            },
            "links": _STATEMENT_LINKS,
        },
        **documented_problems(400, 401, 404, 406, 422, 429, 500, 503),
    },
    openapi_extra={"parameters": [{"name": "account_id", **_ID}]},
)
async def get_statement(
    request: Request,
    caller: _Caller,
    start: From = None,
    end: To = None,
    bom: Annotated[
        Literal["true", "false"], Query(description="Start CSV with a byte order mark, for Microsoft Excel.")
    ] = "false",
) -> Response:
    """Show an account's entries and balances in a period, by default the current month.

    `Accept` selects JSON, `text/csv`, `application/xml` (CAMT.053.001.08) or `application/pdf` (one page). A long
    statement is streamed: incomplete JSON or XML, or CSV without the closing balance, means that it was aborted.
    """
    media_type = _statement_type(request.headers.get("accept", ""))
    service = _service(request)
    statement = await service.statement(caller, _id(request, "account_id"), start, end)
    options = Options(request.app.state.bank_name, utc_now(), byte_order_mark=bom == "true")
    headers = {"Vary": "Accept"}
    if (extension := _EXTENSIONS[media_type]) is not None:
        headers["Content-Disposition"] = f'attachment; filename="{filename(statement, extension)}"'
    streams: StreamLimiter = request.app.state.streams
    totals = partial(service.totals, statement)
    if media_type == pdf.MEDIA_TYPE:
        return await streaming.pdf_response(streams, statement, options, totals, headers)
    format_ = _FORMATS[media_type](statement, options)
    return streaming.statement_response(
        streams, statement, format_, partial(service.next_lines, statement), totals, headers
    )


def _statement_type(accept: str) -> str:
    """Return the media type of a statement. Raises Problem (not-acceptable)."""
    media_type = negotiate(accept, tuple(_EXTENSIONS))
    if media_type is None:
        raise Problem("not-acceptable", f"Send one of these in Accept: {', '.join(_EXTENSIONS)}.")
    return media_type


@_reads.get(
    "/flags",
    response_model=schemas.FlagPage,
    responses={200: {"links": _FLAG_LINKS}, **documented_problems(400, 401, 403, 422, 500, 503)},
)
async def list_flags(
    request: Request,
    caller: _Caller,
    account_id: _Account = None,
    limit: paging.Limit = paging.DEFAULT_LIMIT,
    cursor: paging.Cursor = None,
) -> Response:
    """List the findings of the fraud rules, newest first. For operators."""
    return paging.page(await _service(request).flags(caller, account_id, _after(cursor), limit + 1), limit)


@_reads.get(
    "/reconciliation",
    response_model=schemas.ReconciliationView,
    responses=documented_problems(400, 401, 403, 422, 500, 503),
)
async def reconciliation(request: Request, caller: _Caller) -> Response:
    """Compare the history of every account with account-service's balance. For operators."""
    return json_response(await _service(request).reconciliation(caller))


ROUTES: list[BaseRoute] = [*_reads.routes]
