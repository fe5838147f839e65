"""What the tests are written with: a Prometheus of their own, and a bank's replicas for it to scrape."""

import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import yaml

from shared.testing.ports import free_port

SCRAPE_SECONDS = 1
LES = ("0.01", "0.1", "1.0", "2.5", "+Inf")


def until(true: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until something is true. Raises AssertionError when it does not become so."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


@dataclass
class Replica:
    """A replica of a service as Prometheus sees it: an exporter whose figures a test sets."""

    service: str
    track: str
    version: str = "1"
    # Requests by handler and status; every one of them took less than a tenth of a second.
    requests: dict[tuple[str, str], int] = field(default_factory=dict)
    # Other series, as `name{labels}`, with `{}` where there are no labels.
    figures: dict[str, float] = field(default_factory=dict)
    well: bool = True

    def __post_init__(self) -> None:
        replica = self

        class Handler(BaseHTTPRequestHandler):
            """Answers /metrics."""

            def do_GET(self) -> None:  # pylint: disable=invalid-name
                """Answer with the figures, or not."""
                body = replica.text().encode()
                self.send_response(200 if replica.well else 503)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with suppress(BrokenPipeError):
                    self.wfile.write(body)

            def log_message(self, *_arguments: object) -> None:  # pylint: disable=arguments-differ
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.figures.setdefault('bank_events_consumed_total{outcome="dead"}', 0)
        self.figures.setdefault("bank_consumer_lag_seconds{}", 0.5)
        ledger = ['bank_ledger_imbalance{currency="EUR"}', 'bank_ledger_violations_total{constraint="a"}']
        for series in ledger if self.service == "account-service" else ["bank_reconciliation_mismatches{}"]:
            self.figures.setdefault(series, 0)

    @property
    def target(self) -> str:
        """Where it answers."""
        return f"127.0.0.1:{self._server.server_port}"

    def answer(self, requests: int, errors: int = 0, handler: str = "/api/v1/accounts") -> None:
        """Count so many requests, so many of them with a 500."""
        for status, count in (("200", requests - errors), ("500", errors)):
            self.requests[handler, status] = self.requests.get((handler, status), 0) + count

    def text(self) -> str:
        """Return the figures in the text format, each with service, version and track."""
        common = f'service="{self.service}",version="{self.version}",track="{self.track}"'
        lines = []
        for (handler, status), count in self.requests.items():
            lines.append(f'http_requests_total{{handler="{handler}",method="GET",status="{status}",{common}}} {count}')
        for handler in {handler for handler, _ in self.requests}:
            total = sum(count for (one, _), count in self.requests.items() if one == handler)
            lines += [
                f'http_request_duration_seconds_bucket{{handler="{handler}",method="GET",le="{le}",{common}}} '
                f"{0 if le == '0.01' else total}"
                for le in LES
            ]
        for series, value in self.figures.items():
            labels = series[:-1] if series.endswith("{}") else series[:-1] + ","
            lines.append(f"{labels}{common}}} {value}")
        return "\n".join(lines) + "\n"

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class RealPrometheus:
    """A Prometheus on the loopback address that scrapes replicas every second."""

    def __init__(self, binary: str, folder: Path) -> None:
        self._folder = folder
        self.url = f"http://127.0.0.1:{free_port()}"
        self.scrape([])
        config = {
            "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "scrape_timeout": f"{SCRAPE_SECONDS}s"},
            "scrape_configs": [
                {
                    "job_name": "services",
                    "honor_labels": True,
                    "file_sd_configs": [{"files": ["targets.yml"], "refresh_interval": "200ms"}],
                }
            ],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        command = [binary, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        address = f"--web.listen-address={self.url.removeprefix('http://')}"
        with (folder / "log").open("w") as log:
            self._process = subprocess.Popen([*command, address], stdout=log, stderr=subprocess.STDOUT)
        until(self._ready)

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def scrape(self, replicas: list[Replica]) -> None:
        """Scrape these from now on, as if they were what DNS answers."""
        targets = [
            {"targets": [one.target], "labels": {"service": one.service, "track": one.track}} for one in replicas
        ]
        half = self._folder / "targets.half"
        half.write_text(yaml.safe_dump(targets))
        half.replace(self._folder / "targets.yml")

    def total(self, expression: str) -> float:
        """Return the sum of an instant query's values."""
        found = httpx.get(f"{self.url}/api/v1/query", params={"query": f"sum({expression})"}).json()["data"]["result"]
        return float(found[0]["value"][1]) if found else 0.0

    def settle(self, replicas: list[Replica]) -> float:
        """Wait until Prometheus knows the newest figures of each replica, and return a moment after that.

        It is one scrape ago: a scrape counts from its start, and on a busy machine may see what comes after it.
        """
        for one in replicas:
            selector = f'http_requests_total{{instance="{one.target}"}}'
            until(lambda selector=selector, one=one: self.total(selector) == sum(one.requests.values()))
        time.sleep(3.5 * SCRAPE_SECONDS)
        return time.time() - SCRAPE_SECONDS

    def forget(self, replica: Replica) -> None:
        """Wait until Prometheus does not know a replica any more; that takes it some seconds."""
        until(lambda: not self.total(f'count(up{{instance="{replica.target}"}})'))

    def close(self) -> None:
        """Stop it."""
        self._process.terminate()
        self._process.wait(20)
