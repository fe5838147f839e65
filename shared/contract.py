"""What the contract tests of all services have in common: a served application, and what every answer has to be."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jsonschema
import uvicorn
from schemathesis import Case, CheckContext, Response

from shared.problems import KINDS, MEDIA_TYPE, ProblemDocument


@contextmanager
def serving(create: Callable[[], Any]) -> Iterator[str]:
    """Serve an application from a thread, with an event loop of its own, and yield its address."""
    server = uvicorn.Server(uvicorn.Config(create(), port=0, log_config=None, access_log=False, lifespan="on"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the application did not start"
            time.sleep(0.01)
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join()


def answers_as_promised(_context: CheckContext, response: Response, _case: Case) -> None:
    """Check what the contract says of every answer: who gave it, and that an error is a problem (RFC 9457)."""
    headers = {name.lower(): values[0] for name, values in response.headers.items()}
    assert {"x-request-id", "x-app-version", "x-app-track"} <= headers.keys(), headers
    if response.status_code < 400:
        return
    assert headers["content-type"] == MEDIA_TYPE, headers
    problem = response.json()
    jsonschema.validate(problem, ProblemDocument.model_json_schema())
    kind = KINDS[problem["code"]]
    assert (problem["status"], problem["title"], problem["type"]) == (
        *(response.status_code, kind.title, f"/problems/{problem['code']}"),
    )
    assert kind.status == response.status_code < 500, problem
    assert problem["request_id"] == headers["x-request-id"]


def documented(document: dict[str, Any]) -> set[str]:
    """Return the operations of an OpenAPI document, as `GET /path/{}`."""
    return {
        f"{method.upper()} {'/'.join('{}' if part.startswith('{') else part for part in path.split('/'))}"
        for path, operations in document["paths"].items()
        for method in operations
    }
