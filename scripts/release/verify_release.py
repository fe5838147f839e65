"""Verify a release before deployment.

    python3 -m scripts.release.verify_release RELEASE.json --key PUB --repository URL

RELEASE.json is the output of scripts/release/release.sh. Each image must be named by digest and signed by one of the
keys, or by the workflow that --identity names (keyless, as Sigstore's certificates call it), with the same service,
version, commit and release number in the signature as in the file; have an attested SBOM (CycloneDX); and an attested
provenance that names the repository and the commit. --deployed N refuses what is older.
Prints a line for each image, or for each reason against it, and exits 1 then. Needs Cosign 3 and nothing but Python.
"""

import argparse
import base64
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_COSIGN = Path(__file__).resolve().parent / "cosign.sh"
# The first time Cosign may have to be fetched.
_PATIENCE_SECONDS = 300
_IMAGE = re.compile(r"[\w.:/-]+@sha256:[0-9a-f]{64}")


class Refused(Exception):
    """What is wrong with the release, in words for whoever deploys it."""


@dataclass(frozen=True)
class Release:
    """What is to be deployed."""

    version: str
    commit: str
    number: int
    images: dict[str, str]


@dataclass(frozen=True)
class Signer:
    """Who may have signed: a name for people, and how Cosign is told."""

    name: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Trust:
    """Who is believed: signers, those in force first and then the next ones, and the repository."""

    signers: tuple[Signer, ...]
    repository: str
    options: tuple[str, ...] = ()
    rehearsals: bool = False


def key_signer(key: Path) -> Signer:
    """Return the holder of a key. Signatures are in the registry beside the image; the bank keeps no public log."""
    return Signer(key.name, ("--key", str(key), "--insecure-ignore-tlog=true"))


def workflow_signer(identity: str, issuer: str) -> Signer:
    """Return a workflow that signs without a key: a certificate and the public log say that it was this one."""
    return Signer(identity, ("--certificate-identity", identity, "--certificate-oidc-issuer", issuer))


def read_release(text: str) -> Release:
    """Return the release that a file tells of; raises Refused when it is none."""
    try:
        found = json.loads(text)["banking_app_release"]
        release = Release(str(found["version"]), str(found["commit"]), int(found["release"]), dict(found["images"]))
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"this is no release: {type(error).__name__} {error}") from error
    if not re.fullmatch(r"[0-9a-f]{40}", release.commit):
        raise Refused(f"{release.commit!r} is no commit")
    if not release.images:
        raise Refused("it has no images")
    for service, image in release.images.items():
        if not _IMAGE.fullmatch(str(image)):
            raise Refused(f"{service}: {image} is not named by its digest")
    return release


def _cosign(*arguments: str) -> str:
    try:
        done = subprocess.run(
            [str(_COSIGN), *arguments], capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Refused(f"cosign has not answered within {_PATIENCE_SECONDS} s") from error
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise Refused((said or ["cosign says nothing"])[-1][:300])
    return done.stdout


def _statements(lines: str) -> list[dict[str, Any]]:
    """Return the in-toto statements in what `cosign verify-attestation` prints."""
    return [json.loads(base64.b64decode(json.loads(line)["payload"])) for line in lines.splitlines() if line.strip()]


def comes_from(statement: dict[str, Any], repository: str, commit: str, digest: str) -> bool:
    """Whether a provenance statement says that this image was built from that commit of the repository."""
    try:
        sources = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
        subjects = [subject["digest"]["sha256"] for subject in statement["subject"]]
        return subjects == [digest] and any(
            source["uri"] == f"git+{repository}" and source["digest"]["gitCommit"] == commit for source in sources
        )
    except (KeyError, TypeError):
        return False


def is_rehearsal(statement: dict[str, Any]) -> bool:
    """Whether a provenance statement that names a commit says that the image may hold something else."""
    return bool(statement["predicate"]["buildDefinition"].get("externalParameters", {}).get("rehearsal"))


def _check_image(release: Release, service: str, signer: Signer, trust: Trust) -> None:
    image = release.images[service]
    common = (*signer.words, *trust.options)
    said = {"service": service, "version": release.version, "commit": release.commit, "release": str(release.number)}
    annotations = [word for name, value in said.items() for word in ("-a", f"{name}={value}")]
    try:
        _cosign("verify", *common, *annotations, image)
    except Refused as error:
        raise Refused(f"no signature of this release: {error}") from error
    try:
        parts = _statements(_cosign("verify-attestation", *common, "--type", "cyclonedx", image))
    except Refused as error:
        raise Refused(f"no attested list of parts: {error}") from error
    if not any(part["predicate"].get("components") for part in parts):
        raise Refused("its attested list of parts is empty")
    try:
        origins = _statements(_cosign("verify-attestation", *common, "--type", "slsaprovenance1", image))
    except Refused as error:
        raise Refused(f"no attested provenance: {error}") from error
    digest = image.rpartition(":")[2]
    fitting = [origin for origin in origins if comes_from(origin, trust.repository, release.commit, digest)]
    if not fitting:
        raise Refused(f"its provenance is not commit {release.commit[:12]} of {trust.repository}")
    if not trust.rehearsals and all(is_rehearsal(origin) for origin in fitting):
        raise Refused("its provenance is that of a rehearsal (REHEARSAL=1): it was not built from the commit alone")


def check(release: Release, trust: Trust) -> list[str]:
    """Return a line for each image that no signer vouches for."""
    problems = []
    for service in sorted(release.images):
        reasons: list[str] = []
        for signer in trust.signers:
            try:
                _check_image(release, service, signer, trust)
            except Refused as error:
                reasons.append(f"{signer.name}: {error}")
            else:
                break
        else:
            problems.append(f"{service}: {'; '.join(reasons)}")
    return problems


def main() -> int:
    """Check the release that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("release", type=Path)
    parser.add_argument("--key", type=Path, action="append", default=[], help="public key; again for the next one")
    parser.add_argument("--identity", default="", help="the workflow that signs without a key")
    parser.add_argument("--issuer", default="https://token.actions.githubusercontent.com", help="who vouches for it")
    parser.add_argument("--repository", required=True, help="address of the repository that images are built from")
    parser.add_argument(
        "--deployed", type=int, default=0, help="number of the release that runs; older ones are refused"
    )
    parser.add_argument("--rehearsal", action="store_true", help="take releases that were made with REHEARSAL=1")
    parser.add_argument("--cosign-option", action="append", default=[], help="one more word for cosign")
    arguments = parser.parse_args()
    signers = [key_signer(key) for key in arguments.key]
    if arguments.identity:
        signers.append(workflow_signer(arguments.identity, arguments.issuer))
    if not signers:
        parser.error("nobody is trusted: say --key or --identity")
    try:
        release = read_release(arguments.release.read_text(encoding="utf-8"))
        if release.number < arguments.deployed:
            raise Refused(f"release {release.number} is older than {arguments.deployed}, which runs: a downgrade")
        trust = Trust(tuple(signers), arguments.repository, tuple(arguments.cosign_option), arguments.rehearsal)
        problems = check(release, trust)
    except Refused as error:
        problems = [str(error)]
    for problem in problems:
        print(f"release: REFUSED: {problem}", file=sys.stderr)
    if not problems:
        print(f"release: {release.version} ({release.commit[:12]}): {len(release.images)} images are as they should be")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
