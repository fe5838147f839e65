"""Send three times the peak load to the bank; measure accepted and rejected requests.

    make drills DRILL=overload [ARGS="--seconds 10 --rounds 3 --in-flight 96"]

PostgreSQL, account-service and NGINX run as in `make bench`, and wrk sends transfers through NGINX. Each round measures
the peak (closed loop, with the best number of connections), then the overload (a thousand independent clients), then
60 % of the peak. Goodput counts the transfers in the ledger, not the responses. wrk generates the load, because a
thousand connections take more CPU in Python than the bank; concurrent probes measure latencies and Retry-After. Load
generator, service, database and NGINX share the machine, so ratios are computed within a round. Exits 1 when a
threshold is missed.
"""

import argparse
import json
import shutil
import statistics
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.environment import UNIFORM, Bench, started
from bench.measurement import Failure
from harness.client import repeating
from harness.commands import finish
from harness.load import Response, send_once

from shared.testing import lab_keys
from shared.testing.local_stack import ACCOUNT, StackError
from shared.testing.postgres import PostgresNotInstalled
from shared.testing.progress import Progress
from shared.testing.thresholds import Threshold

OVERLOAD_FACTOR = 3.0
NORMAL_FACTOR = 0.6
MIN_GOODPUT = 0.8
ACCEPTED_MS = 250
REJECTED_MS = 100
RECOVERY_SECONDS = 3
# Memory limit of a container of the stack (SERVICE_MEMORY in .env).
MEMORY_MB = 256
_OVERLOAD_CONNECTIONS = 1000
_PROBES = 4
_PROBE_PAUSE = 0.1
_PEAK_CONNECTIONS = (32, 64, 96)


@dataclass(frozen=True, slots=True)
class Phase:
    """The result of one load; rates are per second."""

    offered: float
    goodput: float
    responses: Counter[int]
    probes: Sequence[Response] = ()
    # From NGINX's access log: latencies of accepted transfers; accepted and other responses per second.
    accepted_ms: Sequence[float] = ()
    by_second: Sequence[Counter[bool]] = ()

    def probes_ms(self, *statuses: int) -> list[float]:
        """Return the latencies of the probes with these statuses."""
        return [probe.seconds * 1000 for probe in self.probes if probe.status in statuses]


@dataclass
class PeakMemory:
    """Peak resident memory of each process, in MB."""

    pids: dict[str, int]
    peak: dict[str, float] = field(default_factory=dict)

    def sample(self) -> None:
        """Sample every process; NGINX is the sum of its workers."""
        for name, pid in self.pids.items():
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
            now = sum(_resident_mb(one) for one in [str(pid), *children])
            self.peak[name] = max(self.peak.get(name, 0.0), now)


def _resident_mb(pid: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """Return a percentile; NaN without values, which meets no threshold."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


class Drill:
    """Sends load to the bank and measures its responses."""

    def __init__(self, bench: Bench) -> None:
        stack = bench.stack
        self._bench = bench
        self._stack = stack
        self._log = stack.var_dir / "nginx" / "access.log"
        self._headers = {"Authorization": f"Bearer {lab_keys.sign(stack.secrets.key, 'bench')}"}
        service, nginx = stack.processes[ACCOUNT][0].pid, stack.nginx.pid if stack.nginx else None
        assert service is not None and nginx is not None
        self.memory = PeakMemory({"account-service": service, "NGINX": nginx})

    def load(self, seconds: int, connections: int, per_second: float = 0) -> Phase:
        """Send transfers in a closed loop, or at approximately a rate; return the result."""
        self._bench.checkpoint()
        pause = 1000 * connections / per_second if per_second else 0.0
        before, offset = self._posted(), self._log.stat().st_size
        with self._running_probes() as probes:
            result = self._bench.wrk(
                self._stack.api_url, UNIFORM, seconds, pause, connections=connections, strict=False
            )
        time.sleep(0.2)  # until the requests in flight are in the log and the ledger
        duration = result["microseconds"] / 1e6
        lines = list(self._log_lines(offset))
        # 499: requests in flight when wrk stopped; it counts other aborted requests as failed.
        responses = Counter(int(line["status"]) for line in lines if line["status"] != 499)
        if result["failed"]:
            responses[0] = result["failed"]
        return Phase(
            offered=len(lines) / duration,
            goodput=(self._posted() - before) / duration,
            responses=responses,
            probes=probes,
            accepted_ms=[line["duration"] * 1000 for line in lines if line["status"] == 201],
            by_second=_by_second(lines),
        )

    def _posted(self) -> int:
        return int(self._bench.server.sql("accounts", "SELECT count(*) FROM transactions WHERE type = 'transfer'"))

    def _log_lines(self, offset: int) -> Iterator[dict[str, Any]]:
        with self._log.open("rb") as log:
            log.seek(offset)
            for line in log:
                yield json.loads(line)

    @contextmanager
    def _running_probes(self) -> Iterator[list[Response]]:
        """Send probes a few times a second and sample the memory while the block runs."""
        probes: list[Response] = []
        sample_memory = repeating(self.memory.sample, every=0.25)
        send_probes = repeating(*[lambda: probes.append(self._probe())] * _PROBES, every=_PROBE_PAUSE)
        with sample_memory, send_probes:
            yield probes

    def _probe(self) -> Response:
        """Send one transfer over a new connection."""
        key = uuid.uuid4()
        source, target = (_account(key.int % UNIFORM + step) for step in (0, 1))
        body = json.dumps({"from_account": source, "to_account": target, "amount": 1, "currency": "USD"})
        headers = {**self._headers, "Content-Type": "application/json", "Idempotency-Key": str(key)}
        return send_once(self._stack.http_port, "POST", "/api/v1/transfers", headers, body)


def _account(number: int) -> str:
    return f"00000000-0000-7000-8000-{number % UNIFORM + 1:012x}"


def _by_second(lines: Sequence[dict[str, Any]]) -> list[Counter[bool]]:
    seconds: dict[str, Counter[bool]] = {}
    for line in lines:
        seconds.setdefault(line["timestamp"], Counter())[line["status"] == 201] += 1
    return [seconds[at] for at in sorted(seconds)]


@dataclass(frozen=True, slots=True)
class Round:
    """One peak, one overload, and normal load right after it."""

    peak: Phase
    overload: Phase
    normal: Phase


def one_round(drill: Drill, seconds: int, connections: int, progress: Progress) -> Round:
    """Measure one round and print its result."""
    peak = drill.load(seconds, connections)
    # Connections also wait for responses, so the configured rate must be higher.
    overload = drill.load(seconds, _OVERLOAD_CONNECTIONS, OVERLOAD_FACTOR * 1.5 * peak.goodput)
    normal = drill.load(seconds, connections, NORMAL_FACTOR * peak.goodput)
    progress.info(
        f"peak {peak.goodput:.0f}/s; offered {overload.offered:.0f}/s: goodput {overload.goodput:.0f}/s,"
        f" responses {dict(sorted(overload.responses.items()))}; then {normal.goodput:.0f}/s of {normal.offered:.0f}/s"
    )
    return Round(peak, overload, normal)


def best_connections(drill: Drill, progress: Progress) -> int:
    """Return the number of connections with the highest throughput."""
    drill.load(3, _PEAK_CONNECTIONS[0])
    found = {connections: drill.load(3, connections).goodput for connections in _PEAK_CONNECTIONS}
    progress.info(f"transfers/s by connections: { {n: round(rate) for n, rate in found.items()} }")
    return max(found, key=lambda connections: found[connections])


def recovered(normal: Phase) -> bool:
    """Return whether every request succeeded after RECOVERY_SECONDS."""
    seconds = normal.by_second[RECOVERY_SECONDS:-1]
    return bool(seconds) and all(second[True] and not second[False] for second in seconds)


def checks(rounds: Sequence[Round], memory: dict[str, float]) -> list[Threshold]:
    """Return the results of all rounds."""
    rejected = [probe for measured in rounds for probe in measured.overload.probes if probe.status in (429, 503)]
    accepted = [ms for measured in rounds for ms in measured.overload.probes_ms(201)]
    responses: Counter[int] = sum((measured.overload.responses for measured in rounds), Counter())
    other = sum(count for status, count in responses.items() if status not in (201, 429, 503))
    offered = statistics.median(measured.overload.offered / measured.peak.goodput for measured in rounds)
    goodput = statistics.median(measured.overload.goodput / measured.peak.goodput for measured in rounds)
    logged = percentile([ms for measured in rounds for ms in measured.overload.accepted_ms], 0.99)
    accepted_p95 = percentile(accepted, 0.95)
    rejected_p95 = percentile([response.seconds * 1000 for response in rejected], 0.95)
    with_retry_after = sum(response.headers.get("Retry-After") is not None for response in rejected)
    recovered_rounds = sum(recovered(measured.normal) for measured in rounds)
    after = statistics.median(measured.normal.goodput / measured.normal.offered for measured in rounds)
    found = [
        Threshold(f"offered ÷ peak >= {OVERLOAD_FACTOR}", f"{offered:.2f}", offered >= OVERLOAD_FACTOR),
        Threshold(f"goodput ÷ peak >= {MIN_GOODPUT}", f"{goodput:.2f}", goodput >= MIN_GOODPUT),
        Threshold("responses other than 201, 429 and 503: 0", f"{other} of {responses.total()}", other == 0),
        Threshold(
            f"accepted: p99 in NGINX's log and p95 of probes <= {ACCEPTED_MS} ms",
            f"{logged:.0f} ms, {accepted_p95:.0f} ms ({len(accepted)} probes)",
            max(logged, accepted_p95) <= ACCEPTED_MS,
        ),
        Threshold(
            f"rejected: p95 of probes <= {REJECTED_MS} ms, all with Retry-After",
            f"{rejected_p95:.0f} ms, {with_retry_after} of {len(rejected)} with Retry-After",
            rejected_p95 <= REJECTED_MS and with_retry_after == len(rejected) > 0,
        ),
        Threshold(
            f"none rejected later than {RECOVERY_SECONDS} s after the overload, at {NORMAL_FACTOR:.0%} of peak",
            f"{recovered_rounds} of {len(rounds)} rounds; {after:.1%} of the offered transfers are in the ledger",
            recovered_rounds == len(rounds),
        ),
    ]
    for name, peak in memory.items():
        found.append(Threshold(f"peak memory of {name} <= {MEMORY_MB} MB", f"{peak:.0f} MB", peak <= MEMORY_MB))
    return found


def main() -> int:
    """Run the drill, print the thresholds, and return 0 only if all are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=10, help="duration of one measurement in seconds (default 10)")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (default 3)")
    parser.add_argument(
        "--in-flight", type=int, help="maximum number of requests in flight per replica (NGINX); 0: no limit"
    )
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        print("overload: wrk is not installed; on Debian: apt-get install wrk", file=sys.stderr)
        return 1
    limit = {} if arguments.in_flight is None else {"nginx_max_in_flight": arguments.in_flight}
    progress = Progress("overload", arguments.rounds + 3)
    try:
        progress.step("PostgreSQL, the stack and test data")
        with started(arguments.seconds, 1, progress, limit) as bench:
            bench.prepare(UNIFORM)
            drill = Drill(bench)
            progress.step("number of connections with the highest throughput")
            connections = best_connections(drill, progress)
            rounds = []
            for number in range(1, arguments.rounds + 1):
                progress.step(f"round {number} of {arguments.rounds}: peak, overload, normal load")
                rounds.append(one_round(drill, arguments.seconds, connections, progress))
            progress.step("the ledger's invariants")
            broken = bench.broken_invariants()
    except (Failure, StackError, PostgresNotInstalled) as failure:
        progress.finished(str(failure), good=False)
        return 1
    found = checks(rounds, drill.memory.peak)
    found.append(Threshold("ledger invariants", broken or "hold", not broken))
    return finish(progress, found)


if __name__ == "__main__":
    sys.exit(main())
