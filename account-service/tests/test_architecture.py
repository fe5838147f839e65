"""Imports inside the service run one way, and the domain is pure."""

from pathlib import Path

import pytest

from shared.testing.layers import imports, modules, upward_imports, within

APP = Path(__file__).parent.parent / "app"
# From the top down: a module imports from its own package and from lower layers, never from a higher one.
LAYERS = [
    ["__main__"],
    ["main", "migrate", "verify"],
    ["api", "http", "consumer", "jobs"],
    ["schemas", "service"],
    ["application"],
    ["ledger", "storage"],
    ["models"],
    ["storage.triggers"],
    ["domain", "prometheus", "settings"],
]
PURE = ["ledger", "domain"]
# All that decisions may use besides the standard library's types.
PURE_IMPORTS = {"dataclasses", "datetime", "typing", "collections.abc", "decimals", "rfc3339", "Caller"}


def test_imports_run_one_way() -> None:
    assert upward_imports(APP, LAYERS) == []


def test_an_upward_import_is_detected(tmp_path: Path) -> None:
    (tmp_path / "domain").mkdir()
    file = tmp_path / "domain" / "model.py"
    file.write_text(
        "from app import schemas\nfrom app.models import outbox\nfrom app.domain.events import DomainEvent\n"
    )
    assert upward_imports(tmp_path, LAYERS) == ["domain.model imports schemas", "domain.model imports models"]


@pytest.mark.parametrize("package", PURE)
def test_the_domain_has_no_clock_network_or_database(package: str) -> None:
    files = [file for name, file in modules(APP) if within(name, package)]
    assert files
    foreign = {
        name if module.startswith("shared") else module
        for file in files
        for module, name in imports(file)
        if not within(module, "app.domain")
    }
    assert foreign <= PURE_IMPORTS
