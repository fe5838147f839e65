"""Runs one seed from start to end."""

import asyncio
import gc
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from simulation import checks
from simulation.bank import Bank, lab, simulated
from simulation.bus import ACK_WAIT_SECONDS
from simulation.clients import Clients
from simulation.poison import Poison
from simulation.world import World

# Simulated seconds: timeout until the bank is idle.
_CALM_SECONDS = 120.0
_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a seed."""

    seed: int
    findings: tuple[str, ...]
    faults: Counter[str]
    requests: int
    steps: int
    seconds: float
    trace: str
    lines: tuple[str, ...] = ()


def run(seed: int, *, keep_lines: bool = False) -> Outcome:
    """Simulate a seed and return the result, which is the same for the same seed."""
    folder = Path(tempfile.mkdtemp(dir=lab().folder))
    gc.collect()
    gc.freeze()
    gc.disable()  # garbage collection would run finalizers at arbitrary times
    try:
        world = World(seed, lab().templates, folder, keep_lines=keep_lines)
        with simulated(world):
            try:
                found, requests = world.loop.run_until_complete(_live(world))
            finally:
                world.loop.close()
        return Outcome(
            seed,
            tuple(found),
            world.faults,
            requests,
            world.loop.steps,
            world.loop.time(),
            world.trace,
            tuple(world.lines or ()),
        )
    finally:
        gc.enable()
        shutil.rmtree(folder)


async def _live(world: World) -> tuple[list[str], int]:
    bank = Bank(world)
    clients, poison = Clients(bank), Poison(world)
    await asyncio.gather(clients.run(), poison.run())
    world.faulty = False
    world.note("quiet")
    await clients.unfreeze_all()
    deadline = world.time() + _CALM_SECONDS
    while checks.undelivered(bank) and world.time() < deadline:
        await asyncio.sleep(_LOOK_SECONDS)
    # Remaining redeliveries arrive now, and must change nothing.
    await asyncio.sleep(2 * ACK_WAIT_SECONDS)
    for process in world.processes.values():
        if process is not None:
            process.kill()
    while world.loop.owners:
        await asyncio.sleep(0)
    return checks.findings(bank, clients, poison), len(clients.asked)
