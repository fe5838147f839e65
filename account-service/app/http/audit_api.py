"""The HTTP API of the audit log: who changed what, for operators."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from app import schemas
from app.application.queries import Queries
from app.domain.audit import Action, AuditFilter
from shared.http import paging
from shared.http.auth import Caller
from shared.ids import Identifier
from shared.timestamps import From, To
from shared.http.web import current_caller, documented_problems, link

_LINKS = {
    "account": link("get", "/api/v1/accounts/{id}", source="/items/0/account_id"),
    "older": link("get", "/api/v1/audit", cursor="/next_cursor"),
}

_reads = APIRouter(prefix="/api/v1")


@_reads.get(
    "/audit",
    response_model=schemas.AuditPage,
    responses={200: {"links": _LINKS}, **documented_problems(400, 401, 403, 422, 500, 503)},
)
async def list_audit(
    request: Request,
    caller: Annotated[Caller, Depends(current_caller)],
    account_id: Annotated[Identifier | None, Query(description="Only changes to this account.")] = None,
    subject: Annotated[
        str | None,
        Query(max_length=200, pattern=schemas.PRINTABLE, description="Only changes made by this subject."),
    ] = None,
    action: Annotated[Action | None, Query(description="Only changes with this action.")] = None,
    start: From = None,
    end: To = None,
    limit: paging.Limit = paging.DEFAULT_LIMIT,
    cursor: paging.Cursor = None,
) -> Response:
    """List changes and who made them, newest first. Operators only."""
    queries: Queries = request.app.state.queries
    criteria = AuditFilter(account_id, subject, action, start, end)
    before = paging.decode_cursor(cursor) if cursor else None
    return paging.page(await queries.audit_entries(caller, criteria, before, limit + 1), limit)


ROUTES = _reads.routes
