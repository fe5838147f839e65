"""The HTTP API of holds."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from app import schemas
from app.domain.commands import CaptureHold, ExtendHold, PlaceHold, ReleaseHold
from app.http.routes import HOLD_LINKS, ID, document, execute, id_of, metadata_of, queries_of
from app.settings import AccountSettings
from shared.http import paging
from shared.http.auth import Caller
from shared.http.bodies import EmptyBody
from shared.http.responses import json_response
from shared.http.web import LeanRoute, current_caller, documented_problems, link
from shared.ids import new_id, utc_now

_writes = APIRouter(prefix="/api/v1", route_class=LeanRoute)
_reads = APIRouter(prefix="/api/v1")


@_writes.post(**document("/accounts/{id:uuid}/holds", schemas.HoldBody, schemas.HoldView, 201))
async def place_hold(request: Request) -> Response:
    """Reserve money until the hold is captured, voided, or expires after `expires_in` seconds (default: 7 days)."""
    settings: AccountSettings = request.app.state.settings

    def command(body: schemas.HoldBody, _caller: Caller) -> PlaceHold:
        life = timedelta(seconds=body.expires_in or settings.hold_default_seconds)
        return PlaceHold(new_id(), id_of(request), body.amount, body.currency, utc_now() + life)

    return await execute(request, schemas.HoldBody, command)


@_writes.post(**document("/holds/{id:uuid}/captures", schemas.CaptureBody, schemas.HoldView, 201, body_required=False))
async def capture_hold(request: Request) -> Response:
    """Capture a hold in full or in part; the rest is released unless `final` is false.

    A hold placed by an operator requires an operator; operators can also capture a hold on a frozen account.
    """

    def command(body: schemas.CaptureBody, _caller: Caller) -> CaptureHold:
        return CaptureHold(new_id(), id_of(request), body.amount, body.final is not False, metadata_of(body))

    return await execute(request, schemas.CaptureBody, command)


@_writes.post(**document("/holds/{id:uuid}/extensions", schemas.ExtensionBody, schemas.HoldView, 201))
async def extend_hold(request: Request) -> Response:
    """Let a hold expire later, at most a year after it was placed. An operator's hold requires an operator."""

    def command(body: schemas.ExtensionBody, _caller: Caller) -> ExtendHold:
        return ExtendHold(id_of(request), utc_now() + timedelta(seconds=body.expires_in))

    return await execute(request, schemas.ExtensionBody, command)


@_writes.post(**document("/holds/{id:uuid}/voids", EmptyBody, schemas.HoldView, 201, body_required=False))
async def void_hold(request: Request) -> Response:
    """Void a hold without paying it out. A hold placed by an operator requires an operator."""

    def command(_body: EmptyBody, _caller: Caller) -> ReleaseHold:
        return ReleaseHold(id_of(request), "voided")

    return await execute(request, EmptyBody, command)


@_reads.get(
    "/accounts/{id:uuid}/holds",
    response_model=schemas.HoldPage,
    responses={
        200: {"links": {"newest": link("get", "/api/v1/holds/{id}", source="/items/0/id")}},
        **documented_problems(400, 401, 404, 422, 500, 503),
    },
    openapi_extra={"parameters": [ID]},
)
async def list_holds(
    request: Request,
    caller: Annotated[Caller, Depends(current_caller)],
    status: Annotated[schemas.HoldStatus | None, Query(description="Only holds with this status.")] = None,
    limit: paging.Limit = paging.DEFAULT_LIMIT,
    cursor: paging.Cursor = None,
) -> Response:
    """List the holds of an account, newest first."""
    before = paging.decode_cursor(cursor) if cursor else None
    return paging.page(await queries_of(request).holds(caller, id_of(request), status, before, limit + 1), limit)


@_reads.get(
    "/holds/{id:uuid}",
    response_model=schemas.HoldDetailView,
    responses={200: {"links": HOLD_LINKS}, **documented_problems(400, 401, 404, 422, 500, 503)},
    openapi_extra={"parameters": [ID]},
)
async def get_hold(request: Request, caller: Annotated[Caller, Depends(current_caller)]) -> Response:
    """Get a hold, with its newest changes and who made them."""
    hold = await queries_of(request).hold(caller, id_of(request))
    return json_response(hold)


ROUTES: list[BaseRoute] = [*_writes.routes, *_reads.routes]
