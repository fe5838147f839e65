"""Rolls a release out on the composed stack through rollout-service, and restores the stack in any case."""

import json
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from scripts.faults.customers import Customer, RequestStats, traffic
from scripts.faults.release import Release, running
from scripts.faults.result import LAST_WEIGHT, CanaryTraffic, RolloutResult, count
from scripts.faults.stack import BASELINES, CANARIES, SERVICES, RejectedError, Request, Stack, StackError

_POLL_SECONDS = 1
_RENEW_SECONDS = 5
_ROLLBACK_TIMEOUT_SECONDS = 60
# Resolution of the timestamps in NGINX's log.
_RESOLUTION_SECONDS = 1e-6
# Customers stop on their own after this time.
_MAX_SECONDS = 300
# After a reload, NGINX's previous workers serve their kept-alive connections for this time.
_RELOAD_SECONDS = 6.0
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How a release is rolled out; times in seconds."""

    driver: str
    steps: tuple[int, ...] = (10, LAST_WEIGHT)
    bake_seconds: float = 40
    # Also the limit for the start of the canaries, which takes a minute on a busy machine.
    step_timeout_seconds: float = 90
    # Whether a release that passes the first step's analysis continues to the last one, instead of being rolled back.
    run_all_steps: bool = True
    # Whether rollout-service sends requests to the canary as well.
    synthetic: bool = False


def canary_count(serving: int, weight: int) -> int:
    """Return the canaries that a weight in percent needs beside as many replicas that serve with stable.

    None gets more clients than one of these, so that latencies are comparable (`canary_count` in rollout.sh).
    """
    return min(serving, -(-serving * weight // (100 - weight)))


def require_idle(stack: Stack) -> None:
    """Raise StackError unless the stack runs and has no rollout in progress."""
    stack.images()
    state = stack.rollout("status")
    if state["phase"] != "idle":
        raise StackError(
            f"the rollout of {state['version']} by {state['driver']} is in progress ({state['phase']});"
            " wait until it is idle, or roll it back"
        )


class Rollout:
    """A rollout in progress, as a context manager that rolls it back on exit, also after an error."""

    def __init__(self, stack: Stack, release: Release, plan: Plan, report: Report) -> None:
        self._stack = stack
        self._release = release
        self._previous = running(stack)
        self._plan = plan
        self._report = report
        self._replicas = stack.replicas()
        weight = max(plan.steps) if plan.run_all_steps else plan.steps[0]
        # The baseline serves with stable.
        self._canaries = {service: canary_count(self._replicas[service] + 1, weight) for service in SERVICES}
        self._addresses: set[str] = set()
        # Requests of canaries in NGINX's log, which is read from this time on.
        self._requests: list[Request] = []
        self._log_read_until = 0.0
        self._reported: tuple[Any, ...] = ()
        self._id = ""
        self.result = RolloutResult()

    def __enter__(self) -> "Rollout":
        request = {
            "driver": self._plan.driver,
            "version": self._release.version,
            "images": self._release.images,
            "previous": self._previous.images,
            "revisions": self._release.revisions,
            "previous_revisions": self._previous.revisions,
            "canaries": self._canaries,
            "steps": self._plan.steps,
            "bake_seconds": self._plan.bake_seconds,
            "step_timeout_seconds": self._plan.step_timeout_seconds,
            "scale_down_delay_seconds": 0,
            "synthetic": self._plan.synthetic,
        }
        self._id = self._stack.rollout("begin", "-", stdin=json.dumps(request))["id"]
        return self

    def provision(self) -> None:
        """Start the canaries, and wait until they are ready and measured."""
        self._report("starting the canaries")
        self._log_read_until = time.time()
        stop = threading.Event()
        with ThreadPoolExecutor(2) as pool:
            started = pool.submit(self._start_canaries)
            pool.submit(self._renew_until, stop)
            try:
                while (state := self._provisioned())["phase"] == "provisioning":
                    if started.done():
                        started.result()
                    time.sleep(_POLL_SECONDS)
            finally:
                stop.set()
        self.result.state = state
        if state["phase"] == "canary":
            self._addresses = self._stack.canary_addresses()

    def _renew_until(self, stop: threading.Event) -> None:
        """Renew the lease: Docker may respond late while it starts containers."""
        while not stop.wait(_RENEW_SECONDS):
            with suppress(StackError):
                self._stack.rollout("renew", self._id)

    def _start_canaries(self) -> None:
        canaries = {service: str(number) for service, number in self._canaries.items()}
        values_by_name = {
            "CANARY_REPLICAS": canaries,
            "CANARY_IMAGE": self._release.images,
            "CANARY_REVISION": self._release.revisions,
            "PREVIOUS_IMAGE": self._previous.images,
            "PREVIOUS_REVISION": self._previous.revisions,
        }
        variables = {
            f"{service.upper().replace('-', '_')}_{name}": value
            for name, values in values_by_name.items()
            for service, value in values.items()
        }
        services = (*CANARIES, *BASELINES)
        self._stack.compose("--profile", "canary", "up", "--detach", "--no-deps", "--no-build", *services, **variables)

    def _provisioned(self) -> Mapping[str, Any]:
        """Report the canaries as ready, which rollout-service rejects until they are; return the state."""
        try:
            return self._stack.rollout("provisioned", self._id)
        except RejectedError as error:
            return error.state

    def follow(self, stats: RequestStats, promote: bool = False) -> None:
        """Watch the rollout, reporting each change, until it has ended or may be promoted."""
        while True:
            state: Mapping[str, Any]
            try:
                state = self._stack.rollout("renew", self._id)
            except RejectedError as error:
                state = error.state
            self._observe(state, stats)
            if state["id"] != self._id or state["phase"] in ("idle", "rolling-back", "done"):
                return
            if state["phase"] == "promoting":
                self.result.passed = True
                if not promote:
                    return
                with suppress(RejectedError):
                    self._stack.rollout("promoted", self._id)
            if not self._plan.run_all_steps and self.result.weight >= LAST_WEIGHT:
                return
            time.sleep(_POLL_SECONDS)

    def _observe(self, state: Mapping[str, Any], stats: RequestStats) -> None:
        result = self.result
        result.state, result.weight = state, max(result.weight, state["weight"])
        result.traffic = self._traffic()
        verdict = "{verdict} ({reason})".format_map(state["verdict"]) if state["verdict"] else "none"
        requests, failed = result.traffic.customers, result.traffic.failed
        current = (state["phase"], state["weight"], verdict, bool(requests), bool(failed), len(stats.failed))
        if current != self._reported:
            self._reported = current
            self._report(
                f"{state['phase']:12} weight {state['weight']:2} %  canary: {requests} requests, {failed} failed"
                f"  customers: {stats.sent} requests, {len(stats.failed)} failed  verdict: {verdict}"
            )

    def _traffic(self) -> CanaryTraffic:
        """Read the new lines of NGINX's log; return the traffic of the canaries so far."""
        if self._addresses:
            new = self._stack.requests(self._log_read_until)
            self._log_read_until = max([self._log_read_until, *(entry.at + _RESOLUTION_SECONDS for entry in new)])
            self._requests += [entry for entry in new if entry.upstream in self._addresses]
        return count(self._requests, self._addresses)

    def finish(self, stats: RequestStats) -> None:
        """Wait until everything is as before, and complete the result."""
        self._report(f"rollout ended ({self.result.reason}); removing the canaries")
        self._end()
        if self._addresses:
            time.sleep(_RELOAD_SECONDS)
        result = self.result
        result.traffic = self._traffic()
        result.sent, result.failed, result.wrong = stats.sent, list(stats.failed), list(stats.wrong)

    def _end(self) -> None:
        """Roll the release back if it is still in progress, and wait until its canaries are gone."""
        if not self._id:
            return
        state = self._stack.abort(self._id, f"end of {self._plan.driver}")
        deadline = time.monotonic() + _ROLLBACK_TIMEOUT_SECONDS
        while state["id"] == self._id and state["phase"] != "idle" and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            state = self._stack.rollout("status")
        self._id = ""
        self.result.state = state

    def __exit__(self, *_: object) -> None:
        try:
            self._end()
        except StackError as error:
            self._report(f"rollout-service cannot roll the release back: {error}")
        self.result.leftovers = self._find_leftovers()

    def _find_leftovers(self) -> list[str]:
        """Remove remaining canaries and baselines; return what else differs from before the rollout."""
        started = (*CANARIES, *BASELINES)
        if any(container.service in started for container in self._stack.containers()):
            self._stack.compose("--profile", "canary", "rm", "--stop", "--force", *started)
        replicas, revision = self._stack.replicas(), self._stack.revision()
        container_ids = [
            f"{service}: {replicas[service]} instead of {number} replicas"
            for service, number in self._replicas.items()
            if replicas[service] != number
        ]
        return container_ids + ([f"NGINX serves {revision}"] if revision != "stable" else [])


def roll_out(rollout: Rollout, customers: list[Customer], rate: float, promote: bool = False) -> RolloutResult:
    """Run a rollout to its end while customers send requests at a rate (per second); return the result."""
    with traffic(customers, rate, _MAX_SECONDS) as stats:
        with rollout:
            rollout.provision()
            rollout.follow(stats, promote)
            rollout.finish(stats)
    return rollout.result
