"""The HTTP API of webhooks."""

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from app import schemas
from app.webhooks import Change, Subscription, WebhookService
from shared.http import bodies, idempotency, paging
from shared.http.auth import Caller
from shared.http.responses import json_response
from shared.http.web import LeanRoute, current_caller, documented_problems, lean_documentation, link

_WEBHOOK = "/api/v1/webhooks/{id}"
_ID = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
_LINKS = {
    "get": link("get", _WEBHOOK),
    "change": link("patch", _WEBHOOK),
    "deliveries": link("get", f"{_WEBHOOK}/deliveries"),
    "delete": link("delete", _WEBHOOK),
}
_PAGE_LINKS = {
    "first": link("get", _WEBHOOK, source="/items/0/id"),
    "following": link("get", "/api/v1/webhooks", cursor="/next_cursor"),
}
_READ_PROBLEMS = (400, 401, 404, 409, 422, 500, 503)
_WRITE_PROBLEMS = (400, 401, 404, 409, 413, 415, 422, 500, 503)

_Caller = Annotated[Caller, Depends(current_caller)]

# FastAPI documents lean routes, but does not parse their requests (docs/adr/0002-lean-routes.md).
_writes = APIRouter(prefix="/api/v1/webhooks", route_class=LeanRoute)
_reads = APIRouter(prefix="/api/v1/webhooks")


def _service(request: Request) -> WebhookService:
    service: WebhookService = request.app.state.webhooks
    return service


def _id(request: Request) -> str:
    return str(request.path_params["id"])


@_writes.post(
    "",
    status_code=201,
    responses={201: {"model": schemas.WebhookView, "links": _LINKS}, **documented_problems(*_WRITE_PROBLEMS)},
    openapi_extra=lean_documentation(schemas.WebhookBody, parameters=[idempotency.KEY_PARAMETER]),
)
async def create_webhook(request: Request) -> Response:
    """Create a webhook for events from now on: of the caller's accounts, or of any for operators."""
    caller = await current_caller(request)
    key = idempotency.parse_key(request.headers.get("idempotency-key"))
    body = await bodies.read(request, schemas.WebhookBody)
    types = None if body.types is None else tuple(body.types)
    return json_response(
        await _service(request).create(caller, key, Subscription(body.url, body.account_id, types)), 201
    )


@_reads.get(
    "",
    response_model=schemas.WebhookPage,
    responses={200: {"links": _PAGE_LINKS}, **documented_problems(*_READ_PROBLEMS)},
)
async def list_webhooks(
    request: Request, caller: _Caller, limit: paging.Limit = paging.DEFAULT_LIMIT, cursor: paging.Cursor = None
) -> Response:
    """List the caller's webhooks; operators see all."""
    after = paging.decode_cursor(cursor) if cursor else None
    return paging.page(await _service(request).list_all(caller, after, limit + 1), limit)


@_reads.get(
    "/{id:uuid}",
    response_model=schemas.WebhookView,
    responses={200: {"links": _LINKS}, **documented_problems(*_READ_PROBLEMS)},
    openapi_extra={"parameters": [_ID]},
)
async def get_webhook(request: Request, caller: _Caller) -> Response:
    """Show a webhook."""
    return json_response(await _service(request).get(caller, _id(request)))


@_writes.patch(
    "/{id:uuid}",
    responses={200: {"model": schemas.WebhookView, "links": _LINKS}, **documented_problems(*_WRITE_PROBLEMS)},
    openapi_extra=lean_documentation(schemas.WebhookChangeBody, parameters=[_ID]),
)
async def change_webhook(request: Request) -> Response:
    """Change a webhook: its receiver or types, disable or enable it, replay events, rotate its secret."""
    caller = await current_caller(request)
    body = await bodies.read(request, schemas.WebhookChangeBody)
    types = None if body.types is None else tuple(body.types)
    change = Change(body.url, types, body.enabled, body.position, body.secret_version)
    return json_response(await _service(request).change(caller, _id(request), change))


@_writes.delete(
    "/{id:uuid}",
    status_code=204,
    responses=documented_problems(*_WRITE_PROBLEMS),
    openapi_extra=lean_documentation(None, parameters=[_ID]),
)
async def delete_webhook(request: Request) -> Response:
    """Delete a webhook with its delivery log."""
    await _service(request).delete(await current_caller(request), _id(request))
    return Response(status_code=204)


@_reads.get(
    "/{id:uuid}/deliveries",
    response_model=schemas.WebhookDeliveryPage,
    responses=documented_problems(*_READ_PROBLEMS),
    openapi_extra={"parameters": [_ID]},
)
async def list_deliveries(
    request: Request, caller: _Caller, limit: paging.Limit = paging.DEFAULT_LIMIT, cursor: paging.Cursor = None
) -> Response:
    """List the delivery attempts of a webhook, newest first."""
    before = paging.decode_cursor(cursor) if cursor else None
    return paging.page(await _service(request).deliveries(caller, _id(request), before, limit + 1), limit)


ROUTES: list[BaseRoute] = [*_writes.routes, *_reads.routes]
