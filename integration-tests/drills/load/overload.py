"""Offer the bank three times what it can do, and see what becomes of those it serves and of those it turns away.

    make drills DRILL=overload [ARGS="--seconds 10 --rounds 3 --in-flight 96"]

PostgreSQL, account-service and NGINX are started as `make bench` starts them, and wrk sends transfers through NGINX.
Each round measures the peak (closed loop, as many connections as serve best), then the overload (a thousand clients
that do not wait for each other), then 60 % of the peak at once. Goodput is what the ledger holds, not what clients were
told. Clients of the drill's own ask beside the load and look at the answers: how long they took, and whether a refusal
says when to come again. Generator, service, database and NGINX share the machine, so a ratio is of one round. Exits 1
when a bar is missed.
"""

import argparse
import http.client
import json
import shutil
import statistics
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.bench import UNIFORM, Bench, Failure, started
from harness.commands import measured

from shared.testing import lab_keys
from shared.testing.local_stack import ACCOUNT, EmbeddedStack, StackError
from shared.testing.postgres import PostgresMissing
from shared.testing.progress import Progress

OFFERED = 3.0
NORMAL = 0.6
GOODPUT_BAR = 0.8
ACCEPTED_MS = 250
REFUSED_MS = 100
RECOVERY_SECONDS = 3
# Of a container of the stack (SERVICE_MEMORY in .env).
MEMORY_MB = 256
_CROWD = 1000
_PROBES = 4
_PROBE_PAUSE = 0.1
_PEAK_CONNECTIONS = (32, 64, 96)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of the drill's own: its status (0: no answer), how long it took, when to come again."""

    status: int
    seconds: float
    retry_after: str | None


@dataclass(frozen=True, slots=True)
class Phase:
    """What a time under one load brought; rates are per second."""

    offered: float
    goodput: float
    answers: Counter[int]
    asked: Sequence[Asked] = ()
    # Durations of transfers as NGINX saw them, and by second: what succeeded and what did not.
    accepted_ms: Sequence[float] = ()
    by_second: Sequence[Counter[bool]] = ()

    def asked_ms(self, *statuses: int) -> list[float]:
        """Return how long the drill's own requests with these statuses took."""
        return [one.seconds * 1000 for one in self.asked if one.status in statuses]


@dataclass
class Watch:
    """The most memory that a process has had while it was watched, in MB."""

    pids: dict[str, int]
    most: dict[str, float] = field(default_factory=dict)

    def look(self) -> None:
        """Take note of what they have now; NGINX is what its workers have together."""
        for name, pid in self.pids.items():
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
            now = sum(_resident_mb(one) for one in [str(pid), *children])
            self.most[name] = max(self.most.get(name, 0.0), now)


def _resident_mb(pid: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """Return a percentile; of nothing it is not a number, which meets no bar."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


class Drill:
    """The bank, the load and what is looked at."""

    def __init__(self, bench: Bench, stack: EmbeddedStack) -> None:
        self._bench = bench
        self._stack = stack
        self._log = stack.var_dir / "nginx" / "access.log"
        self._headers = {"Authorization": f"Bearer {lab_keys.sign(stack.secrets.key, 'bench')}"}
        service, nginx = stack.processes[ACCOUNT][0].pid, stack.nginx.pid if stack.nginx else None
        assert service is not None and nginx is not None
        self.watch = Watch({"account-service": service, "NGINX": nginx})

    def load(self, seconds: int, connections: int, per_second: float = 0) -> Phase:
        """Send transfers, as fast as they are answered or at about a rate; return what came of it."""
        self._bench.settle()
        pause = 1000 * connections / per_second if per_second else 0.0
        before, offset = self._posted(), self._log.stat().st_size
        with self._beside() as asked:
            told = self._bench.wrk(self._stack.api_url, UNIFORM, seconds, pause, connections=connections, strict=False)
        time.sleep(0.2)  # what was in flight at the end is in the log and in the ledger now
        duration = told["microseconds"] / 1e6
        seen = list(self._seen(offset))
        # Those that wrk gave up because its time was over; others that it gave up it counts as failed.
        answers = Counter(int(line["status"]) for line in seen if line["status"] != 499)
        if told["failed"]:
            answers[0] = told["failed"]
        return Phase(
            offered=len(seen) / duration,
            goodput=(self._posted() - before) / duration,
            answers=answers,
            asked=asked,
            accepted_ms=[line["duration"] * 1000 for line in seen if line["status"] == 201],
            by_second=_by_second(seen),
        )

    def _posted(self) -> int:
        return int(self._bench.server.sql("accounts", "SELECT count(*) FROM transactions WHERE type = 'transfer'"))

    def _seen(self, offset: int) -> Iterator[dict[str, Any]]:
        with self._log.open("rb") as log:
            log.seek(offset)
            for line in log:
                yield json.loads(line)

    @contextmanager
    def _beside(self) -> Iterator[list[Asked]]:
        """Ask a few times a second and watch the memory while the block runs."""
        asked: list[Asked] = []
        stop = threading.Event()

        def ask_again_and_again() -> None:
            while not stop.wait(_PROBE_PAUSE):
                asked.append(self._ask())

        def look_again_and_again() -> None:
            while not stop.wait(0.25):
                self.watch.look()

        threads = [threading.Thread(target=ask_again_and_again) for _ in range(_PROBES)]
        threads.append(threading.Thread(target=look_again_and_again))
        for thread in threads:
            thread.start()
        try:
            yield asked
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def _ask(self) -> Asked:
        """Make one transfer over a connection of its own, as a client that has just come would."""
        key = uuid.uuid4()
        source, target = (_account(key.int % UNIFORM + step) for step in (0, 1))
        body = json.dumps({"from_account": source, "to_account": target, "amount": 1, "currency": "USD"})
        headers = {**self._headers, "Content-Type": "application/json", "Idempotency-Key": str(key)}
        connection = http.client.HTTPConnection("127.0.0.1", self._stack.http_port, timeout=10)
        begun = time.perf_counter()
        try:
            connection.request("POST", "/api/v1/transfers", body, headers)
            answer = connection.getresponse()
            answer.read()
            return Asked(answer.status, time.perf_counter() - begun, answer.headers["Retry-After"])
        except (OSError, http.client.HTTPException):
            return Asked(0, time.perf_counter() - begun, None)
        finally:
            connection.close()


def _account(number: int) -> str:
    return f"00000000-0000-7000-8000-{number % UNIFORM + 1:012x}"


def _by_second(seen: Sequence[dict[str, Any]]) -> list[Counter[bool]]:
    seconds: dict[str, Counter[bool]] = {}
    for line in seen:
        seconds.setdefault(line["timestamp"], Counter())[line["status"] == 201] += 1
    return [seconds[moment] for moment in sorted(seconds)]


@dataclass(frozen=True, slots=True)
class Round:
    """One peak, one overload, and normal load right after it."""

    peak: Phase
    overload: Phase
    normal: Phase


def one_round(drill: Drill, seconds: int, connections: int, progress: Progress) -> Round:
    """Measure one round, and tell what it brought."""
    peak = drill.load(seconds, connections)
    # Some of the crowd wait for their answers, so it has to want more to offer so much.
    overload = drill.load(seconds, _CROWD, OFFERED * 1.5 * peak.goodput)
    normal = drill.load(seconds, connections, NORMAL * peak.goodput)
    progress.say(
        f"peak {peak.goodput:.0f}/s; offered {overload.offered:.0f}/s: goodput {overload.goodput:.0f}/s,"
        f" answers {dict(sorted(overload.answers.items()))}; then {normal.goodput:.0f}/s of {normal.offered:.0f}/s"
    )
    return Round(peak, overload, normal)


def best_connections(drill: Drill, progress: Progress) -> int:
    """Return how many connections serve the most."""
    drill.load(3, _PEAK_CONNECTIONS[0])
    found = {connections: drill.load(3, connections).goodput for connections in _PEAK_CONNECTIONS}
    progress.say(f"transfers/s by connections: { {n: round(rate) for n, rate in found.items()} }")
    return max(found, key=lambda connections: found[connections])


def recovered(normal: Phase) -> bool:
    """Tell whether nothing failed any more a few seconds after the overload, while requests came all the time."""
    later = normal.by_second[RECOVERY_SECONDS:-1]
    return bool(later) and all(second[True] and not second[False] for second in later)


def checks(rounds: Sequence[Round], memory: dict[str, float]) -> list[tuple[str, str, bool]]:
    """Return what was promised, what was measured, and whether it was kept."""
    asked = [one for each in rounds for one in each.overload.asked]
    refused = [one for one in asked if one.status in (429, 503)]
    accepted = [ms for each in rounds for ms in each.overload.asked_ms(201)]
    answers: Counter[int] = sum((each.overload.answers for each in rounds), Counter())
    other = sum(count for status, count in answers.items() if status not in (201, 429, 503))
    offered = statistics.median(each.overload.offered / each.peak.goodput for each in rounds)
    goodput = statistics.median(each.overload.goodput / each.peak.goodput for each in rounds)
    logged = percentile([ms for each in rounds for ms in each.overload.accepted_ms], 0.99)
    accepted_p95 = percentile(accepted, 0.95)
    refused_p95 = percentile([one.seconds * 1000 for one in refused], 0.95)
    told = sum(one.retry_after is not None for one in refused)
    back = sum(recovered(each.normal) for each in rounds)
    after = statistics.median(each.normal.goodput / each.normal.offered for each in rounds)
    found = [
        (f"offered ÷ peak >= {OFFERED}", f"{offered:.2f}", offered >= OFFERED),
        (f"goodput ÷ peak >= {GOODPUT_BAR}", f"{goodput:.2f}", goodput >= GOODPUT_BAR),
        ("answers that are neither 201 nor 429 nor 503: 0", f"{other} of {answers.total()}", other == 0),
        (
            f"accepted, p99 in NGINX's log and p95 of those asked beside <= {ACCEPTED_MS} ms",
            f"{logged:.0f} ms, {accepted_p95:.0f} ms ({len(accepted)} asked)",
            max(logged, accepted_p95) <= ACCEPTED_MS,
        ),
        (
            f"refused, p95 of those asked beside <= {REFUSED_MS} ms, all with Retry-After",
            f"{refused_p95:.0f} ms, {told} of {len(refused)} with it",
            refused_p95 <= REFUSED_MS and told == len(refused) > 0,
        ),
        (
            f"none refused from {RECOVERY_SECONDS} s after on, at {NORMAL:.0%} of peak",
            f"{back} of {len(rounds)} rounds; {after:.1%} of all that was offered then is in the ledger",
            back == len(rounds),
        ),
    ]
    for name, most in memory.items():
        found.append((f"memory of {name} <= {MEMORY_MB} MB", f"{most:.0f} MB", most <= MEMORY_MB))
    return found


def main() -> int:
    """Run the drill, print the bars, and return 0 only if every one is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=10, help="length of one measurement (default 10)")
    parser.add_argument("--rounds", type=int, default=3, help="how often all are repeated (default 3)")
    parser.add_argument("--in-flight", type=int, help="what NGINX lets a replica work on at once; 0: no limit")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        print("overload: wrk is missing; on Debian: apt-get install wrk", file=sys.stderr)
        return 1
    limit = {} if arguments.in_flight is None else {"nginx_max_in_flight": arguments.in_flight}
    progress = Progress("overload", arguments.rounds + 3)
    try:
        progress.step("PostgreSQL, the stack on it, and a full ledger")
        with started(arguments.seconds, 1, progress, limit) as (bench, stack):
            bench.prepare()
            drill = Drill(bench, stack)
            progress.step("how many connections serve the most")
            connections = best_connections(drill, progress)
            rounds = []
            for number in range(1, arguments.rounds + 1):
                progress.step(f"round {number} of {arguments.rounds}: peak, overload, normal load")
                rounds.append(one_round(drill, arguments.seconds, connections, progress))
            progress.step("the ledger's invariants")
            broken = bench.broken_invariants()
    except (Failure, StackError, PostgresMissing) as failure:
        progress.finished(str(failure), good=False)
        return 1
    found = checks(rounds, drill.watch.most)
    found.append(("invariants of the ledger", broken or "hold", not broken))
    for what, value, met in found:
        measured(met, f"{what}: {value}")
    good = all(met for _, _, met in found)
    progress.finished(f"{sum(met for _, _, met in found)} of {len(found)} as promised", good=good)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
