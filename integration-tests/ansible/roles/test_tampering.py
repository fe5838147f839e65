"""A taken-over rollout-service writes and prints what it likes, and root acts on none of it.

Docker is a stand-in that writes down what it is asked. Each case is both the look before a deployment and a rollback.
"""

import json
import os
from pathlib import Path
from typing import Any

from harness import plays
import pytest
from harness.plays import ENVIRONMENT, SERVICES, play

_ROLLED = SERVICES[:2]
_ID = "20260131T120000.123456Z"
_EVIL = "AUTOSCALE_SERVICE_IMAGE=evil"
_OLD, _NEW, _UNKNOWN = ({service: f"bank/{service}@sha256:{one * 64}" for service in SERVICES} for one in "abe")
# Revisions of their configurations.
_BEFORE, _AFTER, _STRANGE = (dict.fromkeys(_ROLLED, one * 64) for one in "12f")
_CASES = """
- hosts: docker_hosts
  gather_facts: false
  tasks:
    - ansible.builtin.include_tasks: case.yml
      loop: "{{ cases }}"
      loop_control: {loop_var: case, label: "{{ case.name }}"}
"""
_CASE = """
- ansible.builtin.command: "{{ folder }}/plant {{ case.name | quote }}"
- block:
    - ansible.builtin.include_role: {name: banking_app, tasks_from: read_state}
    - ansible.builtin.debug:
        msg: "OBSERVED {{ case.name }}: {{ banking_app_running_versions['account-service'][0].values() | join(' ') }}"
  rescue:
    - ansible.builtin.debug: {msg: "REFUSED TO DEPLOY {{ case.name }}"}
- when: rollback
  block:
    - ansible.builtin.include_role: {name: nginx_canary, tasks_from: rollback}
      vars: {nginx_canary_reason: a test}
    - ansible.builtin.include_role: {name: banking_app, tasks_from: record_rollback}
      vars:
        banking_app_previous_versions: >-
          {{ nginx_canary_record.previous | versions(nginx_canary_record.previous_revisions) }}
    - ansible.builtin.debug: {msg: "WENT BACK {{ case.name }}"}
  rescue:
    - ansible.builtin.debug: {msg: "REFUSED TO GO BACK {{ case.name }}"}
"""
_BEGIN = """
- hosts: docker_hosts
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {name: nginx_canary, tasks_from: start_rollout, rolespec_validate: false}
"""
# Says of a rollout what the case says; NGINX serves as it is asked to, and all replicas are there.
_DOCKER = """#!/bin/bash
case "$*" in
    ps*) echo {container} ;;
    *app.cli*) cat {folder}/said ;;
    inspect*) cat {folder}/running ;;
    *wget*) echo stable ;;
    *) printf '%s\\n' "$*" >>{folder}/asked; printf '%s\\n' "$ACCOUNT_SERVICE_IMAGE" >>{folder}/asked ;;
esac
"""


def _rolled(images: dict[str, str]) -> dict[str, str]:
    return {service: images[service] for service in _ROLLED}


_STATE: dict[str, Any] = {
    "id": _ID,
    "version": "v2",
    "driver": "a test",
    "step": 1,
    "images": _rolled(_NEW),
    "previous": _rolled(_OLD),
    "revisions": _AFTER,
    "previous_revisions": _BEFORE,
    "verdict": {"verdict": "promote", "reason": "healthy"},
}
_DONE = _STATE | {"phase": "done"}
_BACK = _STATE | {"phase": "rolling-back", "serving": "previous", "reason": "a test"}


def _both(**changes: Any) -> tuple[Any, Any]:
    """Return the content of the file, and the output of the rollback."""
    return _DONE | changes, _BACK | changes


def _image(text: str) -> dict[str, str]:
    return _rolled(_NEW) | {"account-service": text}


# What each field may be, scripts/tests/test_ansible_filters.py tries; here it is what root does then.
_TAMPERED: dict[str, tuple[Any, Any]] = {
    "images of somebody else": (_DONE | {"images": _rolled(_UNKNOWN)}, _BACK | {"previous": _rolled(_UNKNOWN)}),
    "a line of its own": _both(images=_image(f"{_NEW['account-service']}\n{_EVIL}")),
    "a configuration of somebody else": (_DONE | {"revisions": _STRANGE}, _BACK | {"previous_revisions": _STRANGE}),
    "the former settings as the new ones": (_DONE | {"revisions": _BEFORE}, _BACK | {"previous_revisions": _AFTER}),
    "a folder of its own": _both(
        revisions=_AFTER | {"account-service": "../../../state"},
        previous_revisions=_BEFORE | {"account-service": "../../../state"},
    ),
}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host on which a rollout from `a` to `b` is done; `plant CASE` puts in place what rollout-service says."""
    opt = tmp_path / "opt"
    (tmp_path / "state").mkdir()
    (tmp_path / "cases").mkdir()
    (tmp_path / "bin").mkdir()
    opt.mkdir()
    old = {"version": "v1", "release": 1, "images": _OLD, "revisions": _BEFORE}
    new = {"version": "v2", "release": 2, "images": _NEW, "revisions": _AFTER, "previous": old}
    (opt / "deployed.json").write_text(json.dumps(new), encoding="utf-8")
    record = {"id": _ID, "images": _rolled(_NEW), "previous": _rolled(_OLD)}
    record |= {"revisions": _AFTER, "previous_revisions": _BEFORE}
    (opt / "rollout-record.json").write_text(json.dumps(record), encoding="utf-8")
    (opt / ".env").write_text("COMPOSE_PROJECT_NAME=bank\nACCOUNT_SERVICE_IMAGE=b\n", encoding="utf-8")
    tool = Path(plays.__file__).parents[2] / "ansible/roles/nginx_canary/files/rollout.sh"
    (opt / "rollout.sh").write_bytes(tool.read_bytes())
    _run(tmp_path, _NEW, _AFTER)
    docker = tmp_path / "bin/docker"
    docker.write_text(_DOCKER.format(folder=tmp_path, container="c" * 64), encoding="utf-8")
    plant = tmp_path / "plant"
    plant.write_text(
        f"#!/bin/bash\ncd {tmp_path}\nrm -rf state/rollout.json\n"
        'cp -PR "cases/$1" state/rollout.json\ncp "cases/$1.said" said\n',
        encoding="utf-8",
    )
    for program in (opt / "rollout.sh", docker, plant):
        program.chmod(0o755)
    monkeypatch.setitem(ENVIRONMENT, "PATH", f"{docker.parent}:{ENVIRONMENT['PATH']}")
    return tmp_path


def _run(host: Path, images: dict[str, str], revisions: dict[str, str]) -> None:
    """Let the stable replicas run these images and configurations."""
    lines = (f"{service} {image} {revisions[service]}\n" for service, image in _rolled(images).items())
    (host / "running").write_text("".join(lines), encoding="utf-8")


def test_what_is_deployed_is_observed_not_remembered(host: Path) -> None:
    """The rollout has been undone since the record was written: stable runs the previous version."""
    _run(host, _OLD, _BEFORE)
    output = _played(host, {"undone": (_DONE | {"phase": "idle"}, _BACK | {"serving": "stable", "phase": "idle"})})
    assert _observed("undone", _OLD, _BEFORE) in output


def test_a_replica_with_an_unknown_configuration_is_rejected(host: Path) -> None:
    _run(host, _NEW, _STRANGE)
    assert "REFUSED TO DEPLOY unknown" in _played(host, {"unknown": (_DONE, _BACK)}, rollback=False)


def _observed(case: str, images: dict[str, str], revisions: dict[str, str]) -> str:
    return f"OBSERVED {case}: {images['account-service']} {revisions['account-service']}"


def _played(host: Path, cases: dict[str, tuple[Any, Any]], *, rollback: bool = True) -> str:
    for name, (written, said) in cases.items():
        (host / "cases" / f"{name}.said").write_text(json.dumps(said), encoding="utf-8")
        if written is not None:
            (host / "cases" / name).write_text(json.dumps(written), encoding="utf-8")
    (host / "cases.yml").write_text(_CASES, encoding="utf-8")
    (host / "case.yml").write_text(_CASE, encoding="utf-8")
    done = play(
        host / "cases.yml",
        {
            "folder": str(host),
            "cases": [{"name": name} for name in cases],
            "rollback": rollback,
            "banking_app_dir": str(host / "opt"),
            "banking_app_state_dir": str(host / "state"),
            "banking_app_release": {"version": "v3", "commit": "", "release": 3, "images": _NEW},
        },
    )
    assert not done.failed, done.output
    return done.output


def _files(host: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in (host / "opt").iterdir() if path.is_file()}


def test_forged_container_state_is_not_used(host: Path) -> None:
    cases = dict(_TAMPERED)
    # Written where the file should be, as the owner of the folder could.
    (host / "secret").write_text(json.dumps(_DONE), encoding="utf-8")
    os.mkfifo(host / "cases/a pipe")
    (host / "cases/a link").symlink_to(host / "secret")
    # An id that this host does not know, and no state.
    cases |= {"a pipe": (None, _BACK | {"id": ""}), "a link": (None, "$(touch evil)")}
    before = _files(host)
    output = _played(host, cases)
    for name in cases:
        assert f"REFUSED TO DEPLOY {name}" in output, output
        assert f"REFUSED TO GO BACK {name}" in output, output
    assert "OBSERVED" not in output and "WENT BACK" not in output
    assert _files(host) == before and not (host / "asked").exists()


def test_rollback_uses_the_state_recorded_on_the_host(host: Path) -> None:
    output = _played(host, {"as it was": (_DONE, _BACK | {"serving": "stable", "phase": "idle"})})
    assert _observed("as it was", _NEW, _AFTER) in output and "WENT BACK as it was" in output, output
    files = _files(host)
    assert f"ACCOUNT_SERVICE_IMAGE={_OLD['account-service']}\n" in files[".env"]
    assert f"ACCOUNT_SERVICE_REVISION={_BEFORE['account-service']}\n" in files[".env"]
    deployed = json.loads(files["deployed.json"])
    assert (deployed["images"], deployed["revisions"]) == (_OLD, _BEFORE)


def test_a_rollback_of_settings_is_recorded(host: Path) -> None:
    """Other settings of the previous images are deployed, and the rollout of a third revision is aborted."""
    deployed = json.loads((host / "opt/deployed.json").read_text(encoding="utf-8"))
    deployed |= {"images": _OLD, "revisions": _AFTER}
    (host / "opt/deployed.json").write_text(json.dumps(deployed), encoding="utf-8")
    third = {"images": _rolled(_OLD), "previous": _rolled(_OLD), "revisions": _STRANGE, "previous_revisions": _AFTER}
    (host / "opt/rollout-record.json").write_text(json.dumps({"id": _ID, **third}), encoding="utf-8")
    output = _played(host, {"aborted": (_DONE, _BACK | third | {"serving": "stable", "phase": "idle"})})
    assert "WENT BACK aborted" in output, output
    assert json.loads((host / "opt/deployed.json").read_text(encoding="utf-8")) == deployed
    assert f"ACCOUNT_SERVICE_REVISION={_AFTER['account-service']}\n" in _files(host)[".env"]


@pytest.mark.parametrize("number", [_ID, "$(touch evil)"])
def test_the_start_of_a_rollout_is_recorded_by_root(host: Path, number: str) -> None:
    begun = {"id": number, "phase": "provisioning", "images": _rolled(_UNKNOWN), "previous": _rolled(_UNKNOWN)}
    begun |= {"revisions": _STRANGE, "previous_revisions": _STRANGE}
    (host / "said").write_text(json.dumps(begun), encoding="utf-8")
    (host / "begin.yml").write_text(_BEGIN, encoding="utf-8")
    record = host / "opt/rollout-record.json"
    record.unlink()
    names: dict[str, Any] = {
        "nginx_canary_dir": str(host / "opt"),
        "nginx_canary_version": "v2",
        "nginx_canary_driver": "a test",
    }
    names |= {"nginx_canary_images": _NEW, "nginx_canary_running_images": _OLD}
    names |= {"nginx_canary_revisions": _AFTER, "nginx_canary_running_revisions": _BEFORE}
    done = play(host / "begin.yml", {"folder": str(host), **names})
    assert done.failed == (number != _ID), done.output
    if number == _ID:
        # What was asked for, whatever the answer says.
        assert json.loads(record.read_text(encoding="utf-8")) == {
            "id": _ID,
            "images": _rolled(_NEW),
            "revisions": _AFTER,
            "previous": _rolled(_OLD),
            "previous_revisions": _BEFORE,
        }
        assert record.stat().st_mode & 0o777 == 0o600
    else:
        assert not record.exists()
