"""Release a small image into a registry of its own, sign and attest it, then tamper with it in every way we know of.

    make release-drill

Each case says what it did and what the deploy side (scripts/verify_release.py, Docker's pull) answered. Exits 1 when
one is let through, when the untouched release is refused, or when a rotation of keys loses a deployment.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from registry import Registry, alter_parts

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
# pylint: disable-next=wrong-import-position
from scripts.ports import free_port  # noqa: E402

REPOSITORY = "https://git.example/distributed-banking-ops"
_PATH = f"{os.environ['PATH']}:{ROOT}/.venv-ops/bin"
Manifest = dict[str, Any]


def run(*command: str | Path, **env: str) -> str:
    """Run a program that has to succeed; return what it prints."""
    environment = {**os.environ, "PATH": _PATH, "COSIGN_PASSWORD": "drill", **env}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
    return done.stdout


def tar_of(version: str) -> bytes:
    """Return the smallest image with a package in it."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name, text in {
            "app/version": version,
            "usr/lib/python3/dist-packages/demo-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: demo\nVersion: 1",
        }.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return target.getvalue()


class Drill:
    """A registry, two keys, and what was asked of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        port = str(free_port())
        self.environment = {"REGISTRY_DIR": str(folder / "registry"), "REGISTRY_PORT": port}
        self.address = run("scripts/local_registry.sh", "start", **self.environment).strip().splitlines()[-1]
        self.prefix = f"{self.address}/bank"
        self.registry = Registry(self.address, "bank/account-service")
        self.tags: list[str] = []
        self.failures = 0
        for name in ("first", "next"):
            run("cosign", "generate-key-pair", "--output-key-prefix", str(folder / name))

    def close(self) -> None:
        for tag in self.tags:
            subprocess.run(["docker", "rmi", "--force", tag], capture_output=True, check=False)
        run("scripts/local_registry.sh", "stop", **self.environment)

    def build(self, version: str) -> str:
        """Make and push account-service:VERSION; return it by digest."""
        tag = f"{self.prefix}/account-service:{version}"
        subprocess.run(["docker", "import", "-", tag], input=tar_of(version), capture_output=True, check=True)
        self.tags.append(tag)
        run("docker", "push", "--quiet", tag)
        shown: str = json.loads(run("docker", "image", "inspect", tag))[0]["RepoDigests"][0]
        return shown

    def release(
        self, version: str, number: int, key: str = "first", repository: str = REPOSITORY, **env: str
    ) -> Manifest:
        """Make a release as deploy.yml does."""
        self.build(version)
        target = self.folder / version / "release.json"
        settings = {
            "REGISTRY": self.prefix,
            "SERVICES": "account-service",
            "BUILD": "0",
            "VERSION": version,
            "RELEASE_NUMBER": str(number),
            "COSIGN_KEY": str(self.folder / f"{key}.key"),
            "REPOSITORY": repository,
            **env,
        }
        run("scripts/release.sh", target, **settings)
        if env.get("ATTEST") != "no":
            run("scripts/attest.sh", target, **settings)
        found: Manifest = json.loads(target.read_text(encoding="utf-8"))
        return found

    def verify(self, manifest: Manifest, keys: tuple[str, ...] = ("first", "next"), deployed: int = 0) -> str:
        """Return '' when the deploy side takes the release, otherwise what it says."""
        file = self.folder / "asked.json"
        file.write_text(json.dumps(manifest), encoding="utf-8")
        command = [sys.executable, "-m", "scripts.verify_release", str(file), "--repository", REPOSITORY]
        for key in keys:
            command += ["--key", str(self.folder / f"{key}.pub")]
        done = subprocess.run(
            [*command, "--deployed", str(deployed)],
            cwd=ROOT,
            env={**os.environ, "PATH": _PATH},
            capture_output=True,
            text=True,
            check=False,
        )
        return "" if done.returncode == 0 else done.stderr.strip() or "it says nothing"

    def expect(self, what: str, answer: str, refused: bool, reason: str = "") -> None:
        """Print and count one case; a refusal has to be for the reason that the case is about."""
        good = bool(answer) == refused and reason in answer
        self.failures += not good
        said = answer.splitlines()[0].removeprefix("release: REFUSED: ")[:150] if answer else "taken"
        print(f"{'ok    ' if good else 'MISSED'} {what}: {said}", flush=True)


def digest_of(image: str) -> str:
    """Return the digest of an image that is named by it."""
    return image.rpartition("@")[2]


def with_image(manifest: Manifest, image: str) -> Manifest:
    """Return the release with another image in it."""
    changed: Manifest = json.loads(json.dumps(manifest))
    changed["banking_app_release"]["images"]["account-service"] = image
    return changed


def altered_layer(drill: Drill, manifest: Manifest) -> str:
    """Change a byte of the layer where the registry keeps it; return what Docker says to pulling it, '' if nothing."""
    image = manifest["banking_app_release"]["images"]["account-service"]
    layer = drill.registry.manifest_layers(digest_of(image))[0].removeprefix("sha256:")
    blob = drill.folder / "registry/images/docker/registry/v2/blobs/sha256" / layer[:2] / layer / "data"
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.write_bytes(content)
    for tag in drill.tags:
        subprocess.run(["docker", "rmi", "--force", tag, image], capture_output=True, check=False)
    done = subprocess.run(["docker", "pull", image], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def tamper(drill: Drill, good: Manifest) -> None:
    """The twelve cases."""
    image = good["banking_app_release"]["images"]["account-service"]
    unsigned = drill.build("unsigned")
    drill.expect("1 unsigned", drill.verify(with_image(good, unsigned)), True, "no signature")
    run("cosign", "generate-key-pair", "--output-key-prefix", str(drill.folder / "stranger"))
    wrong = drill.release("stranger", 200, key="stranger")
    drill.expect("2 signed with a wrong key", drill.verify(wrong), True, "no signature")
    run("docker", "tag", unsigned, f"{drill.prefix}/account-service:good")
    run("docker", "push", "--quiet", f"{drill.prefix}/account-service:good")
    drill.expect("3 tag moved: what it names now", drill.verify(with_image(good, unsigned)), True, "no signature")
    drill.expect("  and the release itself, by digest", drill.verify(good), False)
    drill.registry.attach(digest_of(image), digest_of(unsigned))
    drill.expect("4 signature copied to another digest", drill.verify(with_image(good, unsigned)), True, "no signature")
    bad_parts = drill.release("parts", 201)
    own = digest_of(bad_parts["banking_app_release"]["images"]["account-service"])
    # Attached again as it was, so that what is refused below is refused for what was altered.
    drill.registry.attach(own, own)
    drill.expect("  a release with everything attached again", drill.verify(bad_parts), False)
    if not drill.registry.attach(own, own, alter_parts):
        raise RuntimeError("the drill found no list of parts to alter")
    drill.expect("6 list of parts altered", drill.verify(bad_parts), True, "list of parts")
    bare = drill.release("bare", 202, ATTEST="no")
    parts = drill.folder / "parts" / "account-service.cdx.json"
    bare_image = bare["banking_app_release"]["images"]["account-service"]
    signing = drill.folder / "signing.json"
    run("cosign", "signing-config", "create", "--out", signing)
    signs = ("--key", str(drill.folder / "first.key"), "--signing-config", str(signing))
    run("cosign", "attest", "--yes", *signs, "--type", "cyclonedx", "--predicate", parts, bare_image)
    drill.expect("7 provenance missing", drill.verify(bare), True, "no attested provenance")
    other = drill.release("other", 203, repository="https://git.example/somebody-else")
    drill.expect("8 provenance of another repository", drill.verify(other), True, "its provenance is not")
    drill.expect("9 downgrade", drill.verify(good, deployed=150), True, "downgrade")
    newer: Manifest = json.loads(json.dumps(good))
    newer["banking_app_release"]["release"] = 300
    drill.expect("  with its number edited", drill.verify(newer, deployed=150), True, "no signature")
    drill.expect("10 key rotated out", drill.verify(good, keys=("next",)), True, "no signature")
    edited: Manifest = json.loads(json.dumps(good))
    edited["banking_app_release"]["commit"] = "0" * 40
    drill.expect("11 manifest edited: commit", drill.verify(edited), True, "no signature")
    swapped: Manifest = json.loads(json.dumps(good))
    swapped["banking_app_release"]["images"] = {"transaction-service": image}
    drill.expect("   another service's image", drill.verify(swapped), True, "no signature")
    tagged = f"{drill.prefix}/account-service:good"
    drill.expect("12 digest missing", drill.verify(with_image(good, tagged)), True, "not named by its digest")
    drill.expect("5 layer altered: Docker pulls it", altered_layer(drill, good), True)


def rotate(drill: Drill, good: Manifest) -> None:
    """The next key comes into force without a deployment lost."""
    after = drill.release("after", 110, key="next")
    drill.expect("rotation: old key, both trusted", drill.verify(good), False)
    drill.expect("rotation: next key, both trusted", drill.verify(after), False)
    drill.expect("rotation: next key, old one out", drill.verify(after, keys=("next",)), False)


def main() -> int:
    """Run the drill and say how it went."""
    started = time.monotonic()
    steps: list[Callable[[Drill, Manifest], None]] = [rotate, tamper]
    with tempfile.TemporaryDirectory() as folder:
        drill = Drill(Path(folder))
        try:
            good = drill.release("good", 100)
            drill.expect("the release as it is", drill.verify(good), False)
            for step in steps:
                step(drill, good)
        finally:
            drill.close()
    seconds = time.monotonic() - started
    print(f"{drill.failures} cases missed (bar: 0), {seconds:.0f} s")
    return 1 if drill.failures else 0


if __name__ == "__main__":
    sys.exit(main())
