"""Responses as they are stored under their idempotency keys; refusals are stored without derivable fields.

A client can send a batch of a thousand refused transfers at little cost, so storing it has to be cheap too. Older
versions stored whole problems, which are replayed as they are. Such a version, still running during a rollout, replays
a compact refusal as it is, too: a problem with only `code`, `detail` and `request_id`.
"""

from typing import Any

import orjson

from app.application.requests import LedgerResponse, RequestContext
from app.application.responses import ItemResponses, transfer_batch_body, item_body, problem_response, succeeded
from shared.http import idempotency, problems
from shared.http.idempotency import StoredResponse
from shared.http.problems import Problem

# Tells a compact transfer batch from a full response body, which never begins like this.
_COMPACT_TRANSFER_BATCH = b'{"request_id":'


def replay(stored: StoredResponse, request_hash: bytes, context: RequestContext) -> LedgerResponse:
    """Return the stored response to a repeated request, or a refusal for another request with its key."""
    if stored.request_hash == request_hash:
        return LedgerResponse(stored.status, restore(stored.status, stored.body, context), replayed=True)
    return problem_response(idempotency.reused(stored.key), context)


def compact_problem(body: bytes, transfer_batch_request_id: str | None) -> bytes:
    """Return the part of a problem that is stored; without its request id if that of its transfer batch is the same."""
    problem = orjson.loads(body)
    names = [name for name in ("code", "detail", "leg") if name in problem]
    if problem["request_id"] != transfer_batch_request_id:
        names.append("request_id")
    return orjson.dumps({name: problem[name] for name in names})


def compact_transfer_batch(responses: ItemResponses, request_id: str) -> bytes:
    """Return the response to a transfer batch as it is stored, with compact refusals."""
    if all(succeeded(item, response) for item, response in responses):
        return transfer_batch_body(responses)
    items = b",".join(
        item_body(
            item,
            response,
            response.body if succeeded(item, response) else compact_problem(response.body, request_id),
        )
        for item, response in responses
    )
    return _COMPACT_TRANSFER_BATCH + orjson.dumps(request_id) + b',"results":[' + items + b"]}"


def restore(status: int, body: bytes, context: RequestContext) -> bytes:
    """Return the body of the first response from a stored one; `context` is that of the repeated request."""
    if status >= 400:
        return orjson.dumps(_restore_problem(orjson.loads(body), context.path, context.request_id or ""))
    if not body.startswith(_COMPACT_TRANSFER_BATCH):
        return body
    batch = orjson.loads(body)
    for result in batch["results"]:
        if "problem" in result:
            result["problem"] = _restore_problem(result["problem"], context.path, batch["request_id"])
    return orjson.dumps({"results": batch["results"]})


def _restore_problem(stored: dict[str, Any], path: str, request_id: str) -> dict[str, Any]:
    # Stored as a whole, by an older version.
    if "type" in stored:
        return stored
    members = {"leg": stored["leg"]} if "leg" in stored else {}
    problem = Problem(stored["code"], stored["detail"], members=members)
    return problems.document(problem, path, stored.get("request_id", request_id))
