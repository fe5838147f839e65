"""Samples read from a real Prometheus, and from failing ones."""

import math
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from app.analysis.model import INVARIANTS, Policy, ResourceCounts, Samples, TrackCounts
from app.analysis.queries import AnalysisWindow
from app.analysis.samples import MetricNames, PrometheusSamples
from app.analysis.verdict import evaluate
from tests.prometheus_server import SCRAPE_SECONDS, PrometheusServer, Replica

SERVICES = ("account-service", "transaction-service")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client."""
    async with httpx.AsyncClient() as client:
        yield client


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[PrometheusServer]:
    """A real Prometheus; skips if it is not installed."""
    binary = shutil.which("prometheus")
    if not binary:
        pytest.skip("prometheus is not installed; on Debian: apt-get install prometheus")
    running = PrometheusServer(binary, tmp_path)
    yield running
    running.close()


@pytest.fixture
def replicas() -> Iterator[list[Replica]]:
    """A stable replica and a canary of each service; the stable ones have served requests before."""
    found = [Replica(service, track) for service in SERVICES for track in ("stable", "canary")]
    for one in found:
        one.add_requests(5000, 40, "/health/ready")
        if one.track == "stable":
            one.add_requests(1000, 7)
            one.add_requests(1000, 3, "/api/v1/other")
    yield found
    for one in found:
        one.close()


def of(samples: Samples, service: str, track: str) -> TrackCounts | None:
    """Return the counts of one track."""
    found: TrackCounts | None = getattr(next(one for one in samples.services if one.service == service), track)
    return found


# A real Prometheus ----------------------------------------------------------------------------------------------------


async def test_counts_are_exact(
    prometheus: PrometheusServer, replicas: list[Replica], client: httpx.AsyncClient
) -> None:
    stable, canary, *others = replicas
    second = Replica("account-service", "stable")
    second.add_requests(50, 5)
    everyone = [*replicas, second]
    prometheus.scrape(everyone)
    began = prometheus.wait_for_scrape(everyone)
    stable.add_requests(900, 2)
    canary.add_requests(400, 1)
    for one in others:
        one.add_requests(300 if one.track == "stable" else 150)
    # One replica restarts at 0, one is removed and one added: all their requests in the step count.
    second.requests.clear()
    second.add_requests(30, 2)
    late = Replica("account-service", "stable")
    late.add_requests(40, 4)
    everyone.append(late)
    prometheus.scrape(everyone)
    prometheus.wait_for_scrape(everyone)
    prometheus.scrape(everyone[:-1])
    prometheus.wait_until_forgotten(late)
    window = AnalysisWindow(began, prometheus.wait_for_scrape(everyone[:-1]), began, warm_up=0, scrape=0)
    samples = await PrometheusSamples(prometheus.url, client).read(window)
    late.close()
    second.close()

    assert samples.seconds == window.now - began
    assert of(samples, "account-service", "stable") == counts(900 + 30 + 40, 2 + 2 + 4)
    assert of(samples, "account-service", "canary") == counts(400, 1)
    assert of(samples, "account-service", "before") == counts(2050, 15)
    assert of(samples, "transaction-service", "stable") == counts(300, 0)
    assert of(samples, "transaction-service", "canary") == counts(150, 0)
    assert samples.invariants == dict.fromkeys(INVARIANTS, 0.0)
    assert evaluate(samples, Policy(bake_seconds=0.1)).verdict == "promote"


def counts(requests: float, errors: float) -> TrackCounts:
    """Return the counts of a fake replica: each request took between 0.01 s and 0.1 s."""
    return TrackCounts(requests, errors, {"0.01": 0, **dict.fromkeys(("0.1", "1.0", "2.5", "5.0", "+Inf"), requests)})


async def test_latencies_exclude_the_warm_up(
    prometheus: PrometheusServer, replicas: list[Replica], client: httpx.AsyncClient
) -> None:
    stable, canary, *others = replicas
    prometheus.scrape(replicas)
    began = prometheus.wait_for_scrape(replicas)
    canary.add_requests(3, 1)
    for one in others:
        one.add_requests(1)
    time.sleep(4 * SCRAPE_SECONDS)
    warm_time = prometheus.wait_for_scrape(replicas)
    canary.add_requests(20)
    stable.add_requests(100)
    prometheus.wait_for_scrape(replicas)
    former = canary.generation
    canary.add_requests(500)
    stable.add_requests(4000)
    current = [(replica, replica.generation) for replica in replicas]
    time.sleep(2 * SCRAPE_SECONDS)
    prometheus.wait_for_scrape(replicas)
    # However long the scrapes took, the time between these is longer than an interval and shorter than the warm-up.
    later = prometheus.first_scrape(canary, former + 1) - 0.001
    now = prometheus.first_time(current, later + 2.5 * SCRAPE_SECONDS)
    source = PrometheusSamples(prometheus.url, client)
    window = AnalysisWindow(began, now, began, warm_up=warm_time - began, scrape=now - later)

    samples = await source.read(window)
    assert of(samples, "account-service", "canary") == replace(counts(20, 1), requests=523)
    assert of(samples, "account-service", "stable") == counts(4100, 0)
    # During the warm_time-up errors count already.
    samples = await source.read(replace(window, now=warm_time))
    assert of(samples, "account-service", "canary") == replace(counts(0, 1), requests=3)
    assert evaluate(samples, Policy()).reason == "not-enough-samples"


async def test_missing_measurements_hold(
    prometheus: PrometheusServer, replicas: list[Replica], client: httpx.AsyncClient
) -> None:
    stable, canary, *_ = replicas
    prometheus.scrape(replicas)
    began = prometheus.wait_for_scrape(replicas)
    for replica in replicas:
        replica.add_requests(1000)
    window = AnalysisWindow(began, prometheus.wait_for_scrape(replicas), began, warm_up=0, scrape=0)
    policy = Policy(bake_seconds=0.1)

    async def verdict(now: float, metrics: MetricNames = MetricNames()) -> tuple[str, str]:
        source = PrometheusSamples(prometheus.url, client, metrics=metrics)
        found = evaluate(await source.read(replace(window, now=now)), policy)
        return found.verdict, found.reason

    assert await verdict(window.now) == ("promote", "healthy")
    for name in (
        "requests",
        "durations",
        "imbalance",
        "violations",
        "mismatches",
        "consumed",
        "lag",
        "events",
        "holds",
        "entries",
        "started",
    ):
        assert await verdict(window.now, MetricNames(**{name: "bank_misspelt"})) == ("hold", "no-data"), name

    # Prometheus returns the last values for minutes, but the canary is down.
    canary.healthy = False
    prometheus.wait_until_down(canary)
    assert await verdict(prometheus.wait_for_scrape([stable])) == ("hold", "no-data")
    canary.healthy = True
    assert await verdict(prometheus.wait_for_scrape(replicas)) == ("promote", "healthy")
    # The same for a canary that is no longer in DNS.
    prometheus.scrape([replica for replica in replicas if replica is not canary])
    prometheus.wait_until_forgotten(canary)
    assert await verdict(prometheus.wait_for_scrape([stable])) == ("hold", "no-data")

    prometheus.close()
    assert await verdict(window.now) == ("hold", "no-data")


async def test_only_new_invariant_violations_count(
    prometheus: PrometheusServer, replicas: list[Replica], client: httpx.AsyncClient
) -> None:
    stable, canary, ledger_reader, canary_reader = replicas
    imbalance, mismatches = 'bank_ledger_imbalance{currency="EUR"}', "bank_reconciliation_mismatches{}"
    stable.values[imbalance] = canary.values[imbalance] = -5
    ledger_reader.values[mismatches] = 2
    prometheus.scrape(replicas)
    began = prometheus.wait_for_scrape(replicas)
    source = PrometheusSamples(prometheus.url, client)

    async def invariants() -> dict[str, float | None]:
        now = prometheus.wait_for_scrape(replicas)
        return dict((await source.read(AnalysisWindow(began, now, began))).invariants)

    assert await invariants() == dict.fromkeys(INVARIANTS, 0.0)
    stable.values[imbalance] = 7
    canary.values['bank_ledger_violations_total{constraint="a"}'] = 1
    canary_reader.values[mismatches] = 3
    canary_reader.values['bank_events_consumed_total{outcome="dead"}'] = 4
    canary_reader.values['bank_events_consumed_total{outcome="failed"}'] = 5
    canary_reader.values["bank_consumer_lag_seconds{}"] = 90.5
    canary.values["process_start_time_seconds{}"] = 1001
    stable.values['bank_event_mismatches_total{kind="missing"}'] = 6
    canary.values['bank_event_mismatches_total{kind="missing"}'] = 99
    stable.values["bank_hold_mismatches_total{}"] = 2
    canary.values["bank_hold_mismatches_total{}"] = 99
    for reader, events, entries in ((ledger_reader, 50, 0), (canary_reader, 30, 22)):
        reader.values['bank_events_consumed_total{type="bank.entry.posted",outcome="dry_run"}'] = events
        reader.values['bank_events_consumed_total{type="bank.hold.placed",outcome="dry_run"}'] = 70
        reader.values['bank_history_entries_total{type="bank.entry.posted"}'] = entries
    broken = {
        "events": 6,
        "holds": 2,
        "history": 8,
        "restart": 1,
        "ledger-imbalance": 12,
        "ledger-violation": 1,
        "reconciliation": 1,
        "dead-letters": 4,
        "consumer": 5,
    }
    assert await invariants() == {**broken, "consumer-lag": 90}
    # Dead letters of stable's consumer do not count against the canary.
    canary_reader.values['bank_events_consumed_total{outcome="dead"}'] = 0
    ledger_reader.values['bank_events_consumed_total{outcome="dead"}'] = 9
    stable.values[imbalance] = canary.values[imbalance] = math.nan
    seen = await invariants()
    assert seen["dead-letters"] == 0
    assert math.isnan(seen["ledger-imbalance"] or 0)


async def test_outcomes_are_those_of_each_version(
    prometheus: PrometheusServer, replicas: list[Replica], client: httpx.AsyncClient
) -> None:
    stable, canary, *_ = replicas
    own = 'bank_client_outcomes_total{bucket="%s",outcome="%s"}'
    stable.values[own % (3, "2xx")] = 50
    prometheus.scrape(replicas)
    began = prometheus.wait_for_scrape(replicas)
    canary.requests["/api/v1/accounts", "404"] = 40
    canary.add_requests(60)
    canary.values['bank_transactions_total{type="transfer",status="refused"}'] = 5
    canary.values['bank_transactions_total{type="transfer",status="posted"}'] = 15
    canary.values[own % (3, "404")], canary.values[own % (4, "2xx")] = 40, 60
    canary.values[own % (4, "refused")] = 5
    # Of 10 that stable answered with 404, 8 were retries; 30 more retries succeeded.
    stable.requests["/api/v1/accounts", "404"] = 10
    stable.add_requests(130)
    retried = 'http_canary_retries_total{handler="/api/v1/accounts",method="GET",canary_status="%s",status="%s"}'
    stable.values[retried % (404, 404)], stable.values[retried % (404, 200)] = 8, 30
    stable.values[retried % (500, 200)] = 0
    # The canary hung, sent nonsense and refused connections; stable failed as well.
    for canary_status, status, number in ((504, 200, 4), (504, 404, 2), (502, 201, 1), (503, 200, 9), (504, 500, 9)):
        stable.values[retried.replace("accounts", "holds") % (canary_status, status)] = number
    slow = 'http_request_duration_seconds_bucket{handler="/api/v1/holds",method="POST",le="%s"}'
    stable.values[slow % "2.5"], stable.values[slow % "5.0"], stable.values[slow % "+Inf"] = 3, 5, 8
    stable.values[own % (3, "2xx")], stable.values[own % (4, "404")] = 140, 2
    window = AnalysisWindow(began, prometheus.wait_for_scrape(replicas), began, before_seconds=60)
    found = (await PrometheusSamples(prometheus.url, client).read(window)).outcomes

    name = "404 not-found GET /api/v1/accounts"
    assert found is not None and [one.name for one in found] == [*SERVICES, "transactions"]
    requests, _, transactions = found
    assert (requests.canary_total, requests.canary) == (100, {name: 40})
    assert (requests.stable_total, requests.stable) == (pytest.approx(102), {name: pytest.approx(2)})
    assert requests.canary_clients == {"404": {"3": 40}, "2xx": {"4": 60}}
    assert requests.stable_clients == {"404": {"4": 2}, "2xx": {"3": 140}}
    assert (requests.retried, requests.unanswered) == (30, 7)
    assert requests.stable_slow == 3
    assert (transactions.canary_total, transactions.canary) == (20, {"refused transfer": 5})
    assert transactions.canary_clients == {"refused": {"4": 5}}


async def test_resources_are_compared_with_replicas_of_equal_age(
    prometheus: PrometheusServer, replicas: list[Replica], client: httpx.AsyncClient
) -> None:
    stable, canary, *_ = replicas
    fresh = Replica("account-service", "stable")
    fresh.add_requests(1)
    everyone = [*replicas, fresh]
    prometheus.scrape(everyone)
    for one, handles in ((stable, 70), (canary, 30), (fresh, 40)):
        one.values["process_open_fds{}"] = handles
        one.values["process_resident_memory_bytes{}"] = handles * 1e6
    began = prometheus.wait_for_scrape(everyone)
    window = AnalysisWindow(began, began, began - 60, warm_up=0, scrape=1)

    async def read(now: float) -> ResourceCounts:
        found = (await PrometheusSamples(prometheus.url, client).read(replace(window, now=now))).resources
        assert found is not None and [one.service for one in found] == list(SERVICES)
        return found[0]

    for le in ("0.001", "0.002", "+Inf"):
        canary.values[f'http_request_cpu_seconds_bucket{{handler="/a",method="GET",le="{le}"}}'] = 8
        canary.values[f'event_loop_lag_seconds_bucket{{le="{le}"}}'] = 3
    canary.add_requests(8, handler="/api/a")
    found = await read(prometheus.wait_for_scrape(everyone))
    assert not found.baseline and found.stable.files == 70
    assert found.canary.cpu == {"GET /a": {"0.001": 8, "0.002": 8, "+Inf": 8}}
    assert found.canary.lag == {"0.001": 3, "0.002": 3, "+Inf": 3}
    assert len(found.canary.memory) == 1 and found.canary.memory[0][0] == (0, 30e6)
    assert found.canary.memory[0][-1] == (8, 30e6)
    fresh.values["process_start_time_seconds{}"] = began - 50
    found = await read(prometheus.wait_for_scrape(everyone))
    assert found.baseline and found.stable.files == 40 and len(found.stable.memory) == 1
    fresh.close()


# Failing servers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(500, text="no"),
        httpx.Response(200, text="no JSON"),
        httpx.Response(200, json={"status": "success"}),
        httpx.Response(200, json={"data": {"result": [{"metric": {}}]}}),
        httpx.Response(200, json={"data": {"result": [{"metric": {}, "value": [1, "many"]}]}}),
        httpx.Response(200, json={"data": {"result": []}}),
        httpx.Response(200, json=[]),
    ],
)
async def test_an_unusable_response_holds(answer: httpx.Response) -> None:
    transport = httpx.MockTransport(lambda _request: httpx.Response(answer.status_code, content=answer.content))
    async with httpx.AsyncClient(transport=transport) as client:
        samples = await PrometheusSamples("http://prometheus:9090/", client).read(AnalysisWindow(100, 160, 100))
    assert evaluate(samples, Policy()).reason == "no-data"
    assert [service.service for service in samples.services] == list(SERVICES)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "no url", "http://[", "ftp://x"])
async def test_an_unreachable_prometheus_holds(url: str, client: httpx.AsyncClient) -> None:
    samples = await PrometheusSamples(url, client).read(AnalysisWindow(100, 160, 100))
    assert evaluate(samples, Policy()).reason == "no-data"


async def test_a_stale_up_does_not_count() -> None:
    def transport_with_age(age: float) -> httpx.MockTransport:
        def answer(request: httpx.Request) -> httpx.Response:
            query = httpx.QueryParams(request.content.decode())["query"]
            metric = {"service": "account-service", "track": "canary", "instance": "a", "version": "1", "le": "+Inf"}
            value = 1000 - age if query.startswith("timestamp") else 1
            return httpx.Response(200, json={"data": {"result": [{"metric": metric, "value": [0, str(value)]}]}})

        return httpx.MockTransport(answer)

    for age, measured in ((5, True), (30, False)):
        async with httpx.AsyncClient(transport=transport_with_age(age)) as client:
            samples = await PrometheusSamples("http://prometheus", client).read(AnalysisWindow(900, 1000, 900))
        assert (of(samples, "account-service", "canary") is not None) == measured


@pytest.mark.parametrize(("checked", "imbalance"), [(True, 0.0), (False, None)])
async def test_an_empty_ledger_counts_as_balanced_once_it_is_checked(checked: bool, imbalance: float | None) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        query = httpx.QueryParams(request.content.decode())["query"]
        there = checked and query.startswith("bank_check_completed_timestamp_seconds")
        result = [{"metric": {"instance": "a"}, "value": [0, "1000"]}] if there else []
        return httpx.Response(200, json={"data": {"result": result}})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        samples = await PrometheusSamples("http://prometheus", client).read(AnalysisWindow(900, 1000, 900))
    assert samples.invariants["ledger-imbalance"] == imbalance
