"""Folders of scripts/ are independent of each other, and importing a script, as its tests do, does not run it."""

from pathlib import Path

import pytest

from shared.testing.layers import imports, within
from shared.testing.paths import ROOT

FOLDERS = sorted(file.parent for file in (ROOT / "scripts").glob("*/__init__.py"))


# A faulty release is rolled out on a running stack, with configurations as the stack writes them. The hosts of a
# cluster run the same stack.
ALLOWED = {"faults": ["scripts.stack"], "cluster": ["scripts.stack"]}


def foreign_imports(folder: Path) -> list[str]:
    """Return the imports of other folders of scripts/, except its library."""
    allowed = (f"scripts.{folder.name}", "scripts.lib", *ALLOWED.get(folder.name, ()))
    return [
        f"{file.name} imports {module}"
        for file in sorted(folder.rglob("*.py"))
        for module, _ in imports(file)
        if within(module, "scripts") and not any(within(module, package) for package in allowed)
    ]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_folder_uses_its_own_modules_and_the_library(folder: Path) -> None:
    assert foreign_imports(folder) == []
    for file in folder.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert "\ndef main(" not in text or '\nif __name__ == "__main__":\n' in text, file


def test_an_import_of_another_folder_is_detected(tmp_path: Path) -> None:
    (tmp_path / "up.py").write_text("from scripts.lib import markdown\nfrom scripts.release.cosign import sign\n")
    assert foreign_imports(tmp_path) == ["up.py imports scripts.release.cosign"]
