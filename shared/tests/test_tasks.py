"""A step finishes although its task is cancelled, unless it exceeds the timeout."""

import asyncio

import pytest

from shared.runtime import tasks
from shared.runtime.tasks import cancel_all, shield
from shared.testing.timing import BUSY_SECONDS, assert_prompt


class Step:
    """A step that lasts until it is told to end."""

    def __init__(self) -> None:
        self.end = asyncio.Event()
        self.done = False

    async def run(self) -> str:
        """Return a result at the end."""
        await self.end.wait()
        self.done = True
        return "result"

    async def cancelled(self) -> "asyncio.Task[str]":
        """Return the task of a caller that is cancelled while the step runs."""
        task = asyncio.create_task(shield(self.run()))
        for cancel in (False, True):
            if cancel:
                task.cancel()
            for _ in range(5):
                await asyncio.sleep(0)
        return task


async def test_step_returns_its_result_or_raises_its_error():
    step = Step()
    step.end.set()
    assert await shield(step.run()) == "result"
    with pytest.raises(TypeError):
        await shield(asyncio.sleep(None))  # type: ignore[arg-type]


async def test_cancellation_waits_for_the_step(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tasks, "_TIMEOUT_SECONDS", BUSY_SECONDS)
    step = Step()
    task = await step.cancelled()
    assert not task.done()
    step.end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert step.done


async def test_cancellation_gives_up_after_the_timeout(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tasks, "_TIMEOUT_SECONDS", 0.05)
    step = Step()
    task = await step.cancelled()
    with pytest.raises(asyncio.CancelledError), assert_prompt():
        await task
    assert not step.done


async def test_a_task_that_turns_its_cancellation_into_another_error_is_cancelled_again(
    monkeypatch: pytest.MonkeyPatch,
):
    """Closing a connection to a silent database raises a timeout instead, after which the relay would retry."""
    monkeypatch.setattr(tasks, "_TIMEOUT_SECONDS", -0.95)
    attempts = 0

    async def relay() -> None:
        nonlocal attempts
        while True:
            attempts += 1
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if attempts == 3:
                    raise

    running = [asyncio.create_task(relay()), asyncio.create_task(asyncio.Event().wait())]  # type: ignore[arg-type]
    await asyncio.sleep(0)
    with assert_prompt():
        await cancel_all(running)
    assert attempts == 3 and all(task.cancelled() for task in running)
    await cancel_all([])
