"""Internal endpoints for transaction-service, authenticated by the service token; NGINX does not route them."""

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from app import schemas
from app.application.queries import Queries
from shared.http import paging
from shared.http.auth import check_service_token
from shared.http.request_checks import QueryRoute

_MAX_BALANCES = 1000
_MAX_SEQS = 100


def _authorized_queries(request: Request) -> Queries:
    """Return the queries. Raises Problem (unauthorized) unless the request has the service token."""
    state = request.app.state
    check_service_token(request.headers.get("authorization"), state.settings.service_token.get_secret_value())
    queries: Queries = state.queries
    return queries


async def _balances(request: Request) -> Response:
    """Return a page of the balances of all accounts."""
    queries = _authorized_queries(request)
    after = request.query_params.get("after") or None
    items = await queries.balances(paging.decode_cursor(after) if after else None, _MAX_BALANCES + 1)
    return paging.page(items, _MAX_BALANCES)


async def _seqs(request: Request) -> Response:
    """Return the last `seq` of the account `account_id`, or of up to 100 accounts of `owner`."""
    queries = _authorized_queries(request)
    query = schemas.SeqQuery.model_validate(dict(request.query_params))
    seqs = await queries.seqs(query.account_id, query.owner, _MAX_SEQS + 1)
    return Response(
        orjson.dumps({"items": seqs[:_MAX_SEQS], "more": len(seqs) > _MAX_SEQS}), media_type="application/json"
    )


ROUTES: list[BaseRoute] = [
    QueryRoute("/internal/balances", _balances, "after"),
    QueryRoute("/internal/seqs", _seqs, "account_id", "owner"),
]
