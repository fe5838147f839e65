"""The scripts that evaluate scanners run as scripts, from any folder and without a virtual environment."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from scripts import check_vulnerabilities
from scripts.tests import recorded
from shared.testing.paths import ROOT

_BARE_PYTHON = shutil.which("python3", path="/usr/bin:/bin") or shutil.which("python3")
_REPORTS = {
    "check_bandit_results.py": ("{folder}/bandit.json",),
    "check_vulnerabilities.py": ("--pip-audit", "{folder}/audit.json"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a report of each scanner."""
    bandit = {"errors": [], "results": [], "metrics": {"_totals": {}, "app/main.py": {}}}
    (tmp_path / "bandit.json").write_text(json.dumps(bandit), encoding="utf-8")
    (tmp_path / "audit.json").write_text(json.dumps(recorded.pip_audit()), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("script", _REPORTS)
@pytest.mark.parametrize("elsewhere", [False, True], ids=["from-the-root", "from-elsewhere"])
def test_a_script_needs_neither_a_folder_nor_a_library(folder: Path, script: str, elsewhere: bool) -> None:
    file = str(ROOT / "scripts" / script) if elsewhere else f"scripts/{script}"
    words = [part.format(folder=folder) for part in _REPORTS[script]]
    done = subprocess.run(
        # -S: without site-packages.
        [str(_BARE_PYTHON), "-S", file, *words],
        cwd=folder if elsewhere else ROOT,
        env={},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


_NUMBERS = st.integers(0, 3)
_VERSIONS = st.builds(
    lambda epoch, release, pre, post, dev: f"{epoch}{'.'.join(map(str, release))}{pre}{post}{dev}",
    st.sampled_from(["", "1!"]),
    st.lists(_NUMBERS, min_size=1, max_size=4),
    st.one_of(st.just(""), st.builds("{}{}".format, st.sampled_from(["a", "b", "rc", ".alpha", "-c"]), _NUMBERS)),
    st.one_of(st.just(""), st.builds(".post{}".format, _NUMBERS), st.just("-1")),
    st.one_of(st.just(""), st.builds(".dev{}".format, _NUMBERS)),
)


@given(st.lists(_VERSIONS, min_size=2, max_size=6))
def test_versions_are_ordered_as_packaging_orders_them(versions: list[str]) -> None:
    def key(text: str) -> tuple[object, ...]:
        found = check_vulnerabilities._version(text)  # pylint: disable=protected-access
        assert found is not None
        return found

    for one in versions:
        for other in versions:
            assert (key(one) < key(other)) == (Version(one) < Version(other)), (one, other)
            assert (key(one) == key(other)) == (Version(one) == Version(other)), (one, other)


@pytest.mark.parametrize("text", ["3.5.1-1~deb13u2", "", "latest", "1.0-", "1:2.3"])
def test_versions_of_other_systems_are_not_ordered(text: str) -> None:
    assert check_vulnerabilities._version(text) is None  # pylint: disable=protected-access
