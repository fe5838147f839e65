"""A checkout with a strict umask works: what containers read is made readable, nothing else."""

import subprocess
from pathlib import Path

from shared.testing.paths import ROOT


def _make_readable(folder: Path) -> None:
    script = ". scripts/stack/stack_env.sh; make_readable " + str(folder)
    subprocess.run(["bash", "-euc", script], cwd=ROOT, check=True)


def test_files_of_a_strict_umask_become_readable(tmp_path: Path) -> None:
    folder = tmp_path / "monitoring" / "rules"
    folder.mkdir(mode=0o700, parents=True)
    for name, mode in {"rules.yml": 0o600, "start.sh": 0o700, "open.yml": 0o644}.items():
        (folder / name).touch()
        (folder / name).chmod(mode)
    folder.parent.chmod(0o700)
    (folder / "link").symlink_to("/etc/shadow")
    secret = tmp_path / "secret"
    secret.touch()
    secret.chmod(0o600)
    _make_readable(folder.parent)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (folder.parent, folder, *folder.glob("*.*"), secret)}
    assert modes == {
        "monitoring": 0o755,
        "rules": 0o755,
        "rules.yml": 0o644,
        "start.sh": 0o755,
        "open.yml": 0o644,
        "secret": 0o600,
    }


def test_every_mounted_folder_is_made_readable() -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    mounted = {word.split("/")[1].split(":")[0] for word in text.split() if word.strip('"[-').startswith("./")}
    (line,) = (
        line for line in (ROOT / "scripts/stack/up.sh").read_text("utf-8").splitlines() if "make_readable" in line
    )
    assert mounted == set(line.split()[1:])


def test_services_can_read_their_code() -> None:
    for file in ROOT.glob("*-service/Dockerfile"):
        lines = file.read_text(encoding="utf-8").splitlines()
        copied = max(number for number, line in enumerate(lines) if line.startswith("COPY") and " /app/" in line)
        assert lines[copied + 2].startswith("RUN chmod -R go+rX /app"), file
