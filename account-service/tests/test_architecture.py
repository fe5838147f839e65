"""Imports inside the service run one way, and the domain is pure."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(APP).with_suffix("").parts).removesuffix(".__init__")


def imports(file: Path) -> Iterator[tuple[str, str]]:
    """Yield module and name of each import; the name is empty for `import module`."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def layer(module: str) -> tuple[int, str]:
    """Return the rank of the layer and the package in it; the longest match wins."""
    if module == "__init__":
        return len(LAYERS), module
    matches = [
        (len(package), rank, package)
        for rank, packages in enumerate(LAYERS)
        for package in packages
        if within(module, package)
    ]
    assert matches, f"assign {module} to a layer"
    return max(matches)[1:]


def upward_imports(file: Path) -> list[str]:
    """Return the imports that go up, or across to another package of the same layer."""
    rank, package = layer(module_name(file))
    found = []
    for module, name in imports(file):
        if not within(module, "app"):
            continue
        target = module.removeprefix("app").removeprefix(".")
        if not target or (APP / target.replace(".", "/") / f"{name}.py").exists():
            target = f"{target}.{name}".removeprefix(".")
        target_rank, target_package = layer(target)
        if target_rank < rank or (target_rank == rank and target_package != package):
            found.append(target)
    return found


@pytest.mark.parametrize("file", sorted(APP.rglob("*.py")), ids=module_name)
def test_imports_run_one_way(file: Path) -> None:
    assert upward_imports(file) == []


def test_an_upward_import_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.APP", tmp_path)
    (tmp_path / "domain").mkdir()
    file = tmp_path / "domain" / "model.py"
    file.write_text(
        "from app import schemas\nfrom app.models import outbox\nfrom app.domain.events import DomainEvent\n"
    )
    assert upward_imports(file) == ["schemas", "models"]


@pytest.mark.parametrize("package", PURE)
def test_the_domain_has_no_clock_network_or_database(package: str) -> None:
    files = [file for file in APP.rglob("*.py") if within(module_name(file), package)]
    assert files
    foreign = {
        name if module.startswith("shared") else module
        for file in files
        for module, name in imports(file)
        if not within(module, "app.domain")
    }
    assert foreign <= PURE_IMPORTS
