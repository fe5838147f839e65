"""Webhooks of Alertmanager and Grafana: who may send them, and what they say.

Payloads: Alertmanager's `webhook_config` (version 4), and Grafana's webhook contact point, which has the same fields
and more. Signature: Grafana's HMAC (grafana/alerting, http/hmac.go): lower-case hex of HMAC-SHA256 with the secret
over `<timestamp>:<body>`, the timestamp in seconds since 1970. It has to have a timestamp here.
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
# Grafana sends about 150 for an alert, and up to 100 alerts are taken.
_MAX_NODES = 20_000
SIGNATURE = "x-grafana-alerting-signature"
TIMESTAMP = "x-grafana-alerting-timestamp"

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="autoscale"'}


class Labels(BaseModel):
    """The labels of an alert that matter here; others are ignored."""

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
    """What both send."""

    status: Literal["firing", "resolved"]
    receiver: str
    groupKey: str
    alerts: Annotated[list[Alert], Field(min_length=1, max_length=100)]


class AlertmanagerPayload(Payload):
    """What Alertmanager sends."""

    version: Literal["4"]


class GrafanaPayload(Payload):
    """What Grafana sends."""

    version: Literal["1"]
    orgId: int
    title: str = ""
    state: Literal["alerting", "ok", "no_data"]


class UnknownService(Problem):
    """A webhook about something that may not be scaled."""


class Door:
    """Lets in who knows the secret. Every refusal is a Problem (unauthorized)."""

    def __init__(self, secret: str, window: float) -> None:
        self._secret = secret.encode()
        self._window = window
        self._used: dict[str, float] = {}

    def check(self, headers: Mapping[str, str], body: bytes, now: float) -> None:
        """Raise Problem unless the request shows the secret, or is signed with it, recently and for the first time.

        A signature that is there has to be right, also beside the secret.
        """
        if SIGNATURE in headers:
            self._check_signature(headers[SIGNATURE], headers.get(TIMESTAMP, ""), body, now)
        elif not self._shown(headers.get("authorization", "")):
            raise _refused("Send the secret as a bearer token or basic password, or sign with it.")

    def _shown(self, authorization: str) -> bool:
        scheme, _, value = authorization.partition(" ")
        given = value.strip().encode()
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).partition(b":")[2]
            except binascii.Error:
                return False
        elif scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(given, self._secret)

    def _check_signature(self, signature: str, timestamp: str, body: bytes, now: float) -> None:
        right = hmac.new(self._secret, timestamp.encode() + b":" + body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(signature.encode(), right.encode()):
            raise _refused(f"The signature is wrong; it is over {TIMESTAMP}, a colon and the body.")
        if not timestamp.isascii() or not timestamp.isdecimal() or abs(now - int(timestamp)) > self._window:
            raise _refused(f"The signature is older than {self._window:g} s; send a new one.")
        self._used = {one: until for one, until in self._used.items() if until >= now}
        if signature in self._used:
            raise _refused("This request has been received already.")
        self._used[signature] = int(timestamp) + self._window


def _refused(detail: str) -> Problem:
    return Problem("unauthorized", detail, headers=_CHALLENGE)


def read(body: bytes, known: Collection[str]) -> list[Alert]:
    """Return the alerts of a payload.

    Raises Problem (malformed-request) or pydantic.ValidationError for what is none, and UnknownService if it names
    another service than the known ones; then none of its alerts counts.
    """
    document = bodies.loads(body, _MAX_NODES)
    model = GrafanaPayload if isinstance(document, dict) and "orgId" in document else AlertmanagerPayload
    alerts = model.model_validate(document).alerts
    unknown = [
        {"pointer": f"/alerts/{index}/labels/service", "detail": "is no service that may be scaled"}
        for index, alert in enumerate(alerts)
        if alert.labels.service not in known
    ]
    if unknown:
        raise UnknownService("validation-failed", "See `errors` for what to change.", unknown)
    return alerts
