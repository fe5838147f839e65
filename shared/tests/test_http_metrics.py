"""Metrics of requests: problem codes, CPU time, and outcomes by bucket of clients."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace

import httpx
import jwt
import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from shared.http import problems, time_limit, web
from shared.http.clients import BUCKETS, bucket_of, bucket_of_request
from shared.http.problems import Problem
from shared.http.web import LeanRoute, create_app
from shared.prometheus.process import measure_loop_lag
from shared.prometheus.registry import REGISTRY
from shared.runtime.settings import ProcessSettings
from shared.testing.fixtures import Lab
from shared.testing.timing import StoppedClock


def value(name: str, **labels: str) -> float:
    """Return the value of a series, 0 if it does not exist."""
    return REGISTRY.get_sample_value(name, labels) or 0


def token(**claims: object) -> str:
    """Return an Authorization header whose signature nobody accepts."""
    return "Bearer " + jwt.encode(claims, "k" * 32, algorithm="HS256")


async def _refuse(_request: Request) -> Response:
    raise Problem("insufficient-funds", 'with "code":"not-found" in its detail')


async def _odd(_request: Request) -> Response:
    return Response(b'{"code":"of-the-client"}', 409)


# Shows the CPU time of the process.
CPU = StoppedClock()


async def _busy(_request: Request) -> Response:
    CPU.now += 0.5
    # Let the other requests begin.
    await asyncio.sleep(0.01)
    return Response(b"")


async def _stuck(_request: Request) -> Response:
    await asyncio.Event().wait()
    return Response(b"")


@pytest.fixture
async def client(lab: Lab) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application with a few routes."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield

    settings = ProcessSettings(service="any", auth_jwks=str(lab.secrets.jwks))
    endpoints = {"/api/refuse": _refuse, "/api/odd": _odd, "/api/busy": _busy, "/api/stuck": _stuck}
    routes = [LeanRoute(path, endpoint, methods=["GET"]) for path, endpoint in endpoints.items()]
    service = create_app(settings, "", routes=routes, internal_routes=[], checks=dict, lifespan=lifespan)
    transport = httpx.ASGITransport(service)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://bank") as client:
        yield client


@pytest.mark.parametrize(
    ("path", "handler", "status", "code"),
    [
        ("/api/refuse", "/api/refuse", "409", "insufficient-funds"),
        ("/api/odd", "/api/odd", "409", ""),
        ("/api/none", "unmatched", "404", "not-found"),
        ("/api/busy", "/api/busy", "200", ""),
    ],
)
async def test_requests_are_counted_by_problem_code(
    client: httpx.AsyncClient, path: str, handler: str, status: str, code: str
) -> None:
    labels = {"handler": handler, "method": "GET", "status": status, "code": code}
    before = value("http_requests_total", **labels)
    await client.get(path)
    assert value("http_requests_total", **labels) == before + 1


async def test_a_request_that_takes_too_long_is_counted(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time_limit, "RESPONSE_SECONDS", 0.01)
    labels = {"handler": "/api/stuck", "method": "GET", "status": "503", "code": "unavailable"}
    before = value("http_requests_total", **labels)
    response = await client.get("/api/stuck")
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert value("http_requests_total", **labels) == before + 1


@pytest.mark.parametrize("body", [b"", b"no JSON", b"[]", b"null", b'{"code":1}', b'{"code":["a"]}', b'{"code":"x"}'])
def test_only_known_problem_codes_become_labels(body: bytes) -> None:
    assert problems.code_of(body) == ""


async def test_cpu_time_counts_only_requests_that_run_alone(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "time", SimpleNamespace(thread_time=CPU.time, perf_counter=time.perf_counter))
    labels = {"handler": "/api/busy", "method": "GET"}

    def measured() -> tuple[float, float]:
        name = "http_request_cpu_seconds"
        return value(f"{name}_count", **labels), value(f"{name}_sum", **labels)

    count, seconds = measured()
    await client.get("/api/busy")
    assert measured() == (count + 1, seconds + 0.5)
    await asyncio.gather(client.get("/api/busy"), client.get("/api/busy"))
    assert measured() == (count + 1, seconds + 0.5)


# Clients --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path, outcome", [("/api/refuse", "409"), ("/api/busy", "2xx"), ("/api/none", "404")])
async def test_outcomes_are_counted_by_bucket(client: httpx.AsyncClient, path: str, outcome: str) -> None:
    labels = {"bucket": bucket_of(b"alice"), "outcome": outcome}
    before = value("bank_client_outcomes_total", **labels)
    await client.get(path, headers={"Authorization": token(sub="alice")})
    assert value("bank_client_outcomes_total", **labels) == before + 1
    # A retry of what a canary has answered is the same client's request.
    await client.get(path, headers={"Authorization": token(sub="alice"), "X-Canary-Status": "404"})
    # The request names no client.
    await client.get(path)
    assert value("bank_client_outcomes_total", **labels) == before + 1


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        ({b"authorization": token(sub="alice").encode()}, b"alice"),
        ({b"authorization": token(sub="alice", pad="x" * 5000).encode()}, b"alice"),
        ({b"authorization": token(sub="alice").encode(), b"x-client-id": b"shop"}, b"shop"),
        ({}, None),
        ({b"authorization": b""}, None),
        ({b"authorization": b"Bearer a.b.c"}, None),
        ({b"authorization": b"Bearer a.\xff\xff.c"}, None),
        ({b"authorization": token(sub=7).encode()}, None),
        ({b"authorization": token().encode()}, None),
        ({b"authorization": b"Bearer a.W10.c"}, None),
        ({b"authorization": token(sub="").encode()}, None),
    ],
)
def test_the_bucket_is_that_of_the_client(headers: Mapping[bytes, bytes], client: bytes | None) -> None:
    assert bucket_of_request(headers) == (None if client is None else bucket_of(client))


def test_a_lone_surrogate_in_a_subject_is_no_error() -> None:
    assert bucket_of_request({b"authorization": b"Bearer a.eyJzdWIiOiJcdWQ4MDAifQ.c"}) in (None, bucket_of(b"?"))


def test_clients_spread_over_all_buckets() -> None:
    assert {bucket_of(f"client-{n}".encode()) for n in range(20 * BUCKETS)} == {str(n) for n in range(BUCKETS)}


# Event loop -----------------------------------------------------------------------------------------------------------


async def test_a_blocked_event_loop_is_measured() -> None:
    count, before = value("event_loop_lag_seconds_count"), value("event_loop_lag_seconds_sum")
    task = asyncio.create_task(measure_loop_lag())
    await asyncio.sleep(0)
    # Its timer is due after 0.25 s.
    time.sleep(0.4)
    while value("event_loop_lag_seconds_count") == count:
        await asyncio.sleep(0.01)
    task.cancel()
    assert value("event_loop_lag_seconds_sum") - before >= 0.1
    assert value("process_threads") >= 1
