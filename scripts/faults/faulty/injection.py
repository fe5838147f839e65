"""Injects a fault into the service of this process."""

from collections.abc import Callable

from . import Patch, effects, requests, resources

FAULTS: dict[str, Callable[[Patch], None]] = {
    "errors": requests.errors,
    "some-errors": requests.some_errors,
    "401-all": requests.unauthorized,
    "404-all": requests.not_found,
    "422-valid": requests.invalid,
    "409-half": effects.refused,
    "wrong-balance-field": effects.wrong_balance,
    "no-events": effects.no_events,
    "no-history": effects.no_history,
    "wrong-amount-event": effects.wrong_amount,
    "double-post": effects.double_post,
    "consumer": effects.consumer,
    "slow": requests.slow,
    "slow-1-in-50": requests.slow_tail,
    "hang": requests.hang,
    "leak": resources.leak,
    "cpu-x3": resources.cpu,
    "death": requests.death,
    "unready": requests.unready,
    "none": lambda patch: None,
}


def inject(name: str, patch: Patch) -> None:
    """Inject a fault. Raises KeyError for an unknown name."""
    FAULTS[name](patch)
