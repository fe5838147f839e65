"""Fixtures of rollout-service's tests."""

from collections.abc import Iterator

import pytest

from shared.testing.timing import BUSY_SECONDS

_LIMITS = (
    "controller._STORE_TIMEOUT_SECONDS",
    "analysis.runner._STORE_TIMEOUT_SECONDS",
    "analysis.queries._TIMEOUT_SECONDS",
)


@pytest.fixture(scope="session", autouse=True)
def generous_limits_of_the_service() -> Iterator[None]:
    """Time limits that a busy machine may exceed; the test of such a limit sets its own."""
    with pytest.MonkeyPatch.context() as patch:
        for limit in _LIMITS:
            patch.setattr(f"app.{limit}", BUSY_SECONDS)
        yield
