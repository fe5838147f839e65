"""What the loop needs of whatever runs the replicas. Calls block; the loop makes them in threads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

AUTOSCALE = "banking.autoscale"
TRACK = "banking.track"
MINIMUM = "banking.autoscale.min"
MAXIMUM = "banking.autoscale.max"
# In the form that Docker filters by.
STABLE_LABELS = (f"{AUTOSCALE}=true", f"{TRACK}=stable")


# What may fail; `health` is a replica that did not become ready, `scale` what nobody has thought of.
OPERATIONS = ("observe", "create", "start", "health", "stop", "remove", "update", "scale")


@dataclass(slots=True)
class ScalingError(Exception):
    """An operation (one of those above) that failed; everything half-made is gone again."""

    operation: str
    detail: str

    def __str__(self) -> str:
        return f"{self.operation}: {self.detail}"


class Rolling(Exception):
    """Nothing was changed: another version is on its way in, and what comes or goes now is not for scaling to say."""


@dataclass(frozen=True, slots=True)
class Replicas:
    """The stable replicas of a service: how many run or start, how many of them are ready; bounds that its labels name.

    `stopped` are those that exist and do not run: killed, or stopped by a person. `rolling` says that not all that
    run are of one image: a new version replaces an old one.
    """

    current: int
    ready: int
    minimum: int | None = None
    maximum: int | None = None
    stopped: int = 0
    rolling: bool = False


def is_stable(labels: Mapping[str, str]) -> bool:
    """Tell whether labels are those of something stable that may be scaled."""
    return labels.get(AUTOSCALE) == "true" and labels.get(TRACK) == "stable"


def bounds(labels: Mapping[str, str]) -> tuple[int | None, int | None]:
    """Return the bounds that labels name; what is no positive number counts as not named."""
    low, high = (labels.get(name, "") for name in (MINIMUM, MAXIMUM))
    return int(low) if low.isdecimal() and int(low) else None, int(high) if high.isdecimal() and int(high) else None


class Scaler(Protocol):
    """Runs replicas. Every method raises ScalingError; where the change itself is done and only what is left of a
    replica could not be removed, its operation is `remove`."""

    def observe(self) -> Mapping[str, Replicas]:
        """Return the services that may be scaled, and no others."""
        ...

    def scale(self, service: str, replicas: int) -> None:
        """Bring a service to so many replicas: start new ones, or drain and remove the newest. Raises Rolling."""
        ...

    def clear_failed(self, service: str) -> int:
        """Take back what was started and did not become ready in time; return how many replicas that were."""
        ...
