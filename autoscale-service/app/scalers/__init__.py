"""The interface of a scaler. Calls block; the control loop runs them in threads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

AUTOSCALE = "banking.autoscale"
TRACK = "banking.track"
MINIMUM = "banking.autoscale.min"
MAXIMUM = "banking.autoscale.max"
# As Docker label filters.
STABLE_LABELS = (f"{AUTOSCALE}=true", f"{TRACK}=stable")


# Operations that can fail; `health`: a replica did not become ready, `scale`: an unexpected error.
OPERATIONS = ("observe", "create", "start", "health", "stop", "remove", "update", "scale")


@dataclass(slots=True)
class ScalingError(Exception):
    """A failed operation (one of OPERATIONS); partial changes have been reverted."""

    operation: str
    detail: str

    def __str__(self) -> str:
        return f"{self.operation}: {self.detail}"


class UpdateInProgress(Exception):
    """Nothing was changed: another version of the service is being rolled out."""


@dataclass(frozen=True, slots=True)
class Replicas:
    """The stable replicas of a service: how many run or start, how many of them are ready; bounds set by labels.

    `stopped` are those that exist and do not run: killed, or stopped manually. `updating`: the running ones have
    different images, because a new version replaces an old one.
    """

    current: int
    ready: int
    minimum: int | None = None
    maximum: int | None = None
    stopped: int = 0
    updating: bool = False


def is_stable(labels: Mapping[str, str]) -> bool:
    """Return whether the labels mark a scalable stable service or replica."""
    return labels.get(AUTOSCALE) == "true" and labels.get(TRACK) == "stable"


def bounds(labels: Mapping[str, str]) -> tuple[int | None, int | None]:
    """Return the bounds set by labels; a value that is not a positive integer is ignored."""
    low, high = (labels.get(name, "") for name in (MINIMUM, MAXIMUM))
    return int(low) if low.isdecimal() and int(low) else None, int(high) if high.isdecimal() and int(high) else None


class Scaler(Protocol):
    """Runs replicas. All methods raise ScalingError.

    If the change succeeded and only the removal of a stopped replica failed, the error's operation is `remove`.
    """

    def observe(self) -> Mapping[str, Replicas]:
        """Return the scalable services."""
        ...

    def scale(self, service: str, replicas: int) -> None:
        """Set the number of replicas: start new ones, or drain and remove the newest. Raises UpdateInProgress."""
        ...

    def remove_failed(self, service: str) -> int:
        """Remove replicas that were started and did not become ready in time; return their number."""
        ...
