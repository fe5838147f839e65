"""The Dockerfiles of the services differ only where listed; pin-images.sh pins base images and no others."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import yaml

from scripts.images import base_images
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


def test_images_are_those_that_dependabot_updates() -> None:
    images = base_images.references(base_images.SOURCE.read_text(encoding="utf-8"))
    settings = (ROOT / ".env").read_text(encoding="utf-8")
    assert images.keys() == {
        name for name in re.findall(r"^(\w+_IMAGE)=", settings, re.MULTILINE) if "_SERVICE_" not in name
    }
    assert base_images.updated(settings, images) == settings, "make base-images"
    # Nothing else names an image of a registry.
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    assert all(re.fullmatch(r"\$\{\w+_IMAGE\}", service["image"]) for service in compose.values())


def test_a_digest_is_kept_until_the_tag_changes() -> None:
    pinned = f"A_IMAGE=a:1@sha256:{'0' * 64}\nOTHER=a:1\n"
    assert base_images.updated(pinned, {"A_IMAGE": "a:1"}) == pinned
    assert base_images.updated(pinned, {"A_IMAGE": "a:10"}) == "A_IMAGE=a:10\nOTHER=a:1\n"


# Lines of a Dockerfile that others lack, without continuation marks: docs/adr/0018-a-dockerfile-for-each-service.md.
_MIGRATIONS = "COPY SERVICE/migrations /app/migrations"
_DIFFERENCES = {
    "account-service": {
        _MIGRATIONS,
        "# Names of countries in a hundred languages; the service asks for currencies only.",
        "rm -rf /opt/venv/lib/python*/site-packages/pycountry/locales",
    },
    "transaction-service": {_MIGRATIONS},
    "autoscale-service": {
        "# A new volume takes over the folder's owner.",
        "install -d -o 10001 -g 10001 /var/lib/autoscale",
    },
    "rollout-service": set(),
}


def test_dockerfiles_of_services_differ_only_where_listed() -> None:
    files = {folder.name: _dockerfile_lines(folder.name) for folder in ROOT.glob("*-service")}
    assert files.keys() == _DIFFERENCES.keys()
    common = {
        service: [line for line in lines if line not in _DIFFERENCES[service]] for service, lines in files.items()
    }
    assert all(lines == common["rollout-service"] for lines in common.values())
    assert all(_DIFFERENCES[service] <= set(lines) for service, lines in files.items())


def _dockerfile_lines(service: str) -> list[str]:
    text = (ROOT / service / "Dockerfile").read_text(encoding="utf-8").replace(service, "SERVICE")
    return [line.strip().removesuffix("\\").removesuffix("; ").strip() for line in text.splitlines() if line.strip()]
