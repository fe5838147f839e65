"""Dashboards on the composed stack: no panel asks for what is not there."""

import httpx
from harness.composed_stack import ComposedBank
from harness.promql import Count, table
from harness.client import eventually, usd
from harness.load import retrying_transfers

from monitoring.dashboards.queries import panel_queries

# Panels whose query finds nothing on a stack that is well, and why.
_NO_ROLLOUT = "only there during a rollout"
EMPTY = {
    "canary: Canary: errors A": _NO_ROLLOUT,
    "canary: Canary: requests A": _NO_ROLLOUT,
    "canary: Canary: p95 latency A": _NO_ROLLOUT,
    "canary: Canary: outcomes A": _NO_ROLLOUT,
    "canary: Canary: CPU per request A": _NO_ROLLOUT,
    "canary: Canary traffic A": _NO_ROLLOUT,
    "canary: Average duration A": _NO_ROLLOUT,
    "canary: Last verdict A": _NO_ROLLOUT,
    "canary: Verdicts A": _NO_ROLLOUT,
    "autoscaling: Current and desired replicas B": "only there in a dry run",
    "autoscaling: Failures by operation A": "only there after a failure",
    "overview: Ledger imbalance A": "only there when the ledger is broken",
}


def test_every_panel_has_data_under_load(bank: ComposedBank):
    source, target = bank.open_account(60_000_000_000), bank.open_account()
    counts: list[Count] = []

    def complete() -> bool:
        # What is seldom: a refusal, a finding of the fraud rules, and somebody who reads.
        assert bank.post("/transfers", usd(10**12, from_account=source, to_account=target)).status_code == 409
        bank.post("/transfers", usd(6_000_000, from_account=source, to_account=target))
        assert bank.client.get("/api/v1/transactions", headers=bank.headers("alice")).status_code == httpx.codes.OK
        queries = [query for query in panel_queries() if query.language == "promql"]
        counts[:] = [bank.prometheus.count(query.panel, query.expr) for query in queries]
        return {count.where for count in counts if not count.series} <= EMPTY.keys()

    with retrying_transfers(bank, source, target, clients=2):
        try:
            eventually(complete, 300)
        finally:
            print(table(counts))
    assert EMPTY.keys() <= {count.where for count in counts}, "an exception for a panel that is not there any more"
