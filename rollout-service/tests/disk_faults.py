"""`python -m tests.disk_faults FOLDER`, in a mount namespace with a small file system at FOLDER: fill it, then make it
read-only, and roll a bad canary back each time. Prints what happened as JSON.
"""

import asyncio
import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from app import controller, state_machine
from app.nginx import NginxError
from app.selection import Selection
from app.state_file import StateFile
from tests.fake_stack import FakeStack, at_step, others, request, verdict


def _fill(folder: Path) -> None:
    with (folder / "filler").open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 512)


def _try(action: Any, *arguments: Any) -> str:
    try:
        action(*arguments)
    except OSError as error:
        return str(error.strerror)
    return ""


async def _bad_canary(stack: FakeStack, folder: Path, break_disk: Any) -> dict[str, Any]:
    """Return what serves two passes after a bad verdict on a broken disk, and what a restart finds."""
    stack.file.change(lambda _state: at_step(1))
    stack.served, stack.verdict, stack.nginx_error = "canary-50", verdict("hold", "baking"), None
    stack.containers = [one for one in stack.containers if one.track == "stable"] + others("canary", "b")
    await stack.ticks(1)
    break_disk()
    stack.verdict = verdict("rollback", "errors")
    state = await stack.ticks(2)
    memory = folder.parent / "memory of the next container"
    restarted = StateFile(folder / "state", memory).load()
    return {
        "served": stack.served,
        "canaries": sum(container.track == "canary" for container in stack.containers),
        "phase": state.phase,
        "outcome after a restart": restarted.outcome,
        "stored": stack.file.is_stored(),
    }


async def _faults(folder: Path) -> dict[str, Any]:
    memory = folder.parent / "memory"
    (folder / "state").mkdir()
    for part in ("prepared", "selected"):
        (folder / part).mkdir()
    for name in ("stable", "canary-50"):
        (folder / "prepared" / f"{name}.conf").touch()
    selection = Selection(folder)
    selection.select("canary-50")
    stack = FakeStack(folder / "state", state_machine.Rollout(), memory)
    found: dict[str, Any] = {"full": await _bad_canary(stack, folder, lambda: _fill(folder))}

    # The space that was reserved is used up, too.
    (folder / "state/rollout.reserve").unlink(missing_ok=True)
    _fill(folder)
    found["nothing reserved"] = await _bad_canary(stack, folder, lambda: None)
    found["select on a full disk"] = _try(selection.select, "stable")
    found["selected"] = selection.is_selected("stable")
    found["a new rollout"] = _try(stack.file.store)
    found["abort on a full disk"] = stack.file.change(
        lambda state: state_machine.abort(state_machine.start(state, request(), "two", 1, 1), "two", "a person", 1)
    ).reason

    (folder / "filler").unlink()
    await stack.ticks(1)
    found["stored again"] = stack.file.is_stored()

    def read_only() -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        stack.nginx_error = NginxError("cannot write the selection")

    selection.select("canary-50")
    found["read-only"] = await _bad_canary(stack, folder, read_only)
    found["select on a read-only disk"] = _try(selection.select, "stable")
    stack.now += 5
    await stack.ticks(1)
    found["canaries after 5 s"] = sum(container.track == "canary" for container in stack.containers)
    return found


if __name__ == "__main__":
    # A busy machine is not a disk that hangs.
    controller._STORE_TIMEOUT_SECONDS = 60  # pylint: disable=protected-access
    print(json.dumps(asyncio.run(_faults(Path(sys.argv[1])))))
