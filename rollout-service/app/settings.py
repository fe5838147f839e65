"""Settings of rollout-service."""

from pathlib import Path

from pydantic import Field, SecretStr

from shared.runtime.settings import ProcessSettings


class RolloutSettings(ProcessSettings):
    """Settings of rollout-service, read from the environment; times are in seconds."""

    service: str = "rollout-service"
    project: str = Field(min_length=1, description="The compose project; nothing else is touched.")
    docker_url: str = Field("tcp://rollout-proxy:2375", description="Address of the socket proxy of Docker and NGINX.")
    prometheus_url: str = Field("http://prometheus:9090", description="Where canary and stable are measured.")
    edge_url: str = Field("http://nginx:8081", description="Where NGINX says by which configuration it serves.")
    bank_url: str = Field("http://nginx:8080", description="Where the requests of a rollout's own go.")
    state_dir: Path = Field(Path("/var/lib/banking"), description="Folder with rollout.json and the verdicts.")
    slack_webhook_url: SecretStr | None = Field(None, description="Where people are told; nobody is, without it.")
    synthetic_token_file: Path | None = Field(
        None, description="File with the token of the rollout's own requests, read for each of them: it is short-lived."
    )

    lease_seconds: float = Field(30, gt=0, description="Whoever drives a rollout has to be heard of so often.")
    poll_seconds: float = Field(0.5, gt=0, description="How often the state is looked at.")
    judge_seconds: float = Field(2, gt=0, description="How often a canary is judged.")
    synthetic_rate: float = Field(4, gt=0, le=50, description="Requests of a rollout's own per second.")
    min_requests: int = Field(100, ge=1, description="Requests that each canary service has to have answered.")
    warm_up_seconds: float = Field(10, ge=0, description="A canary's latencies count from so long after a step begins.")
    latency_ceiling: float = Field(1.0, gt=0, description="The slowest 5 % of a canary's answers may take so long.")
