"""Imports inside rollout-service run one way, and its decisions are pure."""

from pathlib import Path

from shared.testing.layers import impure_imports, upward_imports

APP = Path(__file__).parent.parent / "app"
LAYERS = [
    ["__main__", "docker_proxy"],
    ["main", "cli", "analysis.__main__"],
    ["api", "controller", "readiness", "analysis.runner"],
    [
        "clock",
        "containers",
        "nginx",
        "notify",
        "selection",
        "state_file",
        "synthetic",
        "contract_probe",
        "settings",
        "analysis.records",
        "analysis.samples",
    ],
    ["state_machine", "prometheus", "analysis.verdict", "contract"],
    ["analysis", "rollout_request"],
]
PURE = ["state_machine", "rollout_request", "analysis.model", "analysis.outcome_mix", "analysis.verdict"]


def test_imports_run_one_way() -> None:
    assert upward_imports(APP, LAYERS) == []


def test_decisions_have_no_clock_network_or_database() -> None:
    assert impure_imports(APP, PURE) == []
