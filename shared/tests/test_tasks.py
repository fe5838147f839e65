"""A step finishes although its task is cancelled, unless it exceeds the timeout."""

import asyncio

import pytest

from shared.runtime import tasks
from shared.runtime.tasks import shield


async def step(seconds: float, done: list[str]) -> str:
    await asyncio.sleep(seconds)
    done.append("done")
    return "result"


async def cancelled_in(seconds: float, done: list[str]) -> None:
    task = asyncio.create_task(shield(step(seconds, done)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_step_returns_its_result_or_raises_its_error():
    assert await shield(step(0, [])) == "result"
    with pytest.raises(TypeError):
        await shield(step(None, []))  # type: ignore[arg-type]


async def test_cancellation_waits_for_the_step():
    done: list[str] = []
    await cancelled_in(0.1, done)
    assert done == ["done"]


async def test_cancellation_gives_up_after_the_timeout(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tasks, "_TIMEOUT_SECONDS", 0.05)
    done: list[str] = []
    await cancelled_in(60, done)
    assert not done
