"""Let scaling fail under load: nothing half-made stays, the failure is counted and told, the next attempt waits.

    make drills DRILL=autoscale_failures [ARGS="--only health"]

The stack, its Docker and the way of the alert (Prometheus, Alertmanager, a receiver in Slack's place) are real. Real
are a stopped socket proxy, replicas that never get healthy (the secret with the database's address has been changed)
and an image that has lost its name. A stand-in in front of Docker's socket answers that the disk is full or an image is
missing: a disk that is really full would be this machine's, and Docker keeps the image of whatever runs.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from drills.autoscaling.autoscale import SERVICE, Autoscaled
from harness.commands import exit_code, info
from harness.composed_stack import ComposedBank
from drills.autoscaling.docker_faults import FaultyDocker, Refusal, faulty_docker
from harness.load import Load, open_loop
from harness.client import eventually

from shared.testing.progress import Progress

TARGET, START = 8, 2
LOW, HIGH = 6, 30
# The autoscaler's first pause (BACKOFF_SECONDS), and what clocks and logs may differ by.
FIRST_PAUSE, SLACK = 10, 0.5
ALERT_SECONDS = 120
SETTINGS = {
    "ACCOUNT_SERVICE_REPLICAS": str(START),
    "ACCOUNT_SERVICE_TARGET_RPS": str(TARGET),
    "AUTOSCALE_SCALE_DOWN_STABILIZATION_SECONDS": "10",
    "AUTOSCALE_SCALE_DOWN_POLICY": "[8,100,5]",
}
_FULL = "failed to create rwlayer: mkdir /var/lib/docker/overlay2/1f-init: no space left on device"


class Rehearsal:
    """The stack under load, and what fails."""

    def __init__(self, bank: ComposedBank, docker: FaultyDocker, load: Load) -> None:
        self.bank = bank
        self.stack = Autoscaled(bank)
        self.docker = docker
        self.load = load

    def containers(self) -> set[str]:
        """Return all containers of the service, also what does not run."""
        label = [f"com.docker.compose.project={self.bank.project}", f"com.docker.compose.service={SERVICE}"]
        filters = [argument for one in label for argument in ("--filter", f"label={one}")]
        return set(self.bank.docker("ps", "--all", "--quiet", "--no-trunc", *filters).split())

    def calm(self) -> bool:
        """Tell whether it is as at the start, and whatever failed is forgotten."""
        status = self.stack.status()
        return self.stack.replicas(START) and (status["failures"], status["next_try_in"]) == (0, 0)

    def told(self, service: str, operation: str, since: float) -> float | None:
        """Return when the receiver heard of a failure."""
        for message in self.bank.messages("/slack", since):
            attachment = message["body"]["attachments"][0]
            about = f"The operation {operation} on {service} has failed"
            if attachment["title"].startswith("[FIRING") and about in attachment["text"]:
                return float(message["at"])
        return None

    def counted(self, service: str, operation: str) -> float:
        """Return autoscale_failures_total, as Prometheus has it."""
        selector = f'autoscale_failures_total{{service="{service}",operation="{operation}"}}'
        return self.bank.prometheus.value(selector) or 0

    def attempts(self, service: str, operation: str, since: float) -> list[float]:
        """Return when attempts failed; of replicas that never got healthy, when they were given up and tried again."""
        found = []
        for moment, line in self.stack.told(since):
            if line["message"] == "scaling operation failed" and (line["target"], line["operation"]) == (
                service,
                operation,
            ):
                found.append(moment)
            elif operation == "health" and found and line["message"] == "scaled" and line["target"] == SERVICE:
                found.append(float(line["at"]))
        return found


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong, what the autoscaler calls it, and how it is caused; causing it returns how it ends.

    `news` is whether it is told: what has the service and operation of an alert that fires already is not told again.
    """

    name: str
    operation: str
    cause: Callable[[Rehearsal], Callable[[], object]]
    service: str = SERVICE
    news: bool = True


def stopped_proxy(drill: Rehearsal) -> Callable[[], object]:
    """Stop the only way to Docker."""
    proxy = drill.bank.containers("docker-proxy")
    drill.bank.docker("stop", *proxy)
    return lambda: drill.bank.docker("start", *proxy)


def refusing(calls: str, status: int, message: str) -> Callable[[Rehearsal], Callable[[], object]]:
    """Let the stand-in refuse calls."""

    def cause(drill: Rehearsal) -> Callable[[], object]:
        drill.docker.refusal = Refusal(calls, status, message)
        return lambda: setattr(drill.docker, "refusal", None)

    return cause


def changed_secret(drill: Rehearsal) -> Callable[[], object]:
    """Put another file in the place of a secret: what runs has the old one, what starts gets the new one."""
    secret = drill.bank.secrets / "account_database_url"
    kept = secret.with_name("kept")
    secret.rename(kept)
    secret.write_text("no address of a database", encoding="utf-8")
    secret.chmod(0o644)
    return lambda: kept.replace(secret)


FAULTS = (
    Fault("the socket proxy is stopped", "observe", stopped_proxy, service="all"),
    Fault("the image is missing", "create", refusing("POST .*/create$", 404, "No such image: sha256:1f")),
    Fault("the disk is full: create", "create", refusing("POST .*/create$", 500, _FULL), news=False),
    Fault("the disk is full: start", "start", refusing("POST .*/start$", 500, _FULL)),
    Fault("replicas never get healthy", "health", changed_secret),
)


def line(name: str, counted: str, told: str, pauses: str, left: str) -> str:
    """Return a line of the table."""
    return f"{name:28} {counted:>8} {told:>12} {pauses:>18}  {left}"


def rehearse(drill: Rehearsal, fault: Fault) -> list[str]:
    """Cause a fault under load, print what came of it, put it right; return what was not as promised."""
    eventually(drill.calm, 240, every=1)
    before, counted, began = drill.containers(), drill.counted(fault.service, fault.operation), time.time()
    attempts: list[float] = []
    told: float | None = None

    def seen() -> bool:
        nonlocal told
        attempts[:] = drill.attempts(fault.service, fault.operation, began)
        told = drill.told(fault.service, fault.operation, began)
        return len(attempts) >= 3 - (fault.operation == "health") and (told is not None or not fault.news)

    mend = fault.cause(drill)
    drill.load.rate = HIGH
    try:
        with suppress(AssertionError):
            eventually(seen, 240, every=2)
        drill.load.rate = LOW
        rise = drill.counted(fault.service, fault.operation) - counted
        # While the fault lasts: what is half made goes at once, what does not get healthy when nobody needs it.
        with suppress(AssertionError):
            eventually(lambda: drill.containers() == before, 150 if fault.operation == "health" else 10, every=1)
        left = drill.containers() ^ before
    finally:
        drill.load.rate = LOW
        mend()
    return judge(fault, attempts, told and told - (attempts or [began])[0], rise, left)


def judge(fault: Fault, attempts: list[float], told: float | None, rise: float, left: set[str]) -> list[str]:
    """Print what came of a fault and return what was not as promised."""
    pauses = [later - earlier for earlier, later in zip(attempts, attempts[1:])]
    news = "told already" if not fault.news else "never" if told is None else f"{told:.0f} s"
    waited = ", ".join(f"{pause:.0f}" for pause in pauses[:2]) + " s"
    print(line(fault.name, f"+{rise:.0f}", news, waited, f"{len(left)} containers"), flush=True)
    wrong = [] if rise > 0 else ["autoscale_failures_total did not rise"]
    if fault.news and (told is None or told > ALERT_SECONDS):
        wrong.append(f"ScalingFailed did not reach the receiver within {ALERT_SECONDS} s")
    least = [FIRST_PAUSE * 2**index - SLACK for index in range(2)]
    if not pauses or any(pause < bar for pause, bar in zip(pauses, least)):
        wrong.append("the next attempt did not wait")
    if left:
        wrong.append(f"left behind or lost: {left}")
    return [f"{fault.name}: {problem}" for problem in wrong]


def nameless_image(drill: Rehearsal) -> list[str]:
    """Take the image's name away, see that Docker does not give it up, and that scaling goes on."""
    eventually(drill.calm, 240, every=1)
    (image,) = drill.bank.inspect("{{.Image}}", drill.bank.containers(SERVICE)[0])
    named = drill.bank.docker("inspect", "--format", '{{join .RepoTags " "}}', image).split()
    # The name that it was started by; `latest` may be another stack's by now.
    names = [name for name in named if not name.endswith(":latest")]
    drill.bank.docker("rmi", "--force", *names)
    try:
        with suppress(AssertionError):
            drill.bank.docker("rmi", "--force", image)
            return [f"Docker has removed the image {names}, of which containers run"]
        drill.load.rate = HIGH
        began = time.time()
        eventually(lambda: drill.stack.status()["ready"] > START, 150, every=1)
        took = time.time() - began
        info(f"the image has lost its name, and Docker refuses to remove it: a new replica is ready after {took:.0f} s")
        return []
    finally:
        drill.load.rate = LOW
        for one in names:
            drill.bank.docker("tag", image, one)


def main() -> int:
    """Start a stack, let scaling fail in every way, and stop it."""
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
                    drill = Rehearsal(bank, docker, load)
                    print(line("fault", "counted", "told after", "attempts after", "left behind"), flush=True)
                    progress = Progress("drill autoscale_failures", len(faults) + 1)
                    wrong = []
                    for fault in faults:
                        progress.step(fault.name)
                        wrong += rehearse(drill, fault)
                    progress.step("the image loses its name")
                    wrong += nameless_image(drill)
                info(f"{len(load.lost)} of {load.sent} requests lost meanwhile")
                wrong += [f"lost: {one}" for one in load.lost[:5]]
                bank.assert_ledger_is_sound()
            finally:
                bank.close()
    return exit_code(wrong)


if __name__ == "__main__":
    sys.exit(main())
