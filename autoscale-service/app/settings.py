"""Settings of autoscale-service."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from app.policy import ScalingPolicy, ScalingSpec
from shared.runtime.settings import ProcessSettings, SharedSecret


class AutoscaleSettings(ProcessSettings):
    """Settings of autoscale-service, read from the environment."""

    service: str = "autoscale-service"
    autoscale_token: SharedSecret = Field(
        description="Secret for authenticating webhooks: bearer token, basic password or HMAC key."
    )
    scaler: Literal["compose", "swarm"] = Field("compose", description="Orchestrator: `compose` or `swarm`.")
    project: str = Field(min_length=1, description="Compose project or Swarm stack; nothing else is touched.")
    docker_url: str = Field("tcp://docker-proxy:2375", description="URL of the Docker socket proxy.")
    prometheus_url: str = Field(
        "http://prometheus:9090", description="URL of Prometheus, which has the recorded metrics."
    )
    metrics: frozenset[str] = Field(
        frozenset({"requests_per_second", "cpu_cores"}),
        description="Metrics expected of each service (label `metric`); one without a value counts as missing.",
    )
    state_dir: Path = Field(
        Path("/var/lib/autoscale"), description="Directory of the leader lock and the pause marker."
    )

    dry_run: bool = Field(
        False, description="Whether decisions are only logged and counted, and no replica is started or removed."
    )
    min_replicas: int = Field(
        2, ge=1, description="Minimum number of replicas; the label banking.autoscale.min takes precedence."
    )
    max_replicas: int = Field(
        8, ge=1, description="Maximum number of replicas; the label banking.autoscale.max takes precedence."
    )
    tolerance: float = Field(0.1, ge=0, lt=1, description="Relative deviation from the target that causes no scaling.")
    scale_up_stabilization_seconds: float = Field(0, ge=0, description="Scale-up stabilization window, in seconds.")
    scale_down_stabilization_seconds: float = Field(
        300, ge=0, description="Scale-down stabilization window, in seconds."
    )
    scale_up_policy: ScalingPolicy = Field(
        ScalingPolicy(4, 100, 15),
        description="Scale-up policy [replicas, percent, period in seconds]: maximum increase per period.",
    )
    scale_down_policy: ScalingPolicy = Field(
        ScalingPolicy(1, 50, 60),
        description="Scale-down policy [replicas, percent, period in seconds]: maximum decrease per period.",
    )
    panic_threshold: float = Field(
        2,
        ge=0,
        description="Ratio of the load over the panic window to its target that starts panic mode, which adds replicas"
        " without a stabilization window and removes none; 0: never.",
    )
    panic_duration_seconds: float = Field(
        60, ge=0, description="Duration of panic mode after the load was last above PANIC_THRESHOLD, in seconds."
    )
    fallback_period_seconds: float = Field(
        60, gt=0, description="Without metrics, a firing alert adds at most one replica per this many seconds."
    )

    active_interval_seconds: float = Field(
        2, gt=0, description="Interval of the control loop while an alert fires or a change is due, in seconds."
    )
    idle_interval_seconds: float = Field(
        30, gt=0, description="Interval of the control loop otherwise, in seconds; a webhook wakes it at once."
    )
    alert_resolve_timeout_seconds: float = Field(
        900, gt=0, description="How long a firing alert stays active without being re-sent, in seconds."
    )
    start_timeout_seconds: float = Field(
        60, gt=0, description="Seconds until a new replica that is not healthy is removed."
    )
    backoff_seconds: float = Field(
        10, gt=0, description="Initial delay after a failed operation, in seconds; doubles up to 30 times this value."
    )
    replay_window_seconds: float = Field(
        300, gt=0, description="Maximum age of a signed webhook, in seconds; each signature is accepted once."
    )

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas is above max_replicas")
        if 0 < self.panic_threshold <= 1 + self.tolerance:
            raise ValueError("panic_threshold is not above the tolerated load; 0 disables the panic mode")
        return self

    def spec(self, minimum: int | None, maximum: int | None) -> ScalingSpec:
        """Return the scaling configuration of a service; bounds of its labels take precedence."""
        low = self.min_replicas if minimum is None else minimum
        return ScalingSpec(
            minimum=low,
            maximum=max(low, self.max_replicas if maximum is None else maximum),
            tolerance=self.tolerance,
            scale_up_stabilization_seconds=self.scale_up_stabilization_seconds,
            scale_down_stabilization_seconds=self.scale_down_stabilization_seconds,
            up=self.scale_up_policy,
            down=self.scale_down_policy,
            panic_threshold=self.panic_threshold,
            panic_duration_seconds=self.panic_duration_seconds,
            fallback_period_seconds=self.fallback_period_seconds,
        )
