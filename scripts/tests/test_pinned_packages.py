"""Programs that run as root are installed from a signed suite, as exactly the pinned package."""

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from shared.testing.paths import ROOT

_COSIGN = ROOT / "ansible/roles/banking_app/files/install_cosign_package.sh"
_PLUGINS = ROOT / "ansible/roles/docker/files/install_plugins.sh"
# Fake apt-get: downloads a package with this content, only of the available version.
_APT = """#!/bin/sh
case $* in
*indextargets*) echo "bookworm mirror" ;;
*" download "*)
    for last; do :; done
    [ "${last#*=}" = "$HAS" ] || exit 100
    printf %s "$CONTENT" >"${last%%=*}_x.deb" ;;
esac
"""
_DPKG_DEB = """#!/bin/sh
for program in usr/bin/cosign usr/libexec/docker/cli-plugins/docker-compose; do
    mkdir -p "$3/$(dirname $program)"; touch "$3/$program"
done
"""
_PROGRAMS = {
    "apt-get": _APT,
    "dpkg-deb": _DPKG_DEB,
    "dpkg": "#!/bin/sh\necho $ARCHITECTURE\n",
    "install": "#!/bin/sh\necho installed\n",
}
_SUM = hashlib.sha256(b"good").hexdigest()


def run(folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script with fake programs for downloading and unpacking packages."""
    for name, text in _PROGRAMS.items():
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "ARCHITECTURE": "amd64",
        "HAS": "1",
        **variables,
    }
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"CONTENT": "good"}, "installed"),
        ({"CONTENT": "evil"}, "is not the"),
        ({"CONTENT": "good", "HAS": "2"}, "no longer has"),
    ],
)
def test_only_the_package_that_is_named_is_installed(tmp_path: Path, variables: dict[str, str], said: str) -> None:
    cosign = run(tmp_path, str(_COSIGN), "sid", str(tmp_path / "cosign"), "1", _SUM, **variables)
    plugins = run(tmp_path, str(_PLUGINS), "trixie", "compose", PLUGIN_PACKAGES=f"compose=1={_SUM}", **variables)
    for done in (cosign, plugins):
        assert said in done.stdout + done.stderr and (done.returncode == 0) == (said == "installed")
        assert ("installed" in done.stdout) == (done.returncode == 0)


def test_without_a_checksum_nothing_is_fetched(tmp_path: Path) -> None:
    for variables in ({"ARCHITECTURE": "riscv64"}, {"ARCHITECTURE": "s390x"}):
        cosign = run(tmp_path, str(_COSIGN), "sid", str(tmp_path / "cosign"), CONTENT="good", **variables)
        plugins = run(tmp_path, str(_PLUGINS), "trixie", "compose", CONTENT="good", **variables)
        for done in (cosign, plugins):
            assert done.returncode == 1 and "no checksum of" in done.stderr
    unknown = run(tmp_path, str(_COSIGN), "sid", str(tmp_path / "cosign"), "9.9", CONTENT="good")
    assert unknown.returncode == 1 and "no checksum of 9.9/amd64" in unknown.stderr


def test_both_architectures_are_pinned() -> None:
    for script, count in ((_COSIGN, 1), (_PLUGINS, 2)):
        pins = re.findall(
            r"^    \[(\S+)/(amd64|arm64)\]=([0-9a-f]{64})$", script.read_text(encoding="utf-8"), re.MULTILINE
        )
        assert len(pins) == 2 * count == len({pin[2] for pin in pins})
        assert len({package for package, _, _ in pins}) == count


def test_a_machine_without_cosign_gets_it_before_it_runs(tmp_path: Path) -> None:
    installer = tmp_path / _COSIGN.relative_to(ROOT)
    wrapper = tmp_path / "scripts/release/cosign.sh"
    (tmp_path / ".venv-ops/bin").mkdir(parents=True)
    for file, content in (
        (wrapper, (ROOT / "scripts/release/cosign.sh").read_text(encoding="utf-8")),
        (installer, '#!/bin/sh\nprintf \'#!/bin/sh\\necho "cosign $*"\' >"$2" && chmod +x "$2"\n'),
    ):
        file.parent.mkdir(parents=True)
        file.write_text(content, encoding="utf-8")
        file.chmod(0o755)
    # Without the folders that may have Cosign.
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("bash", "chmod", "dirname", "realpath", "sh"):
        (programs / name).symlink_to(shutil.which(name) or name)
    done = subprocess.run([wrapper, "sign"], env={"PATH": str(programs)}, capture_output=True, text=True, check=False)
    assert done.stdout == "cosign sign\n", done.stderr
