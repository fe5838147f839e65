"""Command line of the rollout driver, inside the container: `python -m app.cli COMMAND`. Prints the state as JSON.

    status             print the state
    begin -            start the rollout described on standard input
    renew ID           renew the driver's lease
    provisioned ID     report that the canaries run; rejected until all are healthy and scraped by Prometheus
    promoted ID        report that stable runs the new version; rejected until it does
    abort REASON       roll back
    restored           report that stable runs the previous version again

Exits with 3 when the state does not allow the command (yet); standard error gives the reason. No token is required:
anyone who can run this can run any command in the container.
"""

import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from app import state_machine
from app.settings import RolloutSettings
from app.state_file import StateFile, InvalidStateFile
from app.state_machine import Transition, InvalidTransition, RolloutRequest, Rollout
from shared.runtime.settings import load_or_exit

REJECTED = 3


def _start(settings: RolloutSettings, now: float) -> Transition:
    request = RolloutRequest.model_validate_json(sys.stdin.buffer.read())
    rollout_id = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    return lambda state: state_machine.start(state, request, rollout_id, now, settings.lease_seconds)


# The phase that each command completes, once its conditions are met.
_COMPLETES = {"provisioned": "provisioning", "promoted": "promoting"}


def _check(command: str, settings: RolloutSettings, file: StateFile, rollout_id: str, now: float) -> None:
    """Renew the lease, and raise InvalidTransition while a condition of the command is not met."""
    # These imports take half of this program's start-up time, which `abort` must not wait for.
    from app.containers import DockerError  # pylint: disable=import-outside-toplevel
    from app.readiness import unmet_conditions  # pylint: disable=import-outside-toplevel

    state = file.change(lambda state: state_machine.renew(state, rollout_id, now, settings.lease_seconds))
    try:
        if state.phase == _COMPLETES[command] and (unmet := unmet_conditions(settings, state)):
            raise InvalidTransition("; ".join(unmet))
    except DockerError as error:
        raise InvalidTransition(str(error)) from error


def _transition(arguments: Sequence[str], settings: RolloutSettings, file: StateFile) -> Transition | None:
    """Return the transition of a command; None for an unknown command. Raises InvalidTransition, ValidationError."""
    now, lease = time.time(), settings.lease_seconds
    command, given = (arguments[0], arguments[1].strip()) if len(arguments) == 2 else (" ".join(arguments), "")
    if command == "begin" and given == "-":
        return _start(settings, now)
    if command in _COMPLETES and given:
        _check(command, settings, file, given, now)
    transitions: dict[tuple[str, bool], Transition] = {
        ("status", False): lambda state: state,
        ("restored", False): lambda state: state_machine.complete_restore(state, now),
        ("renew", True): lambda state: state_machine.renew(state, given, now, lease),
        ("provisioned", True): lambda state: state_machine.complete_provisioning(state, given, now),
        ("promoted", True): lambda state: state_machine.complete_promotion(state, given, now),
        ("abort", True): lambda state: state_machine.abort(state, given, now),
    }
    return transitions.get((command, bool(given)))


def _print(state: Rollout) -> None:
    document: dict[str, Any] = state_machine.to_dict(state)
    print(json.dumps(document, indent=2))


def main(arguments: Sequence[str]) -> int:
    """Run a command and return the exit code."""
    settings = load_or_exit(RolloutSettings)
    file = StateFile(settings.state_dir)
    try:
        transition = _transition(arguments, settings, file)
        if transition is None:
            print(__doc__, file=sys.stderr)
            return 2
        _print(file.change(transition))
    except InvalidTransition as error:
        print(f"rejected: {error}", file=sys.stderr)
        _print(file.load())
        return REJECTED
    except ValidationError as error:
        for problem in error.errors(include_input=False, include_url=False):
            print(f"begin: {'.'.join(map(str, problem['loc'])) or 'input'}: {problem['msg']}", file=sys.stderr)
        return 2
    except (OSError, InvalidStateFile) as error:
        print(f"cannot read or write the state: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
