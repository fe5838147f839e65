"""Imports inside transaction-service run one way, and its decisions are pure."""

from pathlib import Path

from shared.testing.layers import impure_imports, upward_imports

APP = Path(__file__).parent.parent / "app"
LAYERS = [
    ["__main__"],
    ["main", "migrate", "rebuild"],
    ["api", "webhooks_api", "consumer"],
    ["http", "schemas", "service", "webhooks"],
    ["formats"],
    ["application"],
    ["ledger_client", "webhook_client", "storage", "settings"],
    ["models", "statements"],
    ["fraud", "prometheus"],
    ["domain"],
]
PURE = ["domain", "formats", "fraud", "statements"]


def test_imports_run_one_way() -> None:
    assert upward_imports(APP, LAYERS) == []


def test_decisions_have_no_clock_network_or_database() -> None:
    assert impure_imports(APP, PURE) == []
