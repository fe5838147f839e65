"""Webhooks of Alertmanager and Grafana: authentication and payloads.

Payloads: Alertmanager's `webhook_config` (version 4), and Grafana's webhook contact point, which has the same fields
and more. Signature: Grafana's HMAC (grafana/alerting, http/hmac.go): lower-case hex of HMAC-SHA256 with the secret
over `<timestamp>:<body>`, the timestamp in seconds since 1970. The timestamp is required here.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Collection, Mapping
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, Field

from shared.http import bodies
from shared.http.problems import Problem

MAX_BYTES = 256 * 1024
# JSON nodes: Grafana sends about 150 per alert, and at most 100 alerts are accepted.
_MAX_NODES = 20_000
SIGNATURE = "x-grafana-alerting-signature"
TIMESTAMP = "x-grafana-alerting-timestamp"

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="autoscale"'}


class Labels(BaseModel):
    """The labels of an alert that are used; others are ignored."""

    service: str = Field(min_length=1, max_length=100)
    action: Literal["scale_out", "scale_in"]


class Alert(BaseModel):
    """One alert."""

    status: Literal["firing", "resolved"]
    labels: Labels
    annotations: dict[str, str] = {}
    startsAt: AwareDatetime
    endsAt: AwareDatetime | None = None
    fingerprint: str = ""


class Payload(BaseModel):
    """Fields that both send."""

    status: Literal["firing", "resolved"]
    receiver: str
    groupKey: str
    alerts: Annotated[list[Alert], Field(min_length=1, max_length=100)]


class AlertmanagerPayload(Payload):
    """Payload of Alertmanager."""

    version: Literal["4"]


class GrafanaPayload(Payload):
    """Payload of Grafana."""

    version: Literal["1"]
    orgId: int
    title: str = ""
    state: Literal["alerting", "ok", "no_data"]


class UnknownService(Problem):
    """An alert names a service that is not scalable."""


class WebhookVerifier:
    """Verifies the secret or the signature of a webhook; raises Problem (unauthorized)."""

    def __init__(self, secret: str, window: float) -> None:
        self._secret = secret.encode()
        self._window = window
        self._used: dict[str, float] = {}

    def check(self, headers: Mapping[str, str], body: bytes, now: float) -> None:
        """Raise Problem unless the request has the secret, or a valid, recent signature that was not used before.

        A signature is verified even if the secret is present.
        """
        if SIGNATURE in headers:
            self._check_signature(headers[SIGNATURE], headers.get(TIMESTAMP, ""), body, now)
        elif not self._has_secret(headers.get("authorization", "")):
            raise _unauthorized("Send the secret as a bearer token or basic password, or sign the request with it.")

    def _has_secret(self, authorization: str) -> bool:
        scheme, _, value = authorization.partition(" ")
        presented = value.strip().encode()
        if scheme.lower() == "basic":
            try:
                presented = base64.b64decode(presented, validate=True).partition(b":")[2]
            except binascii.Error:
                return False
        elif scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(presented, self._secret)

    def _check_signature(self, signature: str, timestamp: str, body: bytes, now: float) -> None:
        expected = hmac.new(self._secret, timestamp.encode() + b":" + body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(signature.encode(), expected.encode()):
            raise _unauthorized(f"Invalid signature; sign the value of {TIMESTAMP}, a colon and the body.")
        if not timestamp.isascii() or not timestamp.isdecimal() or abs(now - int(timestamp)) > self._window:
            raise _unauthorized(f"The signature is older than {self._window:g} s; sign the request again.")
        self._used = {used: until for used, until in self._used.items() if until >= now}
        if signature in self._used:
            raise _unauthorized("This request was received before.")
        self._used[signature] = int(timestamp) + self._window


def _unauthorized(detail: str) -> Problem:
    return Problem("unauthorized", detail, headers=_CHALLENGE)


def read(body: bytes, services: Collection[str]) -> list[Alert]:
    """Parse a payload and return its alerts.

    Raises Problem (malformed-request) or pydantic.ValidationError for an invalid payload, and UnknownService if an
    alert names an unknown service; then none of the alerts is processed.
    """
    document = bodies.loads(body, _MAX_NODES)
    model = GrafanaPayload if isinstance(document, dict) and "orgId" in document else AlertmanagerPayload
    alerts = model.model_validate(document).alerts
    unknown = [
        {"pointer": f"/alerts/{index}/labels/service", "detail": "is not a scalable service"}
        for index, alert in enumerate(alerts)
        if alert.labels.service not in services
    ]
    if unknown:
        raise UnknownService("validation-failed", "See `errors` for what to change.", unknown)
    return alerts
