"""Contract tests with Schemathesis: a running service conforms to its own OpenAPI document."""

import re
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import FlakyStrategyDefinition
from hypothesis.stateful import run_state_machine_as_test
from schemathesis import Case, CheckContext, GenerationMode, Response
from schemathesis.core.result import Err
from schemathesis.specs.openapi.checks import positive_data_acceptance

from shared.http.problems import PROBLEM_TYPES, MEDIA_TYPE, ProblemDocument
from shared.testing.fixtures import SEARCH_FACTOR, Lab, examples
from shared.testing.timing import BUSY_SECONDS

_UUID = re.compile("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
# OpenAPI cannot express which hosts and ports are allowed.
_ALLOWED_URL = "/url"
_MALFORMED_CODES = {"malformed-request", "idempotency-key-missing", "method-not-allowed"}

# Maps the name and value of an id in a request to the same or another id; see `assert_conforms_to_openapi`.
Replace = Callable[[str, str], str]


def _schema(url: str) -> Any:
    """Return the document of a service, whose responses may take long on a busy machine."""
    schema = schemathesis.openapi.from_url(url, timeout=BUSY_SECONDS)
    schema.config.update(request_timeout=BUSY_SECONDS)
    schema.config.generation.update(with_security_parameters=False)
    return schema


def assert_conforms_to_openapi(url: str, lab: Lab, replace: Replace = lambda name, value: value) -> None:
    """Send valid and invalid requests to every operation and check every response.

    Checks: no 5xx; status, content type and body as documented; errors are problems; invalid requests are rejected, and
    valid ones are not malformed. `replace` may substitute existing ids for generated ones.
    """
    schema = _schema(url)
    for found in schema.get_all_operations():
        if isinstance(found, Err):
            raise found.err()
        operation = found.ok()
        strategies = [operation.as_strategy(generation_mode=mode) for mode in GenerationMode]

        @given(case=st.one_of(strategies))
        @settings(
            max_examples=examples(15),
            deadline=None,
            database=None,
            derandomize=SEARCH_FACTOR == 1,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.explicit, Phase.generate],
        )
        def check(case: Case) -> None:
            _make_realistic(case, replace)
            # Without positive_data_acceptance: well-formed requests may be rejected for business reasons.
            case.call_and_validate(
                headers=lab.operator(),
                additional_checks=[_check_response],
                excluded_checks=[positive_data_acceptance],
            )

        check()  # pylint: disable=no-value-for-parameter  # Hypothesis passes the argument


@dataclass
class LinkWalk:
    """Result of following links: number of requests, of those that followed a link, and responses by status."""

    cases: int = 0
    linked: int = 0
    answers: Counter[int] = field(default_factory=Counter)


def follow_links(url: str, lab: Lab, walks: int, length: int, number: int = 1) -> LinkWalk:
    """Follow the links of the document from response to request and check every response.

    Each of the `walks` has up to `length` requests; the same `number` (seed) gives the same walks.
    """
    machine: Any = _schema(url).as_state_machine()
    walked = LinkWalk()

    class Walk(machine):  # type: ignore[misc]  # made by Schemathesis at run time
        """Hooks for every request and response of a walk."""

        def before_call(self, case: Case) -> None:
            _make_realistic(case, lambda name, value: value)

        def get_call_kwargs(self, case: Case) -> dict[str, Any]:
            del case
            return {"headers": lab.operator()}

        def after_call(self, response: Response, case: Case) -> None:
            super().after_call(response, case)
            walked.cases += 1
            walked.linked += self.recorder.find_parent(case_id=case.id) is not None
            walked.answers[response.status_code] += 1

        def validate_response(
            self, response: Response, case: Case, additional_checks: Sequence[Any] | None = None, **options: Any
        ) -> None:
            case.validate_response(
                response,
                additional_checks=[*(additional_checks or ()), _check_response],
                excluded_checks=[positive_data_acceptance],
                transport_kwargs=options,
                recorder=self.recorder,
            )

    # The state of the service changes between replays, so its responses may differ.
    with suppress(FlakyStrategyDefinition):
        run_state_machine_as_test(
            seed(number)(Walk),
            settings=settings(
                max_examples=walks,
                stateful_step_count=length,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate],
            ),
        )
    return walked


def assert_documented_methods(base: str, document: dict[str, Any]) -> None:
    """Check that a 405 on every path lists exactly the documented methods."""
    for path, operations in document["paths"].items():
        response = httpx.put(base + re.sub(r"{\w+}", str(uuid.uuid4()), path), timeout=BUSY_SECONDS)
        assert response.status_code == 405, path
        allowed = {method.lower() for method in response.headers["allow"].split(", ")}
        # HEAD is not documented, but supported wherever GET is.
        assert allowed == operations.keys() | ({"head"} if "get" in operations else set()), path


def _make_realistic(case: Case, replace: Replace) -> None:
    """Use existing ids and new idempotency keys; invalid values stay invalid."""

    def change(name: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {inner: change(inner, item) for inner, item in value.items()}
        if isinstance(value, list):
            return [change(name, item) for item in value]
        if isinstance(value, float) and value.is_integer():
            return int(value)  # JSON Schema accepts 1.0 as an integer, the API does not
        return replace(name, value) if isinstance(value, str) and _UUID.fullmatch(value) else value

    case.path_parameters = change("", case.path_parameters)
    if isinstance(case.body, dict):  # assigning the same body would count as a change
        case.body = change("", case.body)
    headers = case.headers
    # Leading and trailing spaces are not part of a header value, so they do not make it invalid.
    assume(not headers or all(str(value) == str(value).strip() for value in headers.values()))
    if headers and re.fullmatch("[!-~]{2,255}", headers.get("Idempotency-Key", "")):
        # Generated keys repeat soon and would only test replays; one-character keys are kept.
        headers["Idempotency-Key"] = uuid.uuid4().hex


def _check_response(_context: CheckContext, response: Response, case: Case) -> None:
    """Check the common contract of responses: identity headers, and errors as problems (RFC 9457)."""
    headers = {name.lower(): values[0] for name, values in response.headers.items()}
    # Responses of NGINX itself have no version and track, but errors must be problems as well.
    identity = {"x-app-version", "x-app-track"}
    is_nginx_alone = headers.get("server") == "nginx" and response.status_code >= 400 and not identity & headers.keys()
    assert headers.keys() >= ({"x-request-id"} if is_nginx_alone else {"x-request-id", *identity}), headers
    if response.status_code < 400:
        return
    assert headers["content-type"] == MEDIA_TYPE, headers
    problem = response.json()
    ProblemDocument.model_validate(problem, strict=True)
    kind, code = PROBLEM_TYPES[problem["code"]], problem["code"]
    assert (kind.status, kind.title, f"/problems/{code}") == (problem["status"], problem["title"], problem["type"])
    assert problem["status"] == response.status_code < 500, problem
    assert problem["request_id"] == headers["x-request-id"] or "idempotent-replayed" in headers, problem
    pointers = {error["pointer"] for error in problem.get("errors", ())}
    if case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE and pointers != {_ALLOWED_URL}:
        # OpenAPI cannot express dependencies between query parameters, so GET may return validation-failed.
        assert code not in (
            _MALFORMED_CODES if case.method == "GET" else {*_MALFORMED_CODES, "validation-failed"}
        ), problem
