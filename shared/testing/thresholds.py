"""Thresholds of drills and of `make break-release`."""

from typing import NamedTuple


class Threshold(NamedTuple):
    """What is measured with its limit, the measured value, and whether the threshold is met."""

    name: str
    value: str
    met: bool
