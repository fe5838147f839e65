"""The HTTP API of transaction groups."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from app import schemas
from app.domain.commands import PostGroup, ReverseGroup, Transfer
from app.domain.model import MAX_LEGS
from app.http.routes import document, execute, id_of, metadata_of
from shared.http.auth import Caller
from shared.http.web import LeanRoute
from shared.ids import new_id

_writes = APIRouter(prefix="/api/v1", route_class=LeanRoute)


@_writes.post(**document("/transaction-groups", schemas.GroupBody, schemas.GroupView, 201))
async def post_group(request: Request) -> Response:
    """Post up to 100 transfers in order, all of them or none; the caller must own all paying accounts.

    The legs of a group may use at most two currencies.
    """

    def command(body: schemas.GroupBody, _caller: Caller) -> PostGroup:
        group_id = new_id()
        return PostGroup(group_id, tuple(_leg(body_of_leg, group_id) for body_of_leg in body.legs))

    return await execute(request, schemas.GroupBody, command)


def _leg(body: schemas.TransferBody, group_id: str) -> Transfer:
    return Transfer(
        new_id(),
        body.from_account,
        body.to_account,
        body.amount,
        body.currency,
        body.reference,
        metadata_of(body),
        group_id,
    )


@_writes.post(
    **document(
        "/transaction-groups/{id:uuid}/reversals",
        schemas.GroupReversalBody,
        schemas.GroupView,
        201,
        body_required=False,
    )
)
async def reverse_group(request: Request) -> Response:
    """Reverse what is left of all legs, the last one first, or none; the reversals are a group of their own.

    Only the recipient of all legs or an operator can do so.
    """

    def command(body: schemas.GroupReversalBody, _caller: Caller) -> ReverseGroup:
        ids = tuple(new_id() for _ in range(MAX_LEGS))
        return ReverseGroup(new_id(), ids, id_of(request), body.reason, metadata_of(body))

    return await execute(request, schemas.GroupReversalBody, command)


ROUTES: list[BaseRoute] = [*_writes.routes]
