"""Refusals as they are kept under their keys: what was decided, without what follows from it.

A thousand refused transfers in one batch are cheap to ask for, so they have to be cheap to keep. A replica of the
version before answers a kept refusal as it is: a problem with no more than `code`, `detail` and `request_id`.
"""

from collections.abc import Sequence
from typing import Any

import orjson

from app.work import Answer, Trace, Work
from shared.http import problems
from shared.http.problems import Problem

_Result = tuple[Work, Answer]
# How no answer begins.
_COMPACT_BATCH = b'{"request_id":'


def compact(body: bytes, known_id: str | None) -> bytes:
    """Return a problem as it is kept; its request id is left out where the batch that it came in has it."""
    problem = orjson.loads(body)
    names = ("code", "detail") if problem["request_id"] == known_id else ("code", "detail", "request_id")
    return orjson.dumps({name: problem[name] for name in names})


def batch_body(results: Sequence[_Result]) -> bytes:
    """Return the body that answers a batch."""
    return b'{"results":[' + b",".join(_result(item, answer, answer.body) for item, answer in results) + b"]}"


def compact_batch(results: Sequence[_Result], request_id: str) -> bytes:
    """Return the answer to a batch as it is kept: its refusals without what they have in common."""
    if all(_is_done(item, answer) for item, answer in results):
        return batch_body(results)
    kept = b",".join(
        _result(item, answer, answer.body if _is_done(item, answer) else compact(answer.body, request_id))
        for item, answer in results
    )
    return _COMPACT_BATCH + orjson.dumps(request_id) + b',"results":[' + kept + b"]}"


def restore(status: int, body: bytes, trace: Trace) -> bytes:
    """Return the body of the first answer from what was kept of it; `trace` is that of the repeated request."""
    if status >= 400:
        return orjson.dumps(_restored(orjson.loads(body), trace.path, trace.request_id or ""))
    if not body.startswith(_COMPACT_BATCH):
        return body
    kept = orjson.loads(body)
    for result in kept["results"]:
        if "problem" in result:
            result["problem"] = _restored(result["problem"], trace.path, kept["request_id"])
    return orjson.dumps({"results": kept["results"]})


def _restored(kept: dict[str, Any], path: str, request_id: str) -> dict[str, Any]:
    # The version before kept whole problems.
    if "type" in kept:
        return kept
    return problems.document(Problem(kept["code"], kept["detail"]), path, kept.get("request_id", request_id))


def _is_done(item: Work, answer: Answer) -> bool:
    return answer.status == item.status


def _result(item: Work, answer: Answer, body: bytes) -> bytes:
    _, key = item.key or ("", "")
    head = orjson.dumps({"key": key, "status": answer.status, "replayed": answer.replayed})
    kind = b"transaction" if _is_done(item, answer) else b"problem"
    return head[:-1] + b',"' + kind + b'":' + body + b"}"
