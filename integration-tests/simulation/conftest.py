"""Fixtures of the simulation's tests."""

import pytest


@pytest.fixture(scope="session")
def generous_limits() -> None:
    """The services' own time limits: in simulated time no machine is busy."""
