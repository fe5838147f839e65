"""pin-images.sh adds digests to base images and leaves service images unchanged."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from shared.testing.paths import ROOT

# A registry with all images except the service images.
_DOCKER = """#!/bin/sh
case $4 in bank/*) exit 1 ;; esac
echo "Name: $4"
echo "Digest: sha256:%s"
"""


def test_base_images_are_pinned_and_the_services_own_are_not(tmp_path: Path) -> None:
    (tmp_path / "scripts" / "images").mkdir(parents=True)
    shutil.copy(ROOT / "scripts/images/pin-images.sh", tmp_path / "scripts" / "images")
    shutil.copy(ROOT / ".env", tmp_path)
    (tmp_path / "docker").write_text(_DOCKER % ("a" * 64), encoding="utf-8")
    (tmp_path / "docker").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for _ in range(2):
        subprocess.run([tmp_path / "scripts/images/pin-images.sh"], env=environment, check=True, capture_output=True)
    before, after = (
        dict(re.findall(r"^([A-Z_]+_IMAGE)=(.*)$", (folder / ".env").read_text(encoding="utf-8"), re.MULTILINE))
        for folder in (ROOT, tmp_path)
    )
    own = {name for name in before if "_SERVICE_" in name}
    assert len(own) == 8 and {name: after[name] for name in own} == {name: before[name] for name in own}
    assert all(after[name] == f"{before[name]}@sha256:{'a' * 64}" for name in before.keys() - own)
