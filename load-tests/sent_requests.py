"""The requests of this process that move money; a separate module, because Locust loads each locustfile anew."""

from surge_report import SentRequest

# By idempotency key.
SENT: dict[str, SentRequest] = {}
