"""The request with which a driver starts a rollout."""

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

SERVICES = ("account-service", "transaction-service")
Revision = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class RolloutRequest(BaseModel):
    """A request for a rollout: the new version of both services, and the canary steps."""

    model_config = ConfigDict(extra="forbid")

    driver: str = Field(min_length=1, description="Name of the driver, shown to operators.")
    version: str = Field(min_length=1)
    images: dict[str, str] = Field(description="New image of each service.")
    previous: dict[str, str] = Field(description="Current image of each service.")
    revisions: dict[str, Revision] = Field({}, description="New revision of each service's configuration.")
    previous_revisions: dict[str, Revision] = Field({}, description="Current revision of each service's configuration.")
    canaries: dict[str, int] = Field(dict.fromkeys(SERVICES, 1), description="Canary replicas of each service.")
    steps: list[int] = Field([10, 50], min_length=1, description="Canary weights in percent, in increasing order.")
    bake_seconds: float = Field(60, ge=0, description="Minimum duration of a step.")
    step_timeout_seconds: float = Field(600, gt=0, description="Maximum duration of provisioning, and of each step.")
    scale_down_delay_seconds: float = Field(
        1800, ge=0, description="How long the previous version keeps running after promotion."
    )
    synthetic: bool = Field(False, description="Send synthetic requests to both tracks.")
    gates: list[int] = Field([], description="Weights that need an approval before the next step.")
    gate_timeout_seconds: float = Field(3600, gt=0, description="Maximum wait for an approval.")
    skip_analysis: str = Field("", description="Reason to promote without canary traffic and analysis (emergency).")
    observed: str | None = Field(None, description="Id of the last rollout when the driver read the running images.")

    @field_validator("images", "previous", "canaries")
    @classmethod
    def _require_both_services(cls, value: dict[str, Any]) -> dict[str, Any]:
        if value.keys() != set(SERVICES):
            raise ValueError(f"must have a value for each service: {', '.join(SERVICES)}")
        return value

    @model_validator(mode="after")
    def _require_all_revisions(self) -> Self:
        services = {frozenset(self.revisions), frozenset(self.previous_revisions)}
        if services not in ({frozenset()}, {frozenset(SERVICES)}):
            raise ValueError("revisions and previous_revisions: give both, for each service, or neither")
        return self
