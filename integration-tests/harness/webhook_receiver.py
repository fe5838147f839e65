"""A receiver of webhooks for drills, and what it can check: signatures as in Standard Webhooks, and the order."""

import base64
import hashlib
import hmac
import json
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

from shared.testing.ports import free_port

_SLOW_SECONDS = 2.0
# Standard Webhooks: receivers reject older and newer messages.
_MAX_CLOCK_SECONDS = 300
_STATUSES = {"rejecting": 500, "redirecting": 307}


@dataclass(slots=True)
class Request:
    """A request that a receiver got: time (since 1970), headers, body, the event in it, whether it was accepted."""

    at: float
    headers: Mapping[str, str]
    body: bytes
    event: dict[str, Any]
    accepted: bool = False

    def verifies(self, secret: str) -> bool:
        """Return whether the timestamp is current and a signature is that of the secret."""
        id_, timestamp = self.headers["webhook-id"], self.headers["webhook-timestamp"]
        key = base64.b64decode(secret.removeprefix("whsec_"))
        signed = hmac.digest(key, f"{id_}.{timestamp}.".encode() + self.body, hashlib.sha256)
        is_current = abs(self.at - int(timestamp)) <= _MAX_CLOCK_SECONDS
        return is_current and f"v1,{base64.b64encode(signed).decode()}" in self.headers["webhook-signature"].split(" ")


class Receiver:
    """Behaves as its kind until it recovers, and then accepts everything at once.

    The kinds: healthy, slow, rejecting, hanging, dead (does not listen), redirecting (to `redirect_to`).
    """

    def __init__(self, kind: str, redirect_to: str = "") -> None:
        self.kind, self.redirect_to = kind, redirect_to
        self.requests: list[Request] = []
        self._recovered = threading.Event()
        self._port = free_port()
        self._server: ThreadingHTTPServer | None = None
        if kind != "dead":
            self._listen()

    @property
    def url(self) -> str:
        """The URL to subscribe."""
        return f"http://127.0.0.1:{self._port}/hook"

    def _listen(self) -> None:
        handler = type("Handler", (_Handler,), {"receiver": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def recover(self) -> None:
        """Accept everything from now on."""
        self._recovered.set()
        if self._server is None:
            self._listen()

    def close(self) -> None:
        """Stop listening."""
        self._recovered.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def status(self) -> int:
        """Return the status of the next response; 0: close the connection without one."""
        if self._recovered.is_set():
            return 200
        if self.kind == "hanging":
            self._recovered.wait()
            return 0
        if self.kind == "slow":
            time.sleep(_SLOW_SECONDS)
        return _STATUSES.get(self.kind, 200)

    def accepted_ids(self) -> set[str]:
        """Return the ids of the events that were accepted."""
        return {request.event["id"] for request in list(self.requests) if request.accepted}

    def out_of_order(self) -> int:
        """Return how often the first arrival of an event followed that of a later event of its account."""
        first_arrivals: dict[str, dict[str, Any]] = {}
        for request in self.requests:
            first_arrivals.setdefault(request.event["id"], request.event)
        positions = defaultdict(list)
        for event in first_arrivals.values():
            positions[event["subject"]].append(event["position"])
        return sum(second < first for account in positions.values() for first, second in pairwise(account))

    def changed_ids(self) -> int:
        """Return the number of events whose `webhook-id` differed between attempts, or was that of another event."""
        pairs = {(request.headers["webhook-id"], request.event["id"]) for request in self.requests}
        return 2 * len(pairs) - len({id_ for id_, _ in pairs}) - len({event for _, event in pairs})


class _Handler(BaseHTTPRequestHandler):
    receiver: Receiver
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:  # pylint: disable=invalid-name
        """Record a request and respond."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(time.time(), headers, body, json.loads(body))
        self.receiver.requests.append(request)
        status = self.receiver.status()
        request.accepted = status == 200
        if not status:
            self.close_connection = True
            return
        with suppress(ConnectionError):
            self.send_response(status)
            self.send_header("Content-Length", "0")
            if status == _STATUSES["redirecting"]:
                self.send_header("Location", self.receiver.redirect_to)
            self.end_headers()

    def log_message(self, *_arguments: object) -> None:  # pylint: disable=arguments-differ
        """Log nothing."""
