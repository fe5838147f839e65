"""Measure the most expensive requests: how long each blocks account-service, and how much memory it allocates.

    make drills DRILL=request_cost [ARGS="--rounds 5"]

One account-service on SQLite. During a request another client polls /health/live; its maximum latency is the time for
which the event loop was blocked. Memory is the growth of the process' peak (VmHWM). The result of a case is the minimum
of its rounds, because other processes share the machine. The drill also measures webhooks of autoscale-service, in a
separate process, and the parsing of a valid transfer compared with pydantic alone. Exits 1 when a threshold is missed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
import timeit
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
from harness.commands import check
from pydantic import Field

from shared.testing.paths import ROOT
from shared.testing import lab_keys
from shared.http import bodies
from shared.ids import Identifier, new_id
from shared.testing.fixtures import Lab, serving
from shared.tests.test_bodies import HOSTILE

MAX_BLOCK_MS, MAX_MEMORY_MB, MAX_RESPONSE_BYTES, MAX_PARSE_RATIO = 50, 20, 8192, 1.03
TRANSFERS, BATCH = "/api/v1/transfers", "/api/v1/transfers:batch"
_WEBHOOK = """
import resource, sys, time
from app import webhook
content = sys.stdin.buffer.read()
before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
try:
    webhook.read(content, {"account-service"})
except Exception:
    pass
blocked = time.perf_counter() - began
print(blocked * 1000, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


class Transfer(bodies.StrictBody):
    """The body of a transfer as in account-service, except for the list of currencies."""

    from_account: Identifier
    to_account: Identifier
    amount: int = Field(ge=1, le=10**15)
    currency: str
    reference: str | None = None


def hostile_bodies() -> Iterator[tuple[str, str, bytes]]:
    """Yield name, path and body of the requests that are most expensive to reject."""
    for name, content in HOSTILE.items():
        content = content.replace(b'"items"', b'"transfers"')
        yield f"{name}, batch", BATCH, content
        yield f"{name}, transfer", TRANSFERS, content
    wrong = {"key": 1, "from_account": 2, "to_account": 3, "amount": "4", "currency": 5, "reference": 6}
    yield "every field wrong", BATCH, json.dumps({"transfers": [wrong] * 1000}).encode()
    yield "unknown fields within the limit", BATCH, json.dumps(
        {"transfers": [{f"{n:0100}": 1 for n in range(8)}] * 1000}
    ).encode()[: 1024 * 1024]
    first, rest = {f"{n:0100}": 1 for n in range(7000)}, [{}] * 999
    yield "unknown fields in the first transfer", BATCH, json.dumps({"transfers": [first, *rest]}).encode()
    yield "unknown fields beside transfers", BATCH, json.dumps({**first, "transfers": [{}]}).encode()
    yield "long unknown fields", TRANSFERS, json.dumps({f"{n:05}" * 1000: 1 for n in range(200)}).encode()


def valid_batch(source: str, target: str) -> bytes:
    """Return a valid batch of 1000 transfers of nearly 1 MB."""
    item = {"from_account": source, "to_account": target, "amount": 1, "currency": "USD", "reference": "é, " * 46}
    items = [{"key": f"{uuid.uuid4().hex}-{n:0200}", **item} for n in range(1000)]
    return json.dumps({"transfers": items}).encode()


class Probe:
    """Polls the liveness of a service without pauses, and records the maximum latency."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url)
        self._stop = threading.Event()
        self.slowest = 0.0
        self._thread = threading.Thread(target=self._send)

    def _send(self) -> None:
        while not self._stop.is_set():
            started = time.perf_counter()
            self._client.get("/health/live")
            self.slowest = max(self.slowest, time.perf_counter() - started)

    def __enter__(self) -> "Probe":
        self._client.get("/health/live")
        self._thread.start()
        time.sleep(0.02)
        return self

    def __exit__(self, *_error: object) -> None:
        time.sleep(0.02)
        self._stop.set()
        self._thread.join()
        self._client.close()


def memory_mb(process: int, field: str) -> float:
    """Return VmHWM or VmRSS of a process."""
    for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise LookupError(field)


def service_pid() -> int:
    """Return the id of the child of this process that runs `app`."""
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text(encoding="ascii").split()
    (process,) = [int(one) for one in children if b"app" in Path(f"/proc/{one}/cmdline").read_bytes().split(b"\0")]
    return process


def cost(url: str, process: int, send: Callable[[], httpx.Response], rounds: int) -> tuple[float, float, int]:
    """Return the blocking time of a request (ms), its memory (MB), and the size of an error response (bytes)."""
    blocks, memory, size = [], [], 0
    for _ in range(rounds):
        Path(f"/proc/{process}/clear_refs").write_text("5", encoding="ascii")
        before = memory_mb(process, "VmRSS")
        with Probe(url) as probe:
            response = send()
        size = max(size, len(response.content) if response.status_code >= 400 else 0)
        assert response.status_code < 500, response.text
        blocks.append(probe.slowest * 1000)
        memory.append(memory_mb(process, "VmHWM") - before)
    return min(blocks), min(memory), size


def report(name: str, blocked: float, memory: float, size: int = 0) -> bool:
    """Print a case with its thresholds; return whether they were met."""
    met = blocked <= MAX_BLOCK_MS and memory <= MAX_MEMORY_MB and size <= MAX_RESPONSE_BYTES
    thresholds = f"thresholds {MAX_BLOCK_MS} ms, {MAX_MEMORY_MB} MB, {MAX_RESPONSE_BYTES} bytes"
    return check(
        met, f"{name}: blocks {blocked:.1f} ms, allocates {memory:.1f} MB, response {size} bytes ({thresholds})"
    )


def measure_service(url: str, lab: Lab, rounds: int) -> Iterator[bool]:
    """Measure every case against a running account-service."""
    process = service_pid()
    with httpx.Client(base_url=url, headers=lab.operator(), timeout=60) as client:

        def post(path: str, content: bytes) -> httpx.Response:
            return client.post(path, content=content, headers={"Idempotency-Key": uuid.uuid4().hex})

        accounts = [post("/api/v1/accounts", b'{"currency":"USD"}').json()["id"] for _ in range(2)]
        post(f"/api/v1/accounts/{accounts[0]}/deposits", b'{"currency":"USD","amount":1000000}')
        yield report("baseline, GET /health/live", *cost(url, process, lambda: client.get("/health/live"), rounds))
        for name, path, content in hostile_bodies():
            yield report(name, *cost(url, process, lambda: post(path, content), rounds))
        query = "&".join(f"x{n}=1" for n in range(1000))
        yield report("parameters", *cost(url, process, lambda: client.get(f"/api/v1/accounts?{query}"), rounds))
        many = [(f"x-{n}", "1") for n in range(2000)]
        yield report("headers", *cost(url, process, lambda: client.get("/api/v1/accounts", headers=many), rounds))
        yield report(
            "a batch of 1000 transfers", *cost(url, process, lambda: post(BATCH, valid_batch(*accounts)), rounds)
        )


def measure_webhook(rounds: int) -> Iterator[bool]:
    """Measure the cost of parsing a webhook at the size limit of 256 KB."""
    for name in ("unknown fields", "numbers", "nested lists", "escaped quotes", "a long number", "names of surrogates"):
        content = HOSTILE[name].replace(b'"items"', b'"alerts"')[: 256 * 1024]
        results = []
        for _ in range(rounds):
            command = [sys.executable, "-c", _WEBHOOK]
            environment = {"PYTHONPATH": str(ROOT)}
            folder = ROOT / "autoscale-service"
            done = subprocess.run(command, input=content, capture_output=True, check=True, cwd=folder, env=environment)
            results.append([float(value) for value in done.stdout.split()])
        yield report(f"{name}, webhook", *(min(column) for column in zip(*results)))


def measure_parsing(rounds: int) -> bool:
    """Compare the parsing of a valid transfer with pydantic alone; interleaved, because the machine's speed varies."""
    body = {"from_account": new_id(), "to_account": new_id(), "amount": 1050, "currency": "USD", "reference": "rent"}
    content = json.dumps(body).encode()

    def pydantic_alone() -> Transfer:
        return Transfer.model_validate_json(content or b"{}")

    def parse() -> Transfer:
        return bodies.parse(content, Transfer)

    times = {parser: float("inf") for parser in (pydantic_alone, parse)}
    for _ in range(rounds * 20):
        for parser in times:
            times[parser] = min(times[parser], timeit.timeit(parser, number=2000) / 2000)
    ratio = times[parse] / times[pydantic_alone]
    values = f"{times[parse] * 1e6:.2f} µs, pydantic alone {times[pydantic_alone] * 1e6:.2f} µs"
    return check(
        ratio <= MAX_PARSE_RATIO, f"parsing a transfer: {values}, ratio {ratio:.3f} (threshold {MAX_PARSE_RATIO})"
    )


def main() -> int:
    """Run the drill; return 0 only if every threshold is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="number of measurements per case (default 3)")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        lab = Lab(lab_keys.ensure(Path(name) / "secrets"))
        with serving("account-service", Path(name), lab) as url:
            results = list(measure_service(url, lab, rounds))
    results += [*measure_webhook(rounds), measure_parsing(rounds)]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
