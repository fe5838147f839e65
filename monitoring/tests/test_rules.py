"""Alert rules pass promtool's tests; each alert has a firing test, a quiet test and a runbook."""

import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pycountry
import pytest
import yaml

from shared.testing.paths import ROOT
from shared.currencies import NO_MINOR_UNIT, decimals

RULES = ROOT / "monitoring" / "rules"
RUNBOOKS = ROOT / "docs" / "runbooks"
SECTIONS = ["Meaning", "Impact", "Diagnosis", "Mitigation", "Drill"]
FILES = sorted(RULES.glob("*.yml"))
TESTS = sorted((RULES / "tests").glob("*.yml"))
# Written by scripts/stack/stack_files.py for each stack.
OF_THE_STACK = {"service:replicas:configured", "service:cpu:limit_cores", "service:memory:limit_bytes"}


def rules() -> list[dict[str, Any]]:
    """Return all rules."""
    groups = [group for file in FILES for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = [rule for rule in rules() if "alert" in rule]
NAMES = sorted({rule["alert"] for rule in ALERTS})
RECORDED = {rule["record"] for rule in rules() if "record" in rule} | OF_THE_STACK


@pytest.fixture(scope="session")
def promtool() -> str:
    """Path of promtool; skips the test if it is not installed."""
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed; on Debian: apt-get install prometheus")
    return found


def run(*command: str | Path) -> None:
    """Run a program and require exit code 0."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]


def cases() -> dict[str, set[str]]:
    """Return whether each alert is tested firing, quiet or both."""
    found: dict[str, set[str]] = defaultdict(set)
    for file in TESTS:
        for test in yaml.safe_load(file.read_text(encoding="utf-8"))["tests"]:
            for case in test["alert_rule_test"]:
                found[case["alertname"]].add("firing" if case["exp_alerts"] else "quiet")
    return found


def test_rules_are_valid(promtool: str) -> None:
    run(promtool, "check", "rules", *FILES)


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_rules_pass_their_promtool_tests(promtool: str, file: Path) -> None:
    run(promtool, "test", "rules", file)


def test_money_moved_uses_the_decimals_of_every_currency() -> None:
    (rule,) = (rule for rule in rules() if rule.get("record") == "currency_type:money_moved:rate1m")
    none, three, four = (set(codes.split("|")) for codes in re.findall(r'=~"([A-Z|]+)"', rule["expr"]))
    for currency in pycountry.currencies:
        code = currency.alpha_3
        if code not in NO_MINOR_UNIT:
            assert (code in none, code in three, code in four) == tuple(decimals(code) == n for n in (0, 3, 4)), code


def test_every_alert_is_tested_firing_and_quiet() -> None:
    both = {name: {"firing", "quiet"} for name in NAMES}
    # Always firing.
    both["Watchdog"] = {"firing"}
    assert cases() == both


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_alert_compares_a_recorded_series_and_has_a_runbook(rule: dict[str, Any]) -> None:
    if rule["alert"] != "Watchdog":
        found = re.fullmatch(r"([a-zA-Z0-9_:]+)(\{[^}]*\})? [<>] [0-9. *]+", rule["expr"])
        assert found is not None and found[1] in RECORDED, rule["expr"]
    assert rule["labels"]["severity"] in {"page", "ticket", "info"}
    annotations = rule["annotations"]
    assert annotations.keys() == {"summary", "description", "runbook_url"}
    assert annotations["runbook_url"] == f"{{{{ $externalLabels.runbooks }}}}/{rule['alert']}.md"


@pytest.mark.parametrize("name", NAMES)
def test_every_alert_has_a_runbook_with_all_sections(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {name}\n")
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    assert parts[1::2] == SECTIONS
    assert all(part.strip() for part in parts[2::2]), "a section is empty"


def test_every_runbook_belongs_to_an_alert() -> None:
    assert _stems(RUNBOOKS.glob("*.md")) == set(NAMES)


def _stems(files: Iterable[Path]) -> set[str]:
    return {file.stem for file in files}
