"""The lab's certificate authority for TLS=1: creates certificates of NGINX, PostgreSQL and NATS on first use.

Each host of a cluster has one by which the others accept it as client and server.

Production uses its own authority and sets TLS_CERTIFICATES to the folder of the certificates.
"""

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# DNS names and addresses of each server.
SERVERS = {"nginx": ("localhost", "127.0.0.1", "nginx"), "postgres": ("postgres",), "nats": ("nats",)}
_DAYS = 825


def ensure(folder: Path, hosts: Sequence[str] = ()) -> None:
    """Create ca.crt and SERVICE.crt and SERVICE.key of each server unless they exist. Raises OSError.

    `hosts` are the addresses of the hosts of a cluster, whose certificates are host-1, host-2 and so on.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if (folder / "ca.crt").exists():
        return
    authority = ec.generate_private_key(ec.SECP256R1())
    issuer = _name("lab")
    certificate = (
        _builder(issuer, issuer, authority)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(authority, hashes.SHA256())
    )
    for service, names in SERVERS.items():
        _issue(folder, service, names, certificate, authority, [ExtendedKeyUsageOID.SERVER_AUTH])
    for number, host in enumerate(hosts, 1):
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        _issue(folder, f"host-{number}", [host, "127.0.0.1", "localhost"], certificate, authority, both)
    # Written last: it marks the others as complete. The key of the authority is not stored.
    (folder / "ca.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _issue(
    folder: Path,
    service: str,
    names: Sequence[str],
    issuer: x509.Certificate,
    authority: ec.EllipticCurvePrivateKey,
    usages: Sequence[x509.ObjectIdentifier],
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
    certificate = (
        _builder(_name(service), issuer.subject, key)
        .add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(identifier, critical=False)
        .sign(authority, hashes.SHA256())
    )
    (folder / f"{service}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    path = folder / f"{service}.key"
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Tolerate clock skew.
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=_DAYS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"bank {common}")])
