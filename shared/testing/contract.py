"""Schemathesis holds a running service against its own OpenAPI document; for the tests of all services."""

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

from shared.http.problems import KINDS, MEDIA_TYPE, ProblemDocument
from shared.testing.fixtures import SEARCH_FACTOR, Lab, examples

_UUID = re.compile("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_ABOUT_FORM = {"malformed-request", "idempotency-key-missing", "method-not-allowed"}

# Given the name and value of an id in a request, returns the same or another one; see `hold_to_its_document`.
Replace = Callable[[str, str], str]


def hold_to_its_document(url: str, lab: Lab, replace: Replace = lambda name, value: value) -> None:
    """Send right and wrong requests to every operation, and check every answer.

    That is: no 5xx; status, content type and body as documented; errors are problems; the wrong is refused, and the
    right is not called malformed. `replace` may put ids that exist in the place of generated ones.
    """
    schema = schemathesis.openapi.from_url(url)
    schema.config.generation.update(with_security_parameters=False)
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
            # Not Schemathesis' idea of what is accepted: there are good reasons to refuse what is well-formed.
            case.call_and_validate(
                headers=lab.operator(),
                additional_checks=[_answers_as_promised],
                excluded_checks=[positive_data_acceptance],
            )

        check()  # pylint: disable=no-value-for-parameter  # Hypothesis gives it


@dataclass
class Walked:
    """How far the walks along the links of a document have come: requests, and those of them that followed a link."""

    cases: int = 0
    linked: int = 0
    answers: Counter[int] = field(default_factory=Counter)


def walk_along_its_links(url: str, lab: Lab, walks: int, length: int, number: int = 1) -> Walked:
    """Follow the links of the document from answer to request, and check every answer as above.

    Up to `length` requests for each of the `walks`; the same `number` gives the same walks.
    """
    schema = schemathesis.openapi.from_url(url)
    schema.config.generation.update(with_security_parameters=False)
    machine: Any = schema.as_state_machine()
    walked = Walked()

    class Walk(machine):  # type: ignore[misc]  # made by Schemathesis at run time
        """What every request and every answer of a walk is put through."""

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
                additional_checks=[*(additional_checks or ()), _answers_as_promised],
                excluded_checks=[positive_data_acceptance],
                transport_kwargs=options,
                recorder=self.recorder,
            )

    # A service that has changed meanwhile may answer otherwise, and then the next step cannot be what it was.
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


def assert_methods_are_those_documented(base: str, document: dict[str, Any]) -> None:
    """Ask every path for what it does not do; the answer has to name all that it does."""
    for path, operations in document["paths"].items():
        refused = httpx.patch(base + re.sub(r"{\w+}", str(uuid.uuid4()), path))
        assert refused.status_code == 405, path
        allowed = {method.lower() for method in refused.headers["allow"].split(", ")}
        # What documents do not name: HEAD answers wherever GET does.
        assert allowed == operations.keys() | ({"head"} if "get" in operations else set()), path


def _make_realistic(case: Case, replace: Replace) -> None:
    """Let ids be of things that exist, and keys be new; what is wrong stays wrong."""

    def change(name: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {inner: change(inner, item) for inner, item in value.items()}
        if isinstance(value, list):
            return [change(name, item) for item in value]
        if isinstance(value, float) and value.is_integer():
            return int(value)  # to JSON Schema 1.0 is an integer; to a bank it is not
        return replace(name, value) if isinstance(value, str) and _UUID.fullmatch(value) else value

    case.path_parameters = change("", case.path_parameters)
    if isinstance(case.body, dict):  # else there is nothing to change, and nothing must be said to have changed
        case.body = change("", case.body)
    headers = case.headers
    # Spaces around a header's value are no part of it, so they make nothing wrong.
    assume(not headers or all(str(value) == str(value).strip() for value in headers.values()))
    if headers and re.fullmatch("[!-~]{2,255}", headers.get("Idempotency-Key", "")):
        # Generated keys repeat themselves soon, and then only replays are tested; the shortest are left as they are.
        headers["Idempotency-Key"] = uuid.uuid4().hex


def _answers_as_promised(_context: CheckContext, response: Response, case: Case) -> None:
    """Check what the contract says of every answer: who gave it, and that an error is a problem (RFC 9457)."""
    headers = {name.lower(): values[0] for name, values in response.headers.items()}
    # What NGINX refuses by itself has no version behind it; a problem it has to be all the same.
    told_by = {"x-app-version", "x-app-track"}
    is_nginx_alone = headers.get("server") == "nginx" and response.status_code >= 400 and not told_by & headers.keys()
    assert headers.keys() >= ({"x-request-id"} if is_nginx_alone else {"x-request-id", *told_by}), headers
    if response.status_code < 400:
        return
    assert headers["content-type"] == MEDIA_TYPE, headers
    problem = response.json()
    ProblemDocument.model_validate(problem, strict=True)
    kind, code = KINDS[problem["code"]], problem["code"]
    assert (kind.status, kind.title, f"/problems/{code}") == (problem["status"], problem["title"], problem["type"])
    assert problem["status"] == response.status_code < 500, problem
    assert problem["request_id"] == headers["x-request-id"] or "idempotent-replayed" in headers, problem
    if case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE:
        # No document can tell how parameters of a query have to fit together, so there it may be refused as invalid.
        assert code not in (_ABOUT_FORM if case.method == "GET" else {*_ABOUT_FORM, "validation-failed"}), problem
