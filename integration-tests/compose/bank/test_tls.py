"""TLS=1 on a stack that runs: HTTPS at the edge, certificates for PostgreSQL and NATS, and no way around them."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from harness.composed_stack import ComposedBank
from harness.client import REQUEST_SECONDS, eventually, usd

from shared.testing import lab_ca

pytestmark = pytest.mark.usefixtures("autoscaler_rests")

_PSQL = (
    # The one place of this container that takes a file.
    'printf %s "$2" >/dev/shm/ca.crt;'
    " PGPASSWORD=$(cat /run/secrets/account_password)"
    ' exec psql "host=postgres user=account dbname=account sslmode=$1 sslrootcert=/dev/shm/ca.crt" -qAtc'
    " 'SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()'"
)
# With the service's own address and client.
_NATS = """
import asyncio, pathlib, sys
from shared.messaging.transport import NatsConnection
asyncio.run(NatsConnection(pathlib.Path("/run/secrets/events_url").read_text(), sys.argv[1]).stream())
"""
_NATS_IN_PLAINTEXT = """
import json, pathlib, socket
from urllib.parse import urlsplit
url = urlsplit(pathlib.Path("/run/secrets/events_url").read_text())
connection = socket.create_connection((url.hostname, url.port), timeout=60)
connection.recv(4096)
options = {"user": url.username, "pass": url.password, "verbose": True}
connection.sendall(b"CONNECT " + json.dumps(options).encode() + b"\\r\\nPING\\r\\n")
print(connection.recv(4096))
"""


@pytest.fixture(scope="module")
def secured(bank: ComposedBank) -> Iterator[ComposedBank]:
    """The stack with TLS, and afterwards without, as the other tests want it; clients trust the lab's authority."""
    account = bank.open_account(100)
    try:
        bank.script("scripts/stack/up.sh", TLS="1", BUILD="0")
        bank.api_url = bank.api_url.replace("http://", "https://")
        bank.client.close()
        context = ssl.create_default_context(cafile=authority(bank))
        bank.client = httpx.Client(base_url=bank.api_url, timeout=REQUEST_SECONDS, verify=context)
        # NGINX's workers from before the reload may still accept a connection, in plaintext.
        bank.wait_until_answering()
        assert bank.balance(account) == 100
        yield bank
    finally:
        bank.client.close()
        bank.script("scripts/stack/up.sh", TLS="", NGINX_TLS_CERTIFICATE="", NGINX_TLS_KEY="", BUILD="0")
        bank.api_url = bank.api_url.replace("https://", "http://")
        bank.client = httpx.Client(base_url=bank.api_url, timeout=REQUEST_SECONDS)
        bank.wait_until_answering()


def authority(bank: ComposedBank) -> Path:
    return bank.secrets.parent.parent / "secrets" / "tls" / "ca.crt"


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The certificate of an authority that signed none of the stack's."""
    folder = tmp_path_factory.mktemp("stranger")
    lab_ca.ensure(folder)
    return folder.joinpath("ca.crt").read_text(encoding="utf-8")


def asked_postgres(bank: ComposedBank, mode: str, ca: str) -> tuple[int, str]:
    """Connect over the network with the service's password; return psql's exit code and what it said."""
    command = ["run", "--rm", "--no-deps", "-T", "--entrypoint", "sh", "postgres-setup", "-c", _PSQL, "sh", mode, ca]
    return bank.attempt(*command)


def asked_nats(bank: ComposedBank, program: str, ca: str = "") -> tuple[int, str]:
    """Connect to NATS as account-service; return the exit code and what was said."""
    return bank.attempt("exec", "-T", "account-service", "python", "-c", program, ca)


def test_a_transfer_over_https_reaches_the_history(secured: ComposedBank):
    source, target = secured.open_account(1000), secured.open_account()
    paid = secured.post("/transfers", usd(70, from_account=source, to_account=target))
    assert paid.status_code == 201
    report = secured.reconciliation()
    assert (report["mismatches"], report["pending"]) == (0, 0)
    connections = secured.sql(
        "postgres",
        "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
        " WHERE usename IN ('account', 'transaction', 'monitor')",
    )
    assert connections == ["t"], "some connection to PostgreSQL is not encrypted"


def test_nginx_accepts_only_https(secured: ComposedBank, stranger: str):
    plain = httpx.get(f"{secured.api_url.replace('https', 'http')}/api/v1/accounts", timeout=REQUEST_SECONDS)
    assert plain.status_code == 400
    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        httpx.get(
            f"{secured.api_url}/api/v1/accounts",
            verify=ssl.create_default_context(cadata=stranger),
            timeout=REQUEST_SECONDS,
        )


def test_postgres_requires_tls_with_a_certificate_of_the_ca(secured: ComposedBank, stranger: str):
    ca = authority(secured).read_text(encoding="utf-8")
    code, said = asked_postgres(secured, "verify-full", ca)
    assert (code, said.split()[-1]) == (0, "t"), said
    code, said = asked_postgres(secured, "disable", ca)
    assert code != 0 and "no encryption" in said, said
    code, said = asked_postgres(secured, "verify-full", stranger)
    assert code != 0 and "certificate verify failed" in said, said


def test_nats_requires_tls_with_a_certificate_of_the_ca(secured: ComposedBank, stranger: str):
    ca = authority(secured).read_text(encoding="utf-8")
    assert asked_nats(secured, _NATS, ca)[0] == 0
    code, said = asked_nats(secured, _NATS, stranger)
    # The client tries until its time is over.
    assert code != 0 and "TimeoutError" in said, said[-500:]
    code, said = asked_nats(secured, _NATS_IN_PLAINTEXT)
    assert (code, said.split()[-1]) == (0, "b''"), f"it answered: {said[-500:]}"


def test_a_new_certificate_of_nginx_is_served_after_a_restart(secured: ComposedBank, tmp_path: Path):
    # Last, because clients of the fixture trust the other authority.
    lab_ca.ensure(tmp_path)
    own = {"NGINX_TLS_CERTIFICATE": str(tmp_path / "nginx.crt"), "NGINX_TLS_KEY": str(tmp_path / "nginx.key")}
    nginx, certificate = secured.containers("nginx"), (tmp_path / "nginx.crt").read_text(encoding="utf-8")
    address = httpx.URL(secured.api_url)

    def served() -> str:
        return ssl.get_server_certificate((address.host, address.port or 443), timeout=REQUEST_SECONDS)

    # The second time as somebody who does not say it again.
    for said in (own, {}):
        secured.script("scripts/stack/up.sh", BUILD="0", **said)
        eventually(lambda: served().split() == certificate.split())
        assert secured.containers("nginx") == nginx, "it was reloaded, not replaced"
