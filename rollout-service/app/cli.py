"""What whoever drives a rollout says, inside the container: `python -m app.cli COMMAND`. Prints the state as JSON.

    status             show the state
    begin -            begin the rollout that is described on standard input
    renew ID           go on being in charge
    provisioned ID     the canaries run; refused until all are ready and measured
    promoted ID        stable runs the new version; refused unless it does
    abort REASON       take everything back
    restored           stable runs the version before again

Ends with 3 where the state does not allow it, or not yet; standard error says why. Who may run this may run anything
in the container, so no token is asked for.
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
from app.state_file import StateFile, Unreadable
from app.state_machine import Change, Refused, Request, Rollout
from shared.runtime.settings import load_or_exit

REFUSED = 3


def _begin(settings: RolloutSettings, now: float) -> Change:
    request = Request.model_validate_json(sys.stdin.buffer.read())
    rollout_id = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    return lambda state: state_machine.begin(state, request, rollout_id, now, settings.lease_seconds)


# The phase that each word ends, once what is there is as the driver says.
_ENDS = {"provisioned": "provisioning", "promoted": "promoting"}


def _look(verb: str, settings: RolloutSettings, file: StateFile, rollout_id: str, now: float) -> None:
    """Renew the lease, and raise Refused if what the driver says is not so yet."""
    # Half the time that this program needs to start, which whoever aborts need not wait for.
    from app.containers import DockerFailed  # pylint: disable=import-outside-toplevel
    from app.readiness import still_missing  # pylint: disable=import-outside-toplevel

    state = file.change(lambda state: state_machine.renew(state, rollout_id, now, settings.lease_seconds))
    try:
        if state.phase == _ENDS[verb] and (lines := still_missing(settings, state)):
            raise Refused("; ".join(lines))
    except DockerFailed as error:
        raise Refused(str(error)) from error


def _change(arguments: Sequence[str], settings: RolloutSettings, file: StateFile) -> Change | None:
    """Return what a command does to the state; None for no command. Raises Refused, ValidationError."""
    now, lease = time.time(), settings.lease_seconds
    verb, given = (arguments[0], arguments[1].strip()) if len(arguments) == 2 else (" ".join(arguments), "")
    if verb == "begin" and given == "-":
        return _begin(settings, now)
    if verb in _ENDS and given:
        _look(verb, settings, file, given, now)
    changes: dict[tuple[str, bool], Change] = {
        ("status", False): lambda state: state,
        ("restored", False): lambda state: state_machine.restored(state, now),
        ("renew", True): lambda state: state_machine.renew(state, given, now, lease),
        ("provisioned", True): lambda state: state_machine.provisioned(state, given, now),
        ("promoted", True): lambda state: state_machine.promoted(state, given, now),
        ("abort", True): lambda state: state_machine.abort(state, given, now),
    }
    return changes.get((verb, bool(given)))


def _print(state: Rollout) -> None:
    document: dict[str, Any] = state_machine.to_dict(state)
    print(json.dumps(document, indent=2))


def main(arguments: Sequence[str]) -> int:
    """Do what the arguments say."""
    settings = load_or_exit(RolloutSettings)
    file = StateFile(settings.state_dir)
    try:
        change = _change(arguments, settings, file)
        if change is None:
            print(__doc__, file=sys.stderr)
            return 2
        _print(file.change(change))
    except Refused as error:
        print(f"refused: {error}", file=sys.stderr)
        _print(file.load())
        return REFUSED
    except ValidationError as error:
        for problem in error.errors(include_input=False, include_url=False):
            print(f"begin: {'.'.join(map(str, problem['loc'])) or 'input'}: {problem['msg']}", file=sys.stderr)
        return 2
    except (OSError, Unreadable) as error:
        print(f"the state cannot be kept: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
