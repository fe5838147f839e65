"""Imports inside the service run one way, as its README lists them, and decisions are deterministic."""

import re
from pathlib import Path

import pytest

from shared.testing.layers import imports, modules, upward_imports, within

APP = Path(__file__).parent.parent / "app"
# By layer of the README, and within it, from the top down: a module imports from its own package and from lower ranks.
LAYERS = {
    "entry points": [["__main__"], ["main", "migrate", "public_keys", "verify"]],
    "interfaces": [["api", "consumer", "jobs"], ["http"], ["schemas"]],
    "application": [["service"], ["application"]],
    "decisions, storage": [["ledger", "storage"], ["decisions", "models"], ["storage.triggers"]],
    "domain": [["domain", "prometheus", "settings"], ["transparency"]],
}
RANKS = [rank for ranks in LAYERS.values() for rank in ranks]
DETERMINISTIC = ["ledger", "decisions", "domain"]
# All that decisions may use besides the standard library's types.
DETERMINISTIC_IMPORTS = {
    "dataclasses",
    "datetime",
    "typing",
    "collections.abc",
    "major_units",
    "rfc3339",
    "Caller",
    "metadata_member",
    "optional_members",
}


def test_imports_run_one_way() -> None:
    assert upward_imports(APP, RANKS) == []


def test_the_readme_lists_the_layers() -> None:
    readme = (APP.parent / "README.md").read_text(encoding="utf-8")
    cells = [line.strip("| ").split(" | ") for line in readme.splitlines() if line.startswith("| ")]
    documented = {row[0]: re.findall(r"`([a-z_]+)(?:\.py|/)`", row[1]) for row in cells if row[0] in LAYERS}
    modules_of = {
        layer: {name for rank in ranks for name in rank if "." not in name and name != "__main__"}
        for layer, ranks in LAYERS.items()
    }
    assert list(documented) == list(LAYERS)
    assert {layer: set(names) for layer, names in documented.items()} == modules_of


def test_an_upward_import_is_detected(tmp_path: Path) -> None:
    (tmp_path / "domain").mkdir()
    file = tmp_path / "domain" / "model.py"
    file.write_text(
        "from app import schemas\nfrom app.models import outbox\nfrom app.domain.events import DomainEvent\n"
    )
    assert upward_imports(tmp_path, RANKS) == ["domain.model imports schemas", "domain.model imports models"]


@pytest.mark.parametrize("package", DETERMINISTIC)
def test_decisions_have_no_clock_network_or_database(package: str) -> None:
    files = [file for name, file in modules(APP) if within(name, package)]
    assert files
    foreign = {
        name if module.startswith("shared") else module
        for file in files
        for module, name in imports(file)
        if not any(within(module, f"app.{package}") for package in DETERMINISTIC)
    }
    assert foreign <= DETERMINISTIC_IMPORTS
