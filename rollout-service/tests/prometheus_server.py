"""A Prometheus server for tests, and fake replicas for it to scrape."""

import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import yaml

from shared.testing.ports import free_port
from shared.testing.timing import BUSY_SECONDS

SCRAPE_SECONDS = 1
LES = ("0.01", "0.1", "1.0", "2.5", "5.0", "+Inf")


def wait_until(condition: Callable[[], bool], seconds: float = BUSY_SECONDS) -> None:
    """Wait until a condition holds. Raises AssertionError on timeout."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.1)


@dataclass
class Replica:
    """A fake replica of a service: an exporter whose values a test sets."""

    service: str
    track: str
    version: str = "1"
    # Requests by handler and status; each took less than 0.1 s.
    requests: dict[tuple[str, str], int] = field(default_factory=dict)
    # Other series by `name{labels}`, with `{}` for no labels.
    values: dict[str, float] = field(default_factory=dict)
    healthy: bool = True
    # Tells which values Prometheus has scraped.
    generation: int = 0

    def __post_init__(self) -> None:
        replica = self

        class Handler(BaseHTTPRequestHandler):
            """Serves /metrics."""

            def do_GET(self) -> None:  # pylint: disable=invalid-name
                """Respond with the values, or with 503."""
                body = replica.text().encode()
                self.send_response(200 if replica.healthy else 503)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with suppress(BrokenPipeError):
                    self.wfile.write(body)

            def log_message(self, *_arguments: object) -> None:  # pylint: disable=arguments-differ
                """Suppress the request log."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.values.setdefault('bank_events_consumed_total{outcome="dead"}', 0)
        self.values.setdefault("bank_consumer_lag_seconds{}", 0.5)
        self.values.setdefault("process_start_time_seconds{}", 1000)
        ledger = ['bank_ledger_imbalance{currency="EUR"}', 'bank_ledger_violations_total{constraint="a"}']
        ledger += ['bank_event_mismatches_total{kind="missing"}', "bank_hold_mismatches_total{}"]
        ledger += ['bank_transactions_total{type="a",status="posted"}']
        reader = ["bank_reconciliation_mismatches{}", 'bank_history_entries_total{type="bank.entry.posted"}']
        for series in ledger if self.service == "account-service" else reader:
            self.values.setdefault(series, 0)

    @property
    def target(self) -> str:
        """Its scrape address."""
        return f"127.0.0.1:{self._server.server_port}"

    def add_requests(self, requests: int, errors: int = 0, handler: str = "/api/v1/accounts") -> None:
        """Count requests, some of them with a 500."""
        # Samples before this generation have none of them, and samples from the next one on have all.
        self.generation += 1
        for status, count in (("200", requests - errors), ("500", errors)):
            self.requests[handler, status] = self.requests.get((handler, status), 0) + count
        self.generation += 1

    def text(self) -> str:
        """Return the values in the text format, each with service, version and track."""
        common = f'service="{self.service}",version="{self.version}",track="{self.track}"'
        lines = [f"test_generation{{{common}}} {self.generation}"]
        for (handler, status), count in self.requests.items():
            code = {"404": "not-found", "500": "internal-error"}.get(status, "")
            labels = f'handler="{handler}",method="GET",status="{status}",code="{code}"'
            lines.append(f"http_requests_total{{{labels},{common}}} {count}")
        for handler in {handler for handler, _ in self.requests}:
            total = sum(count for (request, _), count in self.requests.items() if request == handler)
            lines += [
                f'http_request_duration_seconds_bucket{{handler="{handler}",method="GET",le="{le}",{common}}} '
                f"{0 if le == '0.01' else total}"
                for le in LES
            ]
        for series, value in self.values.items():
            labels = series[:-1] if series.endswith("{}") else series[:-1] + ","
            lines.append(f"{labels}{common}}} {value}")
        return "\n".join(lines) + "\n"

    def close(self) -> None:
        """Stop the exporter."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class PrometheusServer:
    """A Prometheus on the loopback address that scrapes replicas every second."""

    def __init__(self, binary: str, folder: Path) -> None:
        self._folder = folder
        self.url = f"http://127.0.0.1:{free_port()}"
        self._client = httpx.Client(base_url=self.url, timeout=BUSY_SECONDS)
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
        wait_until(self._ready)

    def _ready(self) -> bool:
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def scrape(self, replicas: list[Replica]) -> None:
        """Scrape these replicas from now on, as if DNS returned them."""
        targets = [
            {"targets": [one.target], "labels": {"service": one.service, "track": one.track}} for one in replicas
        ]
        temporary = self._folder / "targets.tmp"
        temporary.write_text(yaml.safe_dump(targets))
        temporary.replace(self._folder / "targets.yml")

    def total(self, expression: str, at: float | None = None) -> float:
        """Return the sum of an instant query's values, now or at a time."""
        found = self._query(f"sum({expression})", **({} if at is None else {"time": f"{at:.3f}"}))
        return float(found[0]["value"][1]) if found else 0.0

    def _query(self, expression: str, **time_: str) -> list[Any]:
        query = {"query": expression, **time_}
        found: list[Any] = self._client.get("/api/v1/query", params=query).json()["data"]["result"]
        return found

    def wait_for_scrape(self, replicas: list[Replica]) -> float:
        """Wait until Prometheus has scraped the current values of each replica, and return a time after that.

        It is one scrape interval ago: a sample has the time of the scrape's start, and on a busy machine may include
        later values. At that time all of these replicas are up: a scrape that takes too long makes their series stale.
        """
        time.sleep(2 * SCRAPE_SECONDS)
        for replica in replicas:
            replica.generation += 1
        at = 0.0

        def all_scraped() -> bool:
            nonlocal at
            at = time.time() - SCRAPE_SECONDS
            return all(self._has_scraped(replica, replica.generation, at) for replica in replicas)

        wait_until(all_scraped)
        return at

    def first_scrape(self, replica: Replica, generation: int) -> float:
        """Return the time of the first sample with these or later values of a replica."""
        (series,) = self._query(f'test_generation{{instance="{replica.target}"}}[1h]')
        return min(float(at) for at, value in series["values"] if float(value) >= generation)

    def first_time(self, generations: list[tuple[Replica, int]], since: float) -> float:
        """Return the first time since another one at which each replica has these or later values."""
        at = since
        while not all(self._has_scraped(*generation, at) for generation in generations):
            at += 0.1
        return at

    def _has_scraped(self, replica: Replica, generation: int, at: float) -> bool:
        """Return whether a replica is up at a time, with these or later values."""
        selector = f'{{instance="{replica.target}"}}'
        is_up = bool(self.total(f"up{selector}", at))
        return is_up and self.total(f"test_generation{selector}", at) >= generation

    def wait_until_down(self, replica: Replica) -> None:
        """Wait until a scrape of a replica has failed."""
        wait_until(lambda: not self.total(f'up{{instance="{replica.target}"}}'))

    def wait_until_forgotten(self, replica: Replica) -> None:
        """Wait until Prometheus has dropped a replica, which takes some seconds."""
        wait_until(lambda: not self.total(f'count(up{{instance="{replica.target}"}})'))

    def close(self) -> None:
        """Stop the server."""
        self._client.close()
        self._process.terminate()
        self._process.wait(BUSY_SECONDS)
