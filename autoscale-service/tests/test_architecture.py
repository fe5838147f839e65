"""Imports inside autoscale-service run one way, and its decisions are pure."""

from pathlib import Path

from shared.testing.layers import impure_imports, upward_imports

APP = Path(__file__).parent.parent / "app"
LAYERS = [
    ["__main__", "docker_proxy"],
    ["main", "cli"],
    ["api", "loop", "scalers.registry"],
    ["controller", "scalers.swarm"],
    ["scalers.compose", "webhook", "metrics_client", "state"],
    ["replica", "settings"],
    ["scalers", "policy", "prometheus"],
]
PURE = ["policy", "replica"]


def test_imports_run_one_way() -> None:
    assert upward_imports(APP, LAYERS) == []


def test_decisions_have_no_clock_network_or_database() -> None:
    assert impure_imports(APP, PURE) == []
