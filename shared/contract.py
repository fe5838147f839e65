"""Schemathesis holds a running service against its own OpenAPI document; for the tests of all services."""

import uuid

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from shared.testing import Lab


def hold_to_its_document(url: str, lab: Lab, examples: int = 50) -> None:
    """Generate requests for every operation; fail on a 5xx, an undocumented answer or an error that is no problem."""
    schema = schemathesis.openapi.from_url(url)
    for found in schema.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy())
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.explicit, Phase.generate],
        )
        def check(case: schemathesis.Case) -> None:
            headers = lab.operator()
            if "Idempotency-Key" in (case.headers or {}):
                # Generated keys repeat themselves soon, and then only replays are tested.
                headers["Idempotency-Key"] = uuid.uuid4().hex
            response = case.call(headers=headers)
            # To JSON Schema 1.0 is an integer; to a bank it is not.
            case.validate_response(response, excluded_checks=[positive_data_acceptance])
            if response.status_code >= 400:
                assert response.headers["content-type"] == ["application/problem+json"], response.status_code
                assert response.json()["request_id"] == response.headers["x-request-id"][0]

        check()
