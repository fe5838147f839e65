"""Check mode of the deployment: it tells what would change, and changes nothing."""

import tempfile
from pathlib import Path
from typing import Any

from harness.plays import Play, play, run
from harness.ssh_host import USER, ssh_host

from shared.testing.paths import ROOT

_DEPLOY = ROOT / "ansible/playbooks/deploy.yml"


def _check(settings: dict[str, Any], *arguments: str) -> Play:
    return play(_DEPLOY, settings, "--check", "--diff", *arguments)


def test_a_fresh_host_can_be_checked(settings: dict[str, Any]) -> None:
    checked = _check(settings)
    assert not checked.failed, checked.output
    assert "v1 would be the first release on this host" in checked.output
    assert "+LOG_LEVEL=INFO" in checked.output and checked.changed > 5
    assert not Path(settings["banking_app_dir"]).exists() and not Path(settings["banking_app_state_dir"]).exists()


def test_tags_select_checks_and_never_a_part_of_the_deployment(settings: dict[str, Any]) -> None:
    verified = play(_DEPLOY, settings, "--tags", "verify,preflight")
    assert not verified.failed and "Verify each image with each key" in verified.output, verified.output
    assert verified.changed == 0 and not Path(settings["banking_app_dir"]).exists()
    for arguments in (("--tags", "files"), ("--skip-tags", "verify")):
        refused = play(_DEPLOY, settings, *arguments)
        assert refused.failed and "would deploy a part" in " ".join(refused.output.split())


def test_a_host_is_checked_as_a_user_with_a_password_and_vaulted_values(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    vault_password, sudo_password = tmp_path / "vault-password", "correct horse"
    vault_password.write_text("vault", encoding="utf-8")

    def vaulted(name: str, text: str) -> str:
        options = ("--vault-password-file", str(vault_password), "--name", name)
        return run(".venv-ops/bin/ansible-vault", "encrypt_string", *options, text)

    jwks = settings.pop("banking_app_secrets")["jwks"]
    token = "a.synthetic.token"
    secrets = tmp_path / "secrets.yml"
    secrets.write_text(
        vaulted("ansible_become_password", sudo_password)
        + vaulted("banking_app_synthetic_token", token)
        + "banking_app_secrets:\n"
        + "".join(f"  {line}\n" for line in vaulted("jwks", jwks).splitlines()),
        encoding="utf-8",
    )
    arguments = ("--vault-password-file", str(vault_password), "--extra-vars", f"@{secrets}", "-vvv")
    with tempfile.TemporaryDirectory(prefix="bank-ssh-") as folder:
        # pytest's own folders are closed to other users.
        Path(folder).chmod(0o755)
        with ssh_host(Path(folder), sudo_password) as host:
            (tmp_path / "key").write_text(host.private_key, encoding="utf-8")
            (tmp_path / "key").chmod(0o600)
            (tmp_path / "known_hosts").write_text(host.known_hosts, encoding="utf-8")
            inventory = tmp_path / "hosts.ini"
            inventory.write_text(
                f"[docker_hosts]\nremote ansible_host=127.0.0.1 ansible_port={host.port} ansible_user={USER}"
                f" ansible_ssh_private_key_file={tmp_path / 'key'} ansible_python_interpreter=/usr/bin/python3"
                f" ansible_ssh_common_args='-o UserKnownHostsFile={tmp_path / 'known_hosts'}'\n",
                encoding="utf-8",
            )
            checked = _check(settings, "--inventory", str(inventory), "--limit", "remote", *arguments)
    assert not checked.failed, checked.output[-6000:]
    assert "v1 would be the first release on this host" in checked.output
    assert not Path(settings["banking_app_dir"]).exists()
    assert sudo_password not in checked.output and token not in checked.output
