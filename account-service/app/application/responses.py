"""Response bodies: the results of commands as clients see them, and problems."""

from collections.abc import Sequence
from typing import Any

import orjson

from app.application.requests import LedgerRequest, LedgerResponse, RequestContext
from app.domain.commands import AccountResult, GroupResult, HoldResult, Refusal, Result, TransactionResult
from app.domain.model import account_data, hold_data
from app.domain.unit_of_work import UnitOfWork
from shared.http import problems
from shared.http.auth import Caller
from shared.http.problems import Problem
from shared.http.views import transaction_view

ItemResponses = Sequence[tuple[LedgerRequest, LedgerResponse]]


def result_response(result: Result, request: LedgerRequest, unit: UnitOfWork) -> LedgerResponse:
    """Return the response to a command that has been decided."""
    if isinstance(result, Refusal):
        members: dict[str, Any] = {"holds": list(result.holds)} if result.holds else {}
        if result.leg is not None:
            members["leg"] = result.leg
        return problem_response(Problem(result.code, result.detail, members=members), request.context)
    return LedgerResponse(request.success_status, orjson.dumps(_view(result, unit, request.caller)))


def problem_response(problem: Problem, context: RequestContext) -> LedgerResponse:
    """Return a problem as the response to a request."""
    return LedgerResponse(problem.status, problem_body(problem, context.path, context.request_id or ""))


def problem_body(problem: Problem, path: str, request_id: str) -> bytes:
    """Return the body of a problem."""
    return orjson.dumps(problems.document(problem, path, request_id))


def transfer_batch_body(responses: ItemResponses) -> bytes:
    """Return the body of the response to a transfer batch."""
    items = b",".join(item_body(item, response, response.body) for item, response in responses)
    return b'{"results":[' + items + b"]}"


def item_body(item: LedgerRequest, response: LedgerResponse, body: bytes) -> bytes:
    """Return the result of one transfer of a transfer batch."""
    _, key = item.key or ("", "")
    head = orjson.dumps({"key": key, "status": response.status, "replayed": response.replayed})
    name = b"transaction" if succeeded(item, response) else b"problem"
    return head[:-1] + b',"' + name + b'":' + body + b"}"


def succeeded(request: LedgerRequest, response: LedgerResponse) -> bool:
    """Return whether the command was executed rather than refused."""
    return response.status == request.success_status


def _view(
    result: TransactionResult | GroupResult | AccountResult | HoldResult, unit: UnitOfWork, caller: Caller
) -> dict[str, Any]:
    if isinstance(result, TransactionResult):
        return _transaction_view(result, unit, caller)
    if isinstance(result, GroupResult):
        return {"id": result.id, "legs": [_transaction_view(leg, unit, caller) for leg in result.legs]}
    if isinstance(result, AccountResult):
        return account_data(result.account)
    view = hold_data(result.hold)
    if result.capture is not None:
        view["transaction"] = _transaction_view(result.capture, unit, caller)
    return view


def _transaction_view(result: TransactionResult, unit: UnitOfWork, caller: Caller) -> dict[str, Any]:
    visible = [(entry, caller.may_see(unit.accounts[entry.account_id].owner)) for entry in result.entries]
    return transaction_view(result.transaction, "posted", visible)
