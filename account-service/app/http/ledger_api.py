"""The HTTP API of the transparency log: signed roots of the ledger, and proofs."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from app.application.proofs import Proofs
from app.http import ledger_schemas
from app.http.routes import ID, id_of
from shared.http import paging
from shared.http.auth import Caller
from shared.http.responses import json_response
from shared.http.web import current_caller, documented_problems, link

_MAX_SIZE = 2**63 - 1
_Size = Annotated[int, Query(ge=1, le=_MAX_SIZE, description="Size of a root.")]

_reads = APIRouter(prefix="/api/v1")


def _proofs_of(request: Request) -> Proofs:
    proofs: Proofs = request.app.state.proofs
    return proofs


@_reads.get(
    "/ledger/roots",
    response_model=ledger_schemas.RootPage,
    responses={
        200: {"links": {"older": link("get", "/api/v1/ledger/roots", cursor="/next_cursor")}},
        **documented_problems(400, 401, 422, 500, 503),
    },
)
async def list_roots(
    request: Request,
    _caller: Annotated[Caller, Depends(current_caller)],
    limit: paging.Limit = paging.DEFAULT_LIMIT,
    cursor: paging.Cursor = None,
) -> Response:
    """List the signed roots of the ledger, newest first, with all public keys."""
    before = paging.decode_cursor(cursor) if cursor else None
    roots, keys = await _proofs_of(request).roots(before, limit + 1)
    return paging.page(roots, limit, public_keys=keys)


@_reads.get(
    "/ledger/consistency",
    response_model=ledger_schemas.ConsistencyView,
    responses=documented_problems(400, 401, 422, 500, 503),
)
async def get_consistency(
    request: Request, _caller: Annotated[Caller, Depends(current_caller)], first: _Size, second: _Size
) -> Response:
    """Prove that the root of size `second` extends the one of size `first`: nothing before was altered."""
    return json_response(await _proofs_of(request).consistency(first, second))


@_reads.get(
    "/transactions/{id:uuid}/proof",
    response_model=ledger_schemas.ProofView,
    responses=documented_problems(400, 401, 404, 409, 422, 500, 503),
    openapi_extra={"parameters": [ID]},
)
async def get_proof(request: Request, caller: Annotated[Caller, Depends(current_caller)]) -> Response:
    """Prove that a signed root contains a transaction of the caller's; until there is one, the response is 409."""
    return json_response(await _proofs_of(request).inclusion(caller, id_of(request)))


ROUTES = _reads.routes
