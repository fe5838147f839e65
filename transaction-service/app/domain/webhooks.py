"""Decisions about webhooks: signatures, back-off, receivers that are allowed; plain functions on plain data.

Signatures follow https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md.
"""

import base64
import hashlib
import hmac
import ipaddress
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlsplit

import orjson

from shared.events import DATA_MODELS, OF_TRANSACTION_SERVICE, CloudEvent

# Roots of the ledger belong to no account.
TYPES = tuple(sorted(set(DATA_MODELS) - OF_TRANSACTION_SERVICE - {"bank.ledger.sealed"}))
# After a rotation, both secrets sign for this time.
ROTATION = timedelta(hours=24)
# A receiver that fails for longer is disabled.
MAX_FAILING = timedelta(days=3)
# The receiver does not want the webhook any more (Standard Webhooks).
GONE = 410
_FIRST_DELAY_SECONDS = 5
_MAX_DELAY_SECONDS = 4 * 3600
_PORTS = (443, 8443)
_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_PREFIX = "whsec_"
_UNICAST = ipaddress.IPv6Network("2000::/3")


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where a webhook is sent to: scheme, host, port, and the rest of the URL."""

    scheme: str
    host: str
    port: int
    target: str

    def url(self, address: str | None = None) -> str:
        """Return the URL with an address instead of the host, or with the host."""
        host = address or self.host
        return f"{self.scheme}://{f'[{host}]' if ':' in host else host}:{self.port}{self.target}"

    @property
    def authority(self) -> str:
        """The value of the header `Host`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port in (443, 80) else f"{host}:{self.port}"


def parse_receiver(url: str, *, allow_private: bool) -> Receiver:
    """Return the parts of a receiver's URL; `allow_private` permits http, private addresses and other ports, too.

    A host's addresses are checked when it is resolved. Raises ValueError with the reason if the URL is not allowed.
    """
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("must be printable ASCII without spaces")
    parts = urlsplit(url)
    if parts.scheme != "https" and not (allow_private and parts.scheme == "http"):
        raise ValueError("must start with https://")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ValueError("must have no user, password or fragment")
    host = parts.hostname or ""
    port = parts.port or {"https": 443, "http": 80}[parts.scheme]
    if not allow_private and port not in _PORTS:
        raise ValueError("must use port 443 or 8443")
    if _is_address(host):
        if not allow_private and not is_public(host):
            raise ValueError("must not be a private address")
    elif not _HOST.fullmatch(host) or host.rpartition(".")[2].isdigit():
        raise ValueError("has no valid host")
    return Receiver(parts.scheme, host, port, (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_public(address: str) -> bool:
    """Return whether an IP address is on the public Internet. Raises ValueError if it is not an address.

    IPv6 addresses that contain an IPv4 address (mapped, 6to4, Teredo, NAT64) are not: they may lead to a private one.
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address) and (ip not in _UNICAST or ip.sixtofour or ip.teredo):
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def secret(key: str, webhook_id: str, version: int) -> str:
    """Return the signing secret of a webhook; it follows from the bank's key, so that no database contains it."""
    return _PREFIX + base64.b64encode(_mac(key.encode(), f"{webhook_id}.{version}".encode())).decode()


def signing_versions(version: int, rotated_at: datetime | None, now: datetime) -> list[int]:
    """Return the versions of the secret that sign now, the current one first."""
    is_rotating = rotated_at is not None and now < rotated_at + ROTATION
    return [version, version - 1] if is_rotating else [version]


def signature(secrets: Sequence[str], message_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of `webhook-signature`: one signature per secret."""
    content = f"{message_id}.{timestamp}.".encode() + body
    keys = [base64.b64decode(each.removeprefix(_PREFIX)) for each in secrets]
    return " ".join("v1," + base64.b64encode(_mac(key, content)).decode() for key in keys)


def _mac(key: bytes, content: bytes) -> bytes:
    return hmac.new(key, content, hashlib.sha256).digest()


def message_id_of(webhook_id: str, event_id: str) -> str:
    """Return the value of `webhook-id`, the same for each attempt."""
    return f"msg_{uuid.uuid5(uuid.UUID(webhook_id), event_id)}"


def new_webhook_id(subject: str, key: str) -> str:
    """Return the id of the webhook that a client creates with an Idempotency-Key: a repetition creates no other."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"webhook\n{subject}\n{key}"))


def retry_delay(failures: int, random: float) -> timedelta:
    """Return the time until the next attempt after a number of failures; `random` is between 0 and 1."""
    longest = min(_FIRST_DELAY_SECONDS * 2 ** min(failures - 1, 20), _MAX_DELAY_SECONDS)
    return timedelta(seconds=longest * (0.5 + random / 2))


def disabled_reason(status: int | None, error: str, failing_since: datetime, now: datetime) -> str | None:
    """Return why a webhook is disabled after a failed attempt; None if it is tried again."""
    if status == GONE:
        return "the receiver responded 410 Gone"
    return f"failed for {MAX_FAILING.days} days: {error}" if now - failing_since >= MAX_FAILING else None


def account_of(event: CloudEvent) -> str | None:
    """Return the account of an event that webhooks are sent for; None for other events."""
    if event.type not in TYPES:
        return None
    try:
        return str(uuid.UUID(event.subject))
    except ValueError:
        return None


def body_of(event: CloudEvent) -> bytes:
    """Return the body of an event's webhook: without trace, request id and actor, which may name other clients."""
    fields = event.model_dump(mode="json", include={"specversion", "id", "source", "type", "subject", "time", "data"})
    return orjson.dumps({**fields, "datacontenttype": "application/json", "position": event.position})
