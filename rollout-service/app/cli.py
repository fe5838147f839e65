"""Command line of the rollout driver, inside the container: `python -m app.cli COMMAND`. Prints the state as JSON.

    status                print the state
    begin -               start the rollout described on standard input
    renew ID              renew the driver's lease
    provisioned ID        report that the canaries run; rejected until all are healthy and scraped by Prometheus
    approve ID WEIGHT BY  approve the step after the one with this weight, for which the rollout waits
    promoted ID           report that stable runs the new version; rejected until it does
    abort ID REASON       roll back
    restoring ID          check that stable has to be restored to the previous version
    restored ID           report that stable runs the previous version again

ID is the rollout's, as `begin` prints it: a driver whose rollout has ended cannot affect another one. For a person,
`current` is the rollout in progress, or the last one.

Exits with 3 when the state does not allow the command (yet); standard error gives the reason. No token is required:
anyone who can run this can run any command in the container.
"""

import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from app import state_machine
from app.clock import Clock
from app.rollout_request import RolloutRequest
from app.settings import RolloutSettings
from app.state_file import StateFile, InvalidStateFile
from app.state_machine import Transition, InvalidTransition, Rollout
from shared.runtime.settings import load_or_exit

REJECTED = 3

# The phase that each command completes, once its conditions are met.
_COMPLETED_PHASES = {"provisioned": "provisioning", "promoted": "promoting"}
# Commands that fail if the state cannot be stored on the host; a rollback does not depend on it.
_REQUIRES_STORE = {"begin", "provisioned", "approve", "promoted"}
_ARGUMENTS = {
    **{"status": 0, "begin": 1, "renew": 1, "provisioned": 1, "promoted": 1, "restoring": 1, "restored": 1},
    **{"abort": 2, "approve": 3},
}

# A transition of the state at a time.
_Command = Callable[[Rollout, float], Rollout]


def _start(settings: RolloutSettings, clock: Clock) -> Transition:
    request = RolloutRequest.model_validate_json(sys.stdin.buffer.read())
    now = clock.wall()
    rollout_id = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    lease = settings.lease_seconds
    return lambda state: clock.adjust_to_boot(state_machine.start(state, request, rollout_id, now, lease), lease)


def _check(command: str, settings: RolloutSettings, file: StateFile, rollout_id: str, clock: Clock) -> None:
    """Renew the lease, and raise InvalidTransition while a condition of the command is not met."""
    # These imports take half of this program's start-up time, which `abort` must not wait for.
    from app.containers import DockerError  # pylint: disable=import-outside-toplevel
    from app.readiness import unmet_conditions  # pylint: disable=import-outside-toplevel

    lease = settings.lease_seconds
    state = file.change(lambda state: state_machine.renew(state, rollout_id, clock.now(state), lease))
    try:
        if state.phase == _COMPLETED_PHASES[command] and (unmet := unmet_conditions(settings, state)):
            raise InvalidTransition("; ".join(unmet))
    except DockerError as error:
        raise InvalidTransition(str(error)) from error


def _command(name: str, arguments: Sequence[str], settings: RolloutSettings) -> _Command:
    """Return what a command does to the state."""
    commands: dict[str, _Command] = {
        "status": lambda state, now: state,
        "renew": lambda state, now: state_machine.renew(state, arguments[0], now, settings.lease_seconds),
        "provisioned": lambda state, now: state_machine.complete_provisioning(state, arguments[0], now),
        "approve": lambda state, now: state_machine.approve(state, arguments[0], int(arguments[1]), arguments[2], now),
        "promoted": lambda state, now: state_machine.complete_promotion(state, arguments[0], now),
        "abort": lambda state, now: state_machine.abort(state, arguments[0], arguments[1], now),
        "restoring": lambda state, now: state_machine.check_restoring(state, arguments[0]),
        "restored": lambda state, now: state_machine.complete_restore(state, arguments[0], now),
    }
    return commands[name]


def _is_valid(arguments: Sequence[str]) -> bool:
    """Return whether the arguments are those of a known command."""
    if not arguments or len(arguments) - 1 != _ARGUMENTS.get(arguments[0]) or not all(arguments):
        return False
    return (arguments[0] != "begin" or arguments[1] == "-") and (arguments[0] != "approve" or arguments[2].isdecimal())


def _run(name: str, arguments: Sequence[str], settings: RolloutSettings, file: StateFile) -> Rollout:
    """Run a command and return the new state. Raises InvalidTransition, ValidationError, OSError, InvalidStateFile."""
    clock = Clock()
    if name in _REQUIRES_STORE:
        # Written even if unchanged: this fails on a disk that has become read-only.
        file.store(always=True)
    if name in _COMPLETED_PHASES:
        _check(name, settings, file, arguments[0], clock)
    if name == "begin":
        state = file.change(_start(settings, clock))
    else:
        command = _command(name, arguments, settings)
        state = file.change(lambda state: command(state, clock.now(state)))
    if name in _REQUIRES_STORE:
        file.store()
    return state


def _print(state: Rollout) -> None:
    document: dict[str, Any] = state_machine.to_dict(state)
    print(json.dumps(document, indent=2))


def main(arguments: Sequence[str]) -> int:
    """Run a command and return the exit code."""
    arguments = [argument.strip() for argument in arguments]
    if not _is_valid(arguments):
        print(__doc__, file=sys.stderr)
        return 2
    settings = load_or_exit(RolloutSettings)
    try:
        file = StateFile(settings.state_dir, settings.memory_dir)
        _print(_run(arguments[0], arguments[1:], settings, file))
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
