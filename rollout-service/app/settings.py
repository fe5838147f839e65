"""Settings of rollout-service."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from shared.runtime.settings import ProcessSettings


class CanaryMetric(BaseModel):
    """An operator's own criterion of the canary analysis."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$", description="Name in verdicts.")
    canary: str = Field(min_length=1, description="PromQL of the canary's value.")
    stable: str = Field(min_length=1, description="PromQL of stable's value.")
    direction: Literal["higher_is_worse", "lower_is_worse"] = Field(
        "higher_is_worse", description="Which direction is worse."
    )
    tolerance: float = Field(0.1, ge=0, description="Tolerated difference, as a ratio of stable's value.")
    analyses: int = Field(3, ge=1, le=60, description="Consecutive samples, five seconds apart, that must be worse.")


class RolloutSettings(ProcessSettings):
    """Settings of rollout-service, read from the environment."""

    service: str = "rollout-service"
    project: str = Field(min_length=1, description="Compose project; containers of other projects are never touched.")
    docker_url: str = Field("tcp://rollout-proxy:2375", description="URL of the socket proxy for Docker and NGINX.")
    prometheus_url: str = Field(
        "http://prometheus:9090", description="URL of Prometheus, which measures canary and stable."
    )
    nginx_url: str = Field(
        "http://nginx:8081", description="URL at which NGINX reports its configuration (`/revision`)."
    )
    bank_url: str = Field(
        "http://nginx:8082",
        description="URL that synthetic requests are sent to: NGINX's port without TLS and PROXY protocol.",
    )
    state_dir: Path = Field(Path("/var/lib/banking"), description="Directory of rollout.json and the analysis records.")
    memory_dir: Path = Field(
        Path("/tmp/rollout"),  # nosec B108  # a tmpfs of the container
        description="Directory in memory for the current state, shared by all processes of the container.",
    )
    slack_webhook_url: SecretStr | None = Field(
        None, description="Slack webhook for notifications; without it none are sent."
    )
    synthetic_token_file: Path | None = Field(
        None, description="File with the token of synthetic requests; read for each request, because it is short-lived."
    )

    lease_seconds: float = Field(
        30, gt=0, description="Lease duration: the rollout is rolled back when the driver stops renewing it."
    )
    poll_interval_seconds: float = Field(0.5, gt=0, description="Interval of the control loop, in seconds.")
    analysis_interval_seconds: float = Field(
        2, gt=0, description="Interval between two analyses of the canary, in seconds."
    )
    synthetic_rate: float = Field(4, gt=0, le=50, description="Synthetic requests per second.")
    min_requests: int = Field(
        100, ge=1, description="Minimum number of requests per service and track before a promotion."
    )
    warm_up_seconds: float = Field(10, ge=0, description="Seconds at the start of a step whose latencies are ignored.")
    analysis_metrics: Annotated[list[CanaryMetric], NoDecode] = Field(
        [],
        description="Own criteria of the analysis, as a JSON list of objects with `name`, `canary` and `stable` "
        "(PromQL with one value each), `direction` (`higher_is_worse` or `lower_is_worse`), `tolerance` (a ratio) and "
        "`analyses` (how many in a row); ANALYSIS_METRICS_FILE names a file with it.",
    )
    max_p95_latency_seconds: float = Field(1.0, gt=0, description="Maximum p95 latency of the canary.")

    @field_validator("analysis_metrics", mode="before")
    @classmethod
    def _parse_json(cls, value: Any) -> Any:
        """Parse JSON here, because the settings' own parser does not read that of a file."""
        return (json.loads(value) if value else []) if isinstance(value, str) else value
