"""Settings of autoscale-service."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from app.policy import Rate, Rules
from shared.runtime.settings import ProcessSettings, SharedSecret


class AutoscaleSettings(ProcessSettings):
    """Settings of autoscale-service, read from the environment; times are in seconds."""

    service: str = "autoscale-service"
    autoscale_token: SharedSecret = Field(description="Secret that senders of webhooks show or sign with.")
    scaler: Literal["compose", "swarm"] = Field("compose", description="What the replicas run on.")
    project: str = Field(min_length=1, description="The compose project or Swarm stack; nothing else is touched.")
    docker_url: str = Field("tcp://docker-proxy:2375", description="Where Docker answers: the socket proxy.")
    prometheus_url: str = Field("http://prometheus:9090", description="Where the recorded series are.")
    metrics: frozenset[str] = Field(
        frozenset({"requests_per_second", "cpu_cores"}),
        description="Values of the label `metric` that every service should have; one that lacks is a missing metric.",
    )
    state_dir: Path = Field(Path("/var/lib/autoscale"), description="Folder with the leader's lock and the pause.")

    min_replicas: int = Field(2, ge=1, description="Fewest replicas; the label banking.autoscale.min goes before.")
    max_replicas: int = Field(8, ge=1, description="Most replicas; the label banking.autoscale.max goes before.")
    tolerance: float = Field(0.1, ge=0, lt=1, description="Share that a load may differ from its target.")
    up_window: float = Field(0, ge=0, description="Going up waits until so long nothing lower was proposed.")
    down_window: float = Field(300, ge=0, description="Going down waits until so long nothing higher was proposed.")
    up_rate: Rate = Field(Rate(4, 100, 15), description="[replicas, percent, period] that may come at most.")
    down_rate: Rate = Field(Rate(1, 50, 60), description="[replicas, percent, period] that may go at most.")
    fallback_period: float = Field(60, gt=0, description="Without metrics an alert brings one replica in so long.")

    active_interval: float = Field(3, gt=0, description="Between decisions while an alert fires or a change is due.")
    idle_interval: float = Field(30, gt=0, description="Between decisions otherwise; a webhook wakes at once.")
    alert_memory: float = Field(900, gt=0, description="A firing alert that is not repeated counts for so long.")
    start_timeout: float = Field(60, gt=0, description="A new replica that is not healthy by then is removed.")
    backoff: float = Field(10, gt=0, description="Pause after a failed operation; doubles up to 30 times as long.")
    replay_window: float = Field(300, gt=0, description="A signed webhook may be so old, and comes once.")

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas is above max_replicas")
        return self

    def rules(self, minimum: int | None, maximum: int | None) -> Rules:
        """Return the rules of a service whose labels name these bounds."""
        low = self.min_replicas if minimum is None else minimum
        return Rules(
            minimum=low,
            maximum=max(low, self.max_replicas if maximum is None else maximum),
            tolerance=self.tolerance,
            up_window=self.up_window,
            down_window=self.down_window,
            up=self.up_rate,
            down=self.down_rate,
            fallback_period=self.fallback_period,
        )
