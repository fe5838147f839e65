"""Make scaling fail under load: no partial replica remains, the failure is counted and alerted, retries back off.

    make drills DRILL=autoscale_failures [ARGS="--only health"]

Real: the stack, Docker, Prometheus, Alertmanager, and as faults a stopped socket proxy, replicas that never become
healthy (the secret with the database's address is replaced) and an untagged image. Fake: the Slack receiver, and a
proxy in front of Docker's socket that returns the errors of a full disk and of a missing image; a full disk would
affect the whole machine, and Docker does not remove the image of a running container.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from drills.autoscaling.autoscale import SERVICE, AutoscaledStack
from harness.commands import exit_code, info
from harness.composed_stack import ComposedBank
from drills.autoscaling.docker_faults import FaultyDocker, InjectedError, faulty_docker
from harness.load import Load, open_loop
from harness.client import eventually

from shared.testing.progress import Progress

TARGET_RPS, INITIAL_REPLICAS = 8, 2
LOW, HIGH = 6, 30
# The autoscaler's first backoff (BACKOFF_SECONDS), and the tolerance for clocks and logs.
FIRST_BACKOFF_SECONDS, TOLERANCE_SECONDS = 10, 0.5
ALERT_SECONDS = 120
SETTINGS = {
    "ACCOUNT_SERVICE_REPLICAS": str(INITIAL_REPLICAS),
    "ACCOUNT_SERVICE_TARGET_RPS": str(TARGET_RPS),
    "AUTOSCALE_SCALE_DOWN_STABILIZATION_SECONDS": "10",
    "AUTOSCALE_SCALE_DOWN_POLICY": "[8,100,5]",
}
_DISK_FULL_MESSAGE = "failed to create rwlayer: mkdir /var/lib/docker/overlay2/1f-init: no space left on device"


class FailureDrill:
    """The stack under load, and its failures."""

    def __init__(self, bank: ComposedBank, docker: FaultyDocker, load: Load) -> None:
        self.bank = bank
        self.stack = AutoscaledStack(bank)
        self.docker = docker
        self.load = load

    def containers(self) -> set[str]:
        """Return all containers of the service, including stopped ones."""
        label = [f"com.docker.compose.project={self.bank.project}", f"com.docker.compose.service={SERVICE}"]
        filters = [argument for label in label for argument in ("--filter", f"label={label}")]
        return set(self.bank.docker("ps", "--all", "--quiet", "--no-trunc", *filters).split())

    def is_initial_state(self) -> bool:
        """Return whether the stack is in its initial state, without failures or a pending retry."""
        status = self.stack.status()
        return self.stack.replicas(INITIAL_REPLICAS) and (status["failures"], status["retry_after_seconds"]) == (0, 0)

    def notified_at(self, service: str, operation: str, since: float) -> float | None:
        """Return when the receiver was notified of a failure."""
        for message in self.bank.messages("/slack", since):
            attachment = message["body"]["attachments"][0]
            about = f"The operation {operation} on {service} has failed"
            if attachment["title"].startswith("[FIRING") and about in attachment["text"]:
                return float(message["at"])
        return None

    def failure_count(self, service: str, operation: str) -> float:
        """Return autoscale_failures_total from Prometheus."""
        selector = f'autoscale_failures_total{{service="{service}",operation="{operation}"}}'
        return self.bank.prometheus.value(selector) or 0

    def attempts(self, service: str, operation: str, since: float) -> list[float]:
        """Return the times of failed attempts; for unhealthy replicas, of their removal and the next attempt."""
        found = []
        for at, line in self.stack.autoscaler_logs(since):
            if line["message"] == "scaling operation failed" and (line["target"], line["operation"]) == (
                service,
                operation,
            ):
                found.append(at)
            elif operation == "health" and found and line["message"] == "scaled" and line["target"] == SERVICE:
                found.append(float(line["at"]))
        return found


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault and the autoscaler's name of the failing operation; `inject` injects it and returns its repair.

    `notifies` is False if an alert with the same service and operation is already firing.
    """

    name: str
    operation: str
    inject: Callable[[FailureDrill], Callable[[], object]]
    service: str = SERVICE
    notifies: bool = True


def stop_proxy(drill: FailureDrill) -> Callable[[], object]:
    """Stop the Docker socket proxy."""
    proxy = drill.bank.containers("docker-proxy")
    drill.bank.docker("stop", *proxy)
    return lambda: drill.bank.docker("start", *proxy)


def inject_error(calls: str, status: int, message: str) -> Callable[[FailureDrill], Callable[[], object]]:
    """Make the faulty proxy return an error to matching calls."""

    def inject(drill: FailureDrill) -> Callable[[], object]:
        drill.docker.injected_error = InjectedError(calls, status, message)
        return lambda: setattr(drill.docker, "injected_error", None)

    return inject


def replace_secret(drill: FailureDrill) -> Callable[[], object]:
    """Replace a secret; running containers keep the old value."""
    secret = drill.bank.secrets / "account_database_url"
    backup = secret.with_name("backup")
    secret.rename(backup)
    secret.write_text("no address of a database", encoding="utf-8")
    secret.chmod(0o644)
    return lambda: backup.replace(secret)


FAULTS = (
    Fault("the socket proxy is stopped", "observe", stop_proxy, service="all"),
    Fault("the image is missing", "create", inject_error("POST .*/create$", 404, "No such image: sha256:1f")),
    Fault(
        "the disk is full: create", "create", inject_error("POST .*/create$", 500, _DISK_FULL_MESSAGE), notifies=False
    ),
    Fault("the disk is full: start", "start", inject_error("POST .*/start$", 500, _DISK_FULL_MESSAGE)),
    Fault("replicas never become healthy", "health", replace_secret),
)


def format_row(name: str, failure_count: str, notified_at: str, pauses: str, leftover: str) -> str:
    """Return a line of the table."""
    return f"{name:28} {failure_count:>8} {notified_at:>14} {pauses:>18}  {leftover}"


def run(drill: FailureDrill, fault: Fault) -> list[str]:
    """Inject a fault under load, print the result and repair the fault; return the failed checks."""
    eventually(drill.is_initial_state, 240, every=1)
    before, failure_count, started = (
        drill.containers(),
        drill.failure_count(fault.service, fault.operation),
        time.time(),
    )
    attempts: list[float] = []
    notified_at: float | None = None

    def all_observed() -> bool:
        nonlocal notified_at
        attempts[:] = drill.attempts(fault.service, fault.operation, started)
        notified_at = drill.notified_at(fault.service, fault.operation, started)
        return len(attempts) >= 3 - (fault.operation == "health") and (notified_at is not None or not fault.notifies)

    repair = fault.inject(drill)
    drill.load.rate = HIGH
    try:
        with suppress(AssertionError):
            eventually(all_observed, 240, every=2)
        drill.load.rate = LOW
        increase = drill.failure_count(fault.service, fault.operation) - failure_count
        # During the fault: a partial replica is removed immediately, an unhealthy one when it is no longer needed.
        with suppress(AssertionError):
            eventually(lambda: drill.containers() == before, 150 if fault.operation == "health" else 10, every=1)
        leftover = drill.containers() ^ before
    finally:
        drill.load.rate = LOW
        repair()
    return evaluate(fault, attempts, notified_at and notified_at - (attempts or [started])[0], increase, leftover)


def evaluate(
    fault: Fault, attempts: list[float], notified_at: float | None, increase: float, leftover: set[str]
) -> list[str]:
    """Print the result of a fault and return the failed checks."""
    pauses = [later - earlier for earlier, later in zip(attempts, attempts[1:])]
    notification = (
        "already firing" if not fault.notifies else "never" if notified_at is None else f"{notified_at:.0f} s"
    )
    waited = ", ".join(f"{pause:.0f}" for pause in pauses[:2]) + " s"
    print(format_row(fault.name, f"+{increase:.0f}", notification, waited, f"{len(leftover)} containers"), flush=True)
    problems = [] if increase > 0 else ["autoscale_failures_total did not increase"]
    if fault.notifies and (notified_at is None or notified_at > ALERT_SECONDS):
        problems.append(f"ScalingFailed did not reach the receiver within {ALERT_SECONDS} s")
    min_pauses = [FIRST_BACKOFF_SECONDS * 2**index - TOLERANCE_SECONDS for index in range(2)]
    if not pauses or any(pause < threshold for pause, threshold in zip(pauses, min_pauses)):
        problems.append("retries did not back off")
    if leftover:
        problems.append(f"containers left over or missing: {leftover}")
    return [f"{fault.name}: {problem}" for problem in problems]


def untagged_image(drill: FailureDrill) -> list[str]:
    """Untag the image; check that Docker does not remove it and that scaling continues."""
    eventually(drill.is_initial_state, 240, every=1)
    (image,) = drill.bank.inspect("{{.Image}}", drill.bank.containers(SERVICE)[0])
    named = drill.bank.docker("inspect", "--format", '{{join .RepoTags " "}}', image).split()
    # Only the tags of this stack; another stack may have moved `latest`.
    names = [name for name in named if not name.endswith(":latest")]
    drill.bank.docker("rmi", "--force", *names)
    try:
        with suppress(AssertionError):
            drill.bank.docker("rmi", "--force", image)
            return [f"Docker removed the image {names} of running containers"]
        drill.load.rate = HIGH
        started = time.time()
        eventually(lambda: drill.stack.status()["ready"] > INITIAL_REPLICAS, 150, every=1)
        took = time.time() - started
        info(f"image untagged, not removed by Docker; new replica ready after {took:.0f} s")
        return []
    finally:
        drill.load.rate = LOW
        for name in names:
            drill.bank.docker("tag", image, name)


def main() -> int:
    """Start a stack, inject every fault, and stop the stack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="OPERATION", help="faults of one operation: observe, create, start or health")
    options = parser.parse_args()
    faults = [fault for fault in FAULTS if options.only in (None, fault.operation)]
    with tempfile.TemporaryDirectory(prefix="bank-drill-") as folder:
        socket = Path(folder) / "docker.sock"
        with faulty_docker(socket) as docker:
            bank = ComposedBank(Path(folder), DOCKER_SOCKET=str(socket), **SETTINGS)
            try:
                with open_loop(bank, LOW, workers=16) as load:
                    drill = FailureDrill(bank, docker, load)
                    print(format_row("fault", "counted", "notified after", "attempts after", "left over"), flush=True)
                    progress = Progress("drill autoscale_failures", len(faults) + 1)
                    problems = []
                    for fault in faults:
                        progress.step(fault.name)
                        problems += run(drill, fault)
                    progress.step("the image is untagged")
                    problems += untagged_image(drill)
                info(f"{len(load.failed)} of {load.sent} requests failed")
                problems += [f"failed request: {line}" for line in load.failed[:5]]
                bank.assert_ledger_is_sound()
            finally:
                bank.close()
    return exit_code(problems)


if __name__ == "__main__":
    sys.exit(main())
