"""What the role banking_app refuses before anything is pulled or started. Real Cosign, a real registry."""

import json
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from harness import plays
from harness.plays import COMMIT, SERVICES, Play, Registry, play, run

from shared.testing.paths import ROOT

# The checks of a deployment before it changes anything.
_CHECKS_PLAY = """
- hosts: docker_hosts
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {{name: banking_app, tasks_from: "{{{{ item }}}}"}}
      loop: {parts}
"""
_ALL = ("preflight", "verify", "read_state")
_CHECK_PARAMETERS = """
- hosts: docker_hosts
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {name: nginx_canary, tasks_from: check_parameters}
"""


def _run_checks(tmp_path: Path, settings: dict[str, Any], *arguments: str, parts: Sequence[str] = _ALL) -> Play:
    """Run these parts of the role; a test of one part spares the time of the others."""
    playbook = tmp_path / "checks.yml"
    playbook.write_text(_CHECKS_PLAY.format(parts=json.dumps(parts)), encoding="utf-8")
    return play(playbook, settings, *arguments)


def _with_image(settings: dict[str, Any], service: str, image: str) -> dict[str, Any]:
    release = settings["banking_app_release"]
    return {**settings, "banking_app_release": {**release, "images": {**release["images"], service: image}}}


def test_a_signed_release_is_accepted_and_an_older_one_rejected(tmp_path: Path, settings: dict[str, Any]) -> None:
    accepted = _run_checks(tmp_path, settings)
    assert not accepted.failed, accepted.output
    record = Path(settings["banking_app_dir"]) / "deployed.json"
    record.parent.mkdir()
    record.write_text(json.dumps({**settings["banking_app_release"], "release": 2, "version": "v2"}), encoding="utf-8")
    refused = _run_checks(tmp_path, settings, parts=["read_state"])
    assert refused.failed and "is older than" in refused.output
    assert not _run_checks(tmp_path, {**settings, "banking_app_allow_downgrade": True}, parts=["read_state"]).failed


def test_variables_of_the_command_line_are_strings(tmp_path: Path, settings: dict[str, Any]) -> None:
    record = Path(settings["banking_app_dir"]) / "deployed.json"
    record.parent.mkdir()
    record.write_text(json.dumps({**settings["banking_app_release"], "release": 2, "version": "v2"}), encoding="utf-8")
    given = {
        "banking_app_rehearsal": "true",
        "banking_app_require_attestations": "false",
        "banking_app_allow_downgrade": "true",
        "banking_app_min_free_disk_mb": "1",
        "nginx_canary_synthetic": "false",
    }
    kept = {name: value for name, value in settings.items() if name not in given}
    words = [word for name, value in given.items() for word in ("--extra-vars", f"{name}={value}")]
    accepted = _run_checks(tmp_path, kept, *words)
    assert not accepted.failed, accepted.output
    refused = _run_checks(
        tmp_path, kept, *words, "--extra-vars", "banking_app_allow_downgrade=false", parts=["read_state"]
    )
    assert refused.failed and "is older than" in refused.output


def test_a_failing_sudo_is_reported(tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    sudo = tmp_path / "bin/sudo"
    sudo.parent.mkdir()
    sudo.write_text("#!/bin/sh\necho sudo is not for you >&2\nexit 1\n", encoding="utf-8")
    sudo.chmod(0o755)
    monkeypatch.setitem(plays.ENVIRONMENT, "PATH", f"{sudo.parent}:{plays.ENVIRONMENT['PATH']}")
    refused = _run_checks(tmp_path, settings, "--become", "--become-user", "nobody", parts=["preflight"])
    assert refused.failed and "sudo is not for you" in refused.output and "has no attribute" not in refused.output


def test_old_names_of_variables_are_rejected(tmp_path: Path) -> None:
    playbook = tmp_path / "check.yml"
    playbook.write_text(_CHECK_PARAMETERS, encoding="utf-8")
    refused = play(playbook, {"folder": str(tmp_path), "nginx_canary_metrics": []})
    message = "nginx_canary_metrics was renamed to nginx_canary_criteria"
    assert refused.failed and message in " ".join(refused.output.split())
    assert not play(playbook, {"folder": str(tmp_path), "nginx_canary_criteria": []}).failed


def test_a_second_host_is_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    second = tmp_path / "second.ini"
    second.write_text("[docker_hosts]\nsecond ansible_connection=local\n", encoding="utf-8")
    refused = _run_checks(tmp_path, settings, "--inventory", str(second), parts=["preflight"])
    assert refused.failed and "This play has 2 hosts: localhost, second." in " ".join(refused.output.split())
    limited = _run_checks(tmp_path, settings, "--inventory", str(second), "--limit", "localhost", parts=["preflight"])
    assert not limited.failed, limited.output


def test_a_port_in_use_is_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        used = {**settings, "banking_app_environment": {"BANK_PORT": str(port)}}
        refused = _run_checks(tmp_path, used, parts=["preflight"])
    assert refused.failed and f"Port {port} is in use on 127.0.0.1. Nothing was changed." in " ".join(
        refused.output.split()
    )


def test_too_few_subnets_are_refused(tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    docker = tmp_path / "bin/docker"
    docker.parent.mkdir()
    pools = '[{"Base": "198.18.0.0/22", "Size": 24}]'
    docker.write_text(
        f"#!/bin/sh\ncase $* in *AddressPools*) echo '{pools}' ;; *) exec {shutil.which('docker')} \"$@\" ;; esac\n",
        encoding="utf-8",
    )
    docker.chmod(0o755)
    monkeypatch.setitem(plays.ENVIRONMENT, "PATH", f"{docker.parent}:{plays.ENVIRONMENT['PATH']}")
    refused = _run_checks(tmp_path, settings, parts=["preflight"])
    assert (
        refused.failed
        and "free subnets for 4 more networks, and the stack needs 9. Nothing was changed."
        in " ".join(refused.output.split())
    )


def test_the_next_key_is_accepted_alongside_the_current_key(
    tmp_path: Path, settings: dict[str, Any], registry: Registry
) -> None:
    keys = [str(registry.key(name).with_suffix(".pub")) for name in ("next", "now")]
    assert not _run_checks(tmp_path, {**settings, "banking_app_cosign_keys": keys}, parts=["verify"]).failed


@pytest.mark.parametrize("case", ["unsigned", "wrong key", "copied signature", "other service", "other release"])
def test_images_not_signed_for_this_release_are_rejected(
    tmp_path: Path, settings: dict[str, Any], registry: Registry, case: str
) -> None:
    service = "account-service"
    match case:
        case "unsigned":
            image = registry.push(service)
        case "wrong key":
            image = registry.signed(service, key="foreign")
        case "copied signature":
            image = registry.push(service)
            _copy_signature(registry, settings["banking_app_release"]["images"][service], image)
        case "other service":
            image = settings["banking_app_release"]["images"]["transaction-service"]
        case _:
            image = registry.signed(service, release=7)
    refused = _run_checks(tmp_path, _with_image(settings, service, image), parts=["verify"])
    assert refused.failed and "has no valid signature as account-service of release 1" in " ".join(
        refused.output.split()
    )


def _copy_signature(registry: Registry, signed: str, unsigned: str) -> None:
    """Put the signature of one image where Cosign looks for that of another."""
    tags = registry.folder / "images/docker/registry/v2/repositories/bank/account-service/_manifests/tags"
    source, target = (tags / image.split("@")[1].replace(":", "-") for image in (signed, unsigned))
    run("cp", "--recursive", str(source), str(target))


def test_attestations_of_this_repository_are_required(
    tmp_path: Path, settings: dict[str, Any], registry: Registry
) -> None:
    ours = "https://git.example/bank"
    asking = {**settings, "banking_app_require_attestations": True, "banking_app_repository": ours}
    refused = _run_checks(tmp_path, asking, parts=["verify"])
    assert refused.failed and "no attested SBOM" in " ".join(refused.output.split())
    images = {service: registry.signed(service) for service in SERVICES}
    release = {**settings["banking_app_release"], "images": images}
    for service, image in images.items():
        registry.attest(image, service, repository=ours)
    attested = {**asking, "banking_app_release": release}
    accepted = _run_checks(tmp_path, attested, parts=["verify"])
    assert not accepted.failed, accepted.output
    refused = _run_checks(
        tmp_path, {**attested, "banking_app_repository": "https://git.example/somebody-else"}, parts=["verify"]
    )
    assert refused.failed and "its provenance is not commit" in " ".join(refused.output.split())
    refused = _run_checks(tmp_path, {**attested, "banking_app_repository": ""}, parts=["preflight"])
    assert refused.failed and "banking_app_repository" in refused.output


def test_a_tree_other_than_the_release_commit_is_rejected(tmp_path: Path, settings: dict[str, Any]) -> None:
    strict = {**settings, "banking_app_rehearsal": False}
    refused = _run_checks(tmp_path, strict, parts=["preflight"])
    assert refused.failed and f"The working tree differs from the release commit {COMMIT}" in " ".join(
        refused.output.split()
    )
    release = {**settings["banking_app_release"], "commit": run("git", "rev-parse", "HEAD").strip()}
    # Where no other suite and no container of a running stack looks: they use the same tree.
    planted = ROOT / "monitoring" / "planted"
    planted.touch()
    try:
        refused = _run_checks(tmp_path, {**strict, "banking_app_release": release}, parts=["preflight"])
    finally:
        planted.unlink(missing_ok=True)
    assert refused.failed and "not in the commit: monitoring/planted" in " ".join(refused.output.split())
    rehearsed = _run_checks(tmp_path, settings, parts=["preflight"])
    assert not rehearsed.failed and "REHEARSAL" in rehearsed.output


def test_a_tag_is_refused(tmp_path: Path, settings: dict[str, Any], registry: Registry) -> None:
    tagged = _with_image(settings, "account-service", f"{registry.address}/bank/account-service:latest")
    refused = _run_checks(tmp_path, tagged, parts=["preflight"])
    assert refused.failed and "is not an image reference with a digest" in " ".join(refused.output.split())


@pytest.mark.parametrize("missing", ["banking_app_release", "banking_app_cosign_keys"])
def test_settings_without_a_default_are_required(tmp_path: Path, settings: dict[str, Any], missing: str) -> None:
    playbook = tmp_path / "deploy.yml"
    playbook.write_text("- hosts: docker_hosts\n  gather_facts: false\n  roles: [banking_app]\n", encoding="utf-8")
    refused = play(playbook, {name: value for name, value in settings.items() if name != missing})
    assert refused.failed and missing in refused.output
