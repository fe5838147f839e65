"""The rendered diagrams in docs/diagrams are up to date with their sources."""

import shutil
import subprocess
from pathlib import Path

from shared.testing.paths import ROOT


def check(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [root / "scripts" / "docs" / "diagrams.sh", "--check"], capture_output=True, text=True, check=False
    )


def test_every_picture_is_of_its_source() -> None:
    done = check(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_source_that_changes_a_picture_that_changes_and_one_never_drawn_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "scripts" / "docs").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "docs" / "diagrams.sh", tmp_path / "scripts" / "docs")
    folder = tmp_path / "docs" / "diagrams"
    shutil.copytree(ROOT / "docs" / "diagrams", folder)
    assert check(tmp_path).returncode == 0
    for name in ("transfer.dot", "transfer.png", "pipeline_architecture.dot"):
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(before + b"\n")
        done = check(tmp_path)
        assert done.returncode == 1 and "make diagrams" in done.stderr and name in done.stdout + done.stderr
        (folder / name).write_bytes(before)
    (folder / "new.dot").write_text("digraph {}", encoding="utf-8")
    assert check(tmp_path).returncode == 1
