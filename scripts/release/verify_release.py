"""Verify a release before deployment.

    python3 -m scripts.release.verify_release RELEASE.json --key PUB --repository URL

RELEASE.json is the output of scripts/release/release.sh. Each image must be named by digest and signed by one of the
keys, or by the workflow with the certificate identity --identity (keyless), with the service, version, commit and
release number of the file in the signature; it must have an attested SBOM (CycloneDX) and an attested provenance with
the repository and the commit. --deployed N rejects older releases.
Prints a line for each rejected image and exits 1 then. Requires only Cosign 3 and Python.
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
# The first call may have to install Cosign.
_TIMEOUT_SECONDS = 300
_IMAGE = re.compile(r"[\w.:/-]+@sha256:[0-9a-f]{64}")


class VerificationError(Exception):
    """The release is rejected; the message is for operators."""


@dataclass(frozen=True)
class Release:
    """The content of a release file."""

    version: str
    commit: str
    number: int
    images: dict[str, str]


@dataclass(frozen=True)
class Signer:
    """A trusted signer: its name in messages, and Cosign's options for it."""

    name: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Trust:
    """What is trusted: the signers, current ones before next ones, and the source repository."""

    signers: tuple[Signer, ...]
    repository: str
    options: tuple[str, ...] = ()
    rehearsals: bool = False


def key_signer(key: Path) -> Signer:
    """Return the signer with this key. Signatures are stored in the registry, without a transparency log."""
    return Signer(key.name, ("--key", str(key), "--insecure-ignore-tlog=true"))


def workflow_signer(identity: str, issuer: str) -> Signer:
    """Return a keyless signer: a workflow that is identified by its certificate and the transparency log."""
    return Signer(identity, ("--certificate-identity", identity, "--certificate-oidc-issuer", issuer))


def read_release(text: str) -> Release:
    """Return the release in the text of a release file. Raises VerificationError."""
    try:
        found = json.loads(text)["banking_app_release"]
        release = Release(str(found["version"]), str(found["commit"]), int(found["release"]), dict(found["images"]))
    except (ValueError, KeyError, TypeError) as error:
        raise VerificationError(f"not a valid release file: {type(error).__name__} {error}") from error
    if not re.fullmatch(r"[0-9a-f]{40}", release.commit):
        raise VerificationError(f"{release.commit!r} is not a commit id")
    if not release.images:
        raise VerificationError("the release has no images")
    for service, image in release.images.items():
        if not _IMAGE.fullmatch(str(image)):
            raise VerificationError(f"{service}: {image} is not named by digest")
    return release


def _cosign(*arguments: str) -> str:
    try:
        done = subprocess.run(
            [str(_COSIGN), *arguments], capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise VerificationError(f"cosign timed out after {_TIMEOUT_SECONDS} s") from error
    if done.returncode != 0:
        output = [line for line in done.stderr.splitlines() if line.strip()]
        raise VerificationError((output or [f"cosign failed with exit code {done.returncode}"])[-1][:300])
    return done.stdout


def _statements(lines: str) -> list[dict[str, Any]]:
    """Return the in-toto statements in the output of `cosign verify-attestation`."""
    return [json.loads(base64.b64decode(json.loads(line)["payload"])) for line in lines.splitlines() if line.strip()]


def was_built_from(statement: dict[str, Any], repository: str, commit: str, digest: str) -> bool:
    """Return whether a provenance statement names this image, repository and commit."""
    try:
        sources = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
        subjects = [subject["digest"]["sha256"] for subject in statement["subject"]]
        return subjects == [digest] and any(
            source["uri"] == f"git+{repository}" and source["digest"]["gitCommit"] == commit for source in sources
        )
    except (KeyError, TypeError):
        return False


def is_rehearsal(statement: dict[str, Any]) -> bool:
    """Return whether a provenance statement is that of a rehearsal release."""
    return bool(statement["predicate"]["buildDefinition"].get("externalParameters", {}).get("rehearsal"))


def _check_image(release: Release, service: str, signer: Signer, trust: Trust) -> None:
    image = release.images[service]
    common = (*signer.options, *trust.options)
    expected = {
        "service": service,
        "version": release.version,
        "commit": release.commit,
        "release": str(release.number),
    }
    annotations = [word for name, value in expected.items() for word in ("-a", f"{name}={value}")]
    try:
        _cosign("verify", *common, *annotations, image)
    except VerificationError as error:
        raise VerificationError(f"no signature of this release: {error}") from error
    try:
        boms = _statements(_cosign("verify-attestation", *common, "--type", "cyclonedx", image))
    except VerificationError as error:
        raise VerificationError(f"no attested SBOM: {error}") from error
    if not any(bom["predicate"].get("components") for bom in boms):
        raise VerificationError("its attested SBOM has no components")
    try:
        provenances = _statements(_cosign("verify-attestation", *common, "--type", "slsaprovenance1", image))
    except VerificationError as error:
        raise VerificationError(f"no attested provenance: {error}") from error
    digest = image.rpartition(":")[2]
    matching = [
        provenance for provenance in provenances if was_built_from(provenance, trust.repository, release.commit, digest)
    ]
    if not matching:
        raise VerificationError(f"its provenance is not commit {release.commit[:12]} of {trust.repository}")
    if not trust.rehearsals and all(is_rehearsal(provenance) for provenance in matching):
        raise VerificationError("its provenance is that of a rehearsal release (REHEARSAL=1)")


def check(release: Release, trust: Trust) -> list[str]:
    """Return a line for each image that is not verified for any signer."""
    problems = []
    for service in sorted(release.images):
        reasons: list[str] = []
        for signer in trust.signers:
            try:
                _check_image(release, service, signer, trust)
            except VerificationError as error:
                reasons.append(f"{signer.name}: {error}")
            else:
                break
        else:
            problems.append(f"{service}: {'; '.join(reasons)}")
    return problems


def main() -> int:
    """Verify the release named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("release", type=Path)
    parser.add_argument("--key", type=Path, action="append", default=[], help="public key (repeatable)")
    parser.add_argument("--identity", default="", help="certificate identity of a keyless signer")
    parser.add_argument("--issuer", default="https://token.actions.githubusercontent.com", help="OIDC issuer of it")
    parser.add_argument("--repository", required=True, help="URL of the required source repository")
    parser.add_argument(
        "--deployed", type=int, default=0, help="number of the deployed release; older ones are rejected"
    )
    parser.add_argument("--rehearsal", action="store_true", help="accept rehearsal releases (REHEARSAL=1)")
    parser.add_argument(
        "--cosign-option", action="append", default=[], help="additional option for cosign (repeatable)"
    )
    arguments = parser.parse_args()
    signers = [key_signer(key) for key in arguments.key]
    if arguments.identity:
        signers.append(workflow_signer(arguments.identity, arguments.issuer))
    if not signers:
        parser.error("no trusted signer; use --key or --identity")
    try:
        release = read_release(arguments.release.read_text(encoding="utf-8"))
        if release.number < arguments.deployed:
            raise VerificationError(f"release {release.number} is older than the deployed release {arguments.deployed}")
        trust = Trust(tuple(signers), arguments.repository, tuple(arguments.cosign_option), arguments.rehearsal)
        problems = check(release, trust)
    except VerificationError as error:
        problems = [str(error)]
    for problem in problems:
        print(f"release: REJECTED: {problem}", file=sys.stderr)
    if not problems:
        print(f"release: {release.version} ({release.commit[:12]}): {len(release.images)} images verified")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
