"""Certificates of the lab's CA are valid for their servers, and TLS requires all certificates."""

import socket
import ssl
import threading
from pathlib import Path

import pytest

from scripts.stack import stack_secrets
from shared.testing import lab_ca


def greeted(folder: Path, service: str, name: str, authority: Path) -> bytes:
    """Connect to a server with the service's certificate as a client that trusts the authority."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / f"{service}.crt", folder / f"{service}.key")
    ours, theirs = socket.socketpair()

    def answer() -> None:
        try:
            with server.wrap_socket(theirs, server_side=True) as connection:
                connection.sendall(b"hello")
        except (ssl.SSLError, OSError):
            theirs.close()

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        client = ssl.create_default_context(cafile=authority)
        with client.wrap_socket(ours, server_hostname=name) as connection:
            return connection.recv(5)
    finally:
        ours.close()
        thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of certificates."""
    lab_ca.ensure(tmp_path / "tls")
    return tmp_path / "tls"


def test_certificates_are_only_valid_for_their_names(folder: Path) -> None:
    for service, names in lab_ca.SERVERS.items():
        for name in names:
            assert greeted(folder, service, name, folder / "ca.crt") == b"hello"
    with pytest.raises(ssl.SSLCertVerificationError, match="match"):
        greeted(folder, "nats", "postgres", folder / "ca.crt")


def test_another_authority_is_rejected(folder: Path, tmp_path: Path) -> None:
    lab_ca.ensure(tmp_path / "other")
    with pytest.raises(ssl.SSLCertVerificationError):
        greeted(folder, "nats", "nats", tmp_path / "other" / "ca.crt")


def test_existing_files_are_kept_and_keys_are_private(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    lab_ca.ensure(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert {path.stat().st_mode & 0o777 for path in folder.glob("*.key")} == {0o600}


def test_tls_without_certificates_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLS", "1")
    with pytest.raises(ValueError, match="ca_certificate"):
        stack_secrets.secret_values(tmp_path, {"jwks": "{}"})
    monkeypatch.setenv("TLS", "")
    values = stack_secrets.secret_values(tmp_path, {"jwks": "{}"})
    assert values["account_events_url"].startswith("nats://") and "tls" not in values["nats_authorization"]
