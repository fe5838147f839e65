"""The faults of faulty releases, by name. The package is copied into their images; no real image contains it."""

from collections.abc import Callable
from typing import Any

# Replaces an attribute: `setattr`, or pytest's `monkeypatch.setattr`, which restores it.
Patch = Callable[[Any, str, Any], None]

DESCRIPTIONS = {
    "errors": "every request gets 500, every other one after it has had its effect",
    "some-errors": "one of twenty requests gets 500",
    "401-all": "every token is rejected: 401",
    "404-all": "no route is found: 404",
    "422-valid": "valid bodies fail validation: 422",
    "409-half": "every other movement of money is refused for insufficient funds: 409",
    "wrong-balance-field": "accounts show a balance that is one minor unit too high",
    "no-events": "posted transactions publish no event",
    "no-history": "consumed events are acknowledged without an entry in the history",
    "wrong-amount-event": "events of entries have an amount that is one minor unit too high",
    "double-post": "every entry is written twice",
    "consumer": "every consumed event fails",
    "slow": "every request takes 300 ms longer",
    "slow-1-in-50": "one of fifty requests takes 2 s longer",
    "hang": "no request is answered",
    "leak": "every request leaks 20 KB of memory",
    "cpu-x3": "every request takes three times the CPU time",
    "death": "a request with the X-Request-ID query-of-death ends the process",
    "unready": "the service never becomes ready",
    "bad-config": "the setting AUTH_AUDIENCE is another environment's: every token is rejected",
    "none": "no fault",
}
# Faults without another image: settings of the same release, by variable.
SETTINGS = {"bad-config": {"AUTH_AUDIENCE": "banking-staging"}}
# Faults that damage the history for good: the events of what they have posted cannot be published again.
DAMAGING = ("no-events", "wrong-amount-event")
