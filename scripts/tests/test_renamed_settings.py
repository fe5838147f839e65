"""Old names of settings are rejected wherever they are read, and CHANGELOG.md lists the same ones."""

import os
import re
import subprocess
import sys

from shared.runtime.renamed_settings import RENAMED, VARIABLES, renamed
from shared.testing.paths import ROOT


def test_the_changelog_lists_the_same_names() -> None:
    text = (
        (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").partition("\nSettings (")[2].partition("\nCommand line")[0]
    )
    rows = [re.findall(r"[A-Z][A-Z0-9_]+[A-Z]", line) for line in text.splitlines() if line.startswith("| ")][1:]
    listed = {old: new for row in rows for old, new in zip(row[: len(row) // 2], row[len(row) // 2 :])}
    assert listed == {**RENAMED, **VARIABLES}


def test_new_names_exist() -> None:
    settings = "".join(
        (ROOT / f"{name}-service" / "app" / "settings.py").read_text() for name in ("autoscale", "rollout")
    )
    assert [new for new in RENAMED.values() if f"    {new.lower()}: " not in settings] == []
    stack = (ROOT / ".env").read_text(encoding="utf-8")
    assert [new for new in VARIABLES.values() if f"\n{new}=" not in stack] == []


def test_only_settings_of_the_service_and_their_files_count() -> None:
    names = ["down_window", "UP_RATE_FILE", "BACKOFF", "DOWN_WINDOWS", "HOME"]
    assert renamed(names, ["scale_down_stabilization_seconds", "scale_up_policy"]) == [
        "UP_RATE_FILE was renamed to SCALE_UP_POLICY_FILE",
        "down_window was renamed to SCALE_DOWN_STABILIZATION_SECONDS",
    ]


def test_the_composed_stack_is_not_started_with_an_old_name() -> None:
    environment = {**os.environ, "AUTOSCALE_DOWN_WINDOW": "20", "AUTOSCALE_UP_RATE": "[4,100,15]"}
    done = subprocess.run(
        ["scripts/stack/up.sh"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    for old in ("AUTOSCALE_DOWN_WINDOW", "AUTOSCALE_UP_RATE"):
        assert f"{old} was renamed to {VARIABLES[old]}" in done.stdout + done.stderr


def test_the_deployment_checks_its_variables_without_any_package() -> None:
    tasks = (ROOT / "ansible/roles/banking_app/tasks/preflight.yml").read_text(encoding="utf-8")
    assert "'shared.runtime.renamed_settings']\n         + banking_app_configured_variables.keys()" in tasks
    command = [sys.executable, "-S", "-m", "shared.runtime.renamed_settings"]
    assert subprocess.run([*command, "TLS", *VARIABLES.values()], cwd=ROOT, check=False).returncode == 0
    done = subprocess.run(
        [*command, "TLS", "AUTOSCALE_DOWN_RATE"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "AUTOSCALE_DOWN_RATE was renamed to AUTOSCALE_SCALE_DOWN_POLICY\n")
