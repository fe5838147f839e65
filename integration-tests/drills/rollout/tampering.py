"""Release a small image to a dedicated registry, sign and attest it, then tamper with it in twelve ways.

    make release-drill [ARGS=--without-ansible]

Each case prints the manipulation and the error of the verification (scripts/release/verify_release.py) or of Docker's
pull. Then Ansible deploys a release of the real images to this machine, and rejects tampered ones. Exits 1 when a
tampered release is accepted, the unmodified one is rejected, or a key rotation breaks a deployment.
"""

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import commands
from harness.registry import ImageRepository, LocalRegistry, alter_sbom
from harness.deployed_stack import REPOSITORY, DeployedBank, Releases

from shared.testing.paths import ROOT

Manifest = dict[str, Any]


def run(*command: str | Path, **env: str) -> str:
    """Run a program and return its output; fail unless it succeeds."""
    return commands.run([str(word) for word in command], **{"COSIGN_PASSWORD": "drill", **env})


def cosign(*words: str | Path) -> None:
    """Run Cosign; fail unless it succeeds."""
    run("scripts/release/cosign.sh", *words)


def image_archive(version: str) -> bytes:
    """Return a minimal image that contains a package."""
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
    """A registry, two keys, and the number of failed cases."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry = LocalRegistry(folder / "registry")
        self.prefix = self.registry.prefix
        self.repository = ImageRepository(self.registry.address, "bank/account-service")
        self.tags: list[str] = []
        self.failures = 0
        for name in ("first", "next"):
            cosign("generate-key-pair", "--output-key-prefix", folder / name)

    def close(self) -> None:
        self.registry.close()

    def build(self, version: str) -> str:
        """Build and push account-service:VERSION; return its reference by digest."""
        tag = f"{self.prefix}/account-service:{version}"
        subprocess.run(["docker", "import", "-", tag], input=image_archive(version), capture_output=True, check=True)
        self.tags.append(tag)
        run("docker", "push", "--quiet", tag)
        reference: str = json.loads(run("docker", "image", "inspect", tag))[0]["RepoDigests"][0]
        return reference

    def release(
        self, version: str, number: int, key: str = "first", repository: str = REPOSITORY, **env: str
    ) -> Manifest:
        """Create a release like the deploy workflow."""
        self.build(version)
        target = self.folder / version / "release.json"
        settings = {
            "REGISTRY": self.prefix,
            "SERVICES": "account-service",
            "BUILD": "0",
            "REHEARSAL": "1",
            "VERSION": version,
            "RELEASE_NUMBER": str(number),
            "COSIGN_KEY": str(self.folder / f"{key}.key"),
            "REPOSITORY": repository,
            **env,
        }
        run("scripts/release/release.sh", target, **settings)
        manifest: Manifest = json.loads(target.read_text(encoding="utf-8"))
        return manifest

    def verify(
        self, manifest: Manifest, keys: tuple[str, ...] = ("first", "next"), deployed: int = 0, rehearsal: bool = True
    ) -> str:
        """Return '' if the verification accepts the release, otherwise its error."""
        file = self.folder / "verified.json"
        file.write_text(json.dumps(manifest), encoding="utf-8")
        command = [sys.executable, "-m", "scripts.release.verify_release", str(file), "--repository", REPOSITORY]
        for key in keys:
            command += ["--key", str(self.folder / f"{key}.pub")]
        done = subprocess.run(
            [*command, "--deployed", str(deployed), *(["--rehearsal"] if rehearsal else [])],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        return "" if done.returncode == 0 else done.stderr.strip() or "no message"

    def expect(self, case: str, error: str, rejected: bool, reason: str = "") -> None:
        """Print and count one case; a rejection must have the expected reason."""
        met = bool(error) == rejected and reason in error
        self.failures += not met
        message = error.splitlines()[0].removeprefix("release: REJECTED: ")[:150] if error else "accepted"
        commands.check(met, f"{case}: {message}")


def digest_of(image: str) -> str:
    """Return the digest in an image reference."""
    return image.rpartition("@")[2]


def with_image(manifest: Manifest, image: str) -> Manifest:
    """Return the release with another image."""
    changed: Manifest = json.loads(json.dumps(manifest))
    changed["banking_app_release"]["images"]["account-service"] = image
    return changed


def altered_layer(drill: Drill, manifest: Manifest) -> str:
    """Change a byte of a layer in the registry's storage; return Docker's error when pulling it, '' without one."""
    image = manifest["banking_app_release"]["images"]["account-service"]
    layer = drill.repository.manifest_layers(digest_of(image))[0].removeprefix("sha256:")
    blob = drill.folder / "registry/images/docker/registry/v2/blobs/sha256" / layer[:2] / layer / "data"
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.write_bytes(content)
    for tag in drill.tags:
        subprocess.run(["docker", "rmi", "--force", tag, image], capture_output=True, check=False)
    done = subprocess.run(["docker", "pull", image], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def tamper(drill: Drill, good: Manifest) -> None:
    """Verify twelve manipulated releases."""
    image = good["banking_app_release"]["images"]["account-service"]
    unsigned = drill.build("unsigned")
    drill.expect("1 unsigned", drill.verify(with_image(good, unsigned)), True, "no signature")
    cosign("generate-key-pair", "--output-key-prefix", drill.folder / "unknown")
    unknown = drill.release("unknown", 200, key="unknown")
    drill.expect("2 signed with an unknown key", drill.verify(unknown), True, "no signature")
    run("docker", "tag", unsigned, f"{drill.prefix}/account-service:good")
    run("docker", "push", "--quiet", f"{drill.prefix}/account-service:good")
    drill.expect("3 tag moved: its new image", drill.verify(with_image(good, unsigned)), True, "no signature")
    drill.expect("  the release itself, by digest", drill.verify(good), False)
    drill.repository.attach(digest_of(image), digest_of(unsigned))
    drill.expect("4 signature copied to another digest", drill.verify(with_image(good, unsigned)), True, "no signature")
    attested = drill.release("attested", 201)
    attested_digest = digest_of(attested["banking_app_release"]["images"]["account-service"])
    # Attach them unchanged first, so that the following rejections are caused by the changes.
    drill.repository.attach(attested_digest, attested_digest)
    drill.expect("  the same attestations attached again", drill.verify(attested), False)
    if not drill.repository.attach(attested_digest, attested_digest, alter_sbom):
        raise RuntimeError("no SBOM to alter found")
    drill.expect("6 SBOM altered", drill.verify(attested), True, "SBOM")
    bare = drill.release("bare", 202, ATTEST="0")
    sbom = drill.folder / "attested" / "account-service.cdx.json"
    bare_image = bare["banking_app_release"]["images"]["account-service"]
    signing = drill.folder / "signing.json"
    cosign("signing-config", "create", "--out", signing)
    signing_options = ("--key", str(drill.folder / "first.key"), "--signing-config", str(signing))
    cosign("attest", "--yes", *signing_options, "--type", "cyclonedx", "--predicate", sbom, bare_image)
    drill.expect("7 provenance missing", drill.verify(bare), True, "no attested provenance")
    foreign = drill.release("other", 203, repository="https://git.example/somebody-else")
    drill.expect("8 provenance of another repository", drill.verify(foreign), True, "its provenance is not")
    drill.expect("  of a rehearsal", drill.verify(good, rehearsal=False), True, "that of a rehearsal")
    drill.expect("9 downgrade", drill.verify(good, deployed=150), True, "downgrade")
    newer: Manifest = json.loads(json.dumps(good))
    newer["banking_app_release"]["release"] = 300
    drill.expect("  with an edited release number", drill.verify(newer, deployed=150), True, "no signature")
    drill.expect("10 key rotated out", drill.verify(good, keys=("next",)), True, "no signature")
    edited: Manifest = json.loads(json.dumps(good))
    edited["banking_app_release"]["commit"] = "0" * 40
    drill.expect("11 manifest edited: commit", drill.verify(edited), True, "no signature")
    swapped: Manifest = json.loads(json.dumps(good))
    swapped["banking_app_release"]["images"] = {"transaction-service": image}
    drill.expect("   another service's image", drill.verify(swapped), True, "no signature")
    tagged = f"{drill.prefix}/account-service:good"
    drill.expect("12 image named by tag", drill.verify(with_image(good, tagged)), True, "not named by digest")
    drill.expect("5 layer altered: Docker pulls it", altered_layer(drill, good), True)


def rotate(drill: Drill, good: Manifest) -> None:
    """Rotate the key; deployments succeed before and after."""
    after = drill.release("after", 110, key="next")
    drill.expect("rotation: old key, both trusted", drill.verify(good), False)
    drill.expect("rotation: next key, both trusted", drill.verify(after), False)
    drill.expect("rotation: next key, old key no longer trusted", drill.verify(after, keys=("next",)), False)


def deploy(drill: Drill, _good: Manifest) -> None:
    """Ansible rejects tampered releases before it starts any container, and deploys the genuine one."""
    folder = drill.folder / "ansible"
    folder.mkdir()
    releases = Releases(folder, lambda text: print(f"       {text}", flush=True), attested=True)
    try:
        offline = bool(commands.run(["docker", "images", "--quiet", "bank-offline/python:3.13"]).strip())
        genuine = releases.build("base", offline)
        bank = DeployedBank(folder, releases.public_key, offline, {}, attested=True)
        try:
            bare = releases.derive("bare", "base", "none", ATTEST="0")
            text = genuine.read_text(encoding="utf-8")
            tampered = folder / "tampered.json"
            cases = {
                "attestations missing": (bare.read_text(encoding="utf-8"), "no attested SBOM"),
                "unsigned image": (
                    releases.with_image(text, "account-service", releases.unsigned_digest()),
                    "no signature of this release",
                ),
                "manifest edited": (text.replace('"version": "base"', '"version": "better"'), "no signature"),
            }
            for case, (content, reason) in cases.items():
                tampered.write_text(content, encoding="utf-8")
                done = bank.deploy(tampered)
                output = " ".join(done.output.split())
                response = reason if reason in output else output[-150:]
                drill.expect(f"Ansible: {case}", response if done.code else "", True, reason)
                if bank.containers("stable"):
                    drill.expect(f"Ansible: {case}: containers were started", "", True)
            started = time.monotonic()
            done = bank.deploy(genuine)
            drill.expect("Ansible: the genuine release", done.output[-2000:] if done.code else "", False)
            if done.code == 0:
                bank.wait_until_answering()
                print(f"       deployed and serving after {time.monotonic() - started:.0f} s", flush=True)
        finally:
            bank.close()
    finally:
        releases.close()


def main() -> int:
    """Run the drill; return 0 only if every case is as expected."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--without-ansible", action="store_true", help="skip the deployments")
    options = parser.parse_args()
    started = time.monotonic()
    steps: list[Callable[[Drill, Manifest], None]] = [rotate, tamper]
    if not options.without_ansible:
        steps.append(deploy)
    with tempfile.TemporaryDirectory() as folder:
        drill = Drill(Path(folder))
        try:
            print("creating the first release (this also builds syft if it is missing)", flush=True)
            good = drill.release("good", 100)
            drill.expect("the unmodified release", drill.verify(good), False)
            for step in steps:
                step(drill, good)
        finally:
            drill.close()
    seconds = time.monotonic() - started
    print(f"{drill.failures} cases failed (threshold: 0), {seconds:.0f} s")
    return 1 if drill.failures else 0


if __name__ == "__main__":
    sys.exit(main())
