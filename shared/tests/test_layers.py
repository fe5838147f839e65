"""The check of imports detects what it has to."""

from pathlib import Path

import pytest

from shared.testing.layers import impure_imports, upward_imports

LAYERS = [["api", "consumer"], ["storage"], ["models"], ["domain"]]


def write(app: Path, **files: str) -> Path:
    """Write the modules of a service; `__` in a name separates package and module."""
    for name, text in files.items():
        file = app / f"{name.replace('__', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return app


def test_downward_imports_and_those_of_the_own_package_are_allowed(tmp_path: Path) -> None:
    write(tmp_path, api="from app.storage import queries\nimport app.models", models="from shared import ids")
    write(tmp_path, storage__queries="from app.storage.ranges import gaps\nfrom app.domain import model")
    assert upward_imports(write(tmp_path, storage__ranges="", domain__model=""), LAYERS) == []


@pytest.mark.parametrize(
    ("line", "target"),
    [
        ("from app import models", "models"),
        ("import app.api", "api"),
        ("from app.storage.queries import x", "storage.queries"),
    ],
)
def test_an_upward_import_is_detected(tmp_path: Path, line: str, target: str) -> None:
    write(tmp_path, domain__model=line, models="", api="", storage__queries="")
    assert upward_imports(tmp_path, LAYERS) == [f"domain.model imports {target}"]


def test_an_import_across_a_layer_is_detected(tmp_path: Path) -> None:
    write(tmp_path, api="from app.consumer import x", consumer="")
    assert upward_imports(tmp_path, LAYERS) == ["api imports consumer"]


def test_a_module_without_a_layer_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="jobs is in no layer"):
        upward_imports(write(tmp_path, jobs=""), LAYERS)


def test_an_impure_import_is_detected(tmp_path: Path) -> None:
    write(tmp_path, domain__model="import math\nfrom sqlalchemy import select", api="import time")
    assert impure_imports(tmp_path, ["domain"]) == ["domain.model imports sqlalchemy"]
