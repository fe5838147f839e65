"""The controller in simulated worlds: ten minutes run in milliseconds."""

import math
import random

import pytest

from app.controller import Controller
from app.scalers import OPERATIONS
from shared.prometheus.registry import REGISTRY
from shared.testing.fixtures import Lab
from tests.support import ACCOUNT, World

MINUTES = 60


def failures(operation: str, service: str = ACCOUNT) -> float:
    name = "autoscale_failures_total"
    return REGISTRY.get_sample_value(name, {"service": service, "operation": operation}) or 0.0


async def test_four_times_the_load_brings_enough_replicas_and_their_end_takes_them_away(lab: Lab) -> None:
    world = World(lambda now: 800 if 1_000_030 <= now < 1_000_330 else 200)
    controller = world.controller(lab)
    await world.run(controller, 60)
    assert [count for _, count in world.changes] == [6, 8] and world.changes[-1][0] <= 1_000_030 + 20
    await world.run(controller, 12 * MINUTES)
    downs = [(when, count) for when, count in world.changes if when > 1_000_330]
    # Five minutes after the last high proposal, at most half of them a minute.
    assert downs[0][0] >= 1_000_327 + 300 and [count for _, count in downs] == [4, 2]
    assert downs[1][0] - downs[0][0] >= 60


@pytest.mark.parametrize("seed", range(10))
async def test_noise_around_the_target_reverses_at_most_once(lab: Lab, seed: int) -> None:
    chance = random.Random(seed)
    world = World(lambda _now: 400 * chance.uniform(0.85, 1.15), replicas=4)
    await world.run(world.controller(lab), 10 * MINUTES)
    assert world.reversals <= 1
    assert max(count for _, count in [(0, 4), *world.changes]) <= 5


@pytest.mark.parametrize("load", [40, 1000])
async def test_while_prometheus_is_silent_nothing_goes(lab: Lab, load: float) -> None:
    world = World(lambda _now: load, replicas=6, blind=lambda now: 1_000_006 < now < 1_000_606)
    controller = world.controller(lab)
    await world.run(controller, 6)
    before = world.changes[-1][1] if world.changes else 6
    world.changes.clear()
    await world.run(controller, 10 * MINUTES)
    assert world.changes == [] and world.ready >= before


async def test_while_prometheus_is_silent_an_alert_brings_one_after_the_other(lab: Lab) -> None:
    world = World(lambda _now: 1000, blind=lambda _now: True)
    controller = world.controller(lab, max_replicas=4)
    await controller.tick(act=True)
    controller.notice(ACCOUNT, "scale_in", firing=True)
    await world.run(controller, 5 * MINUTES)
    assert world.changes == []
    controller.notice(ACCOUNT, "scale_out", firing=True)
    await world.run(controller, 5 * MINUTES)
    assert [count for _, count in world.changes] == [3, 4]
    assert world.changes[1][0] - world.changes[0][0] >= 60


async def test_an_alert_ends_when_it_is_resolved_or_not_repeated(lab: Lab) -> None:
    world = World(lambda _now: 100, blind=lambda _now: True)
    controller = world.controller(lab, alert_memory=20)
    await controller.tick(act=True)
    controller.notice(ACCOUNT, "scale_out", firing=True)
    controller.notice(ACCOUNT, "scale_out", firing=False)
    assert not await controller.tick(act=True)
    controller.notice(ACCOUNT, "scale_out", firing=True)
    world.time += 21
    assert not await controller.tick(act=True)
    assert world.changes == []


async def test_a_new_process_keeps_to_the_windows_of_the_old(lab: Lab) -> None:
    # High until a minute ago: the window of five minutes is not over, though this process has seen nothing of it.
    world = World(lambda now: 600 if now < 999_940 else 100, replicas=6)
    await world.run(world.controller(lab), 3 * MINUTES)
    assert world.changes == []
    # Low for ten minutes: the window is over, and no new one begins.
    world = World(lambda _now: 100, replicas=6)
    await world.run(world.controller(lab), 3)
    assert world.changes == [(1_000_000, 3)]


async def test_a_new_process_that_cannot_look_back_waits_a_whole_window(lab: Lab) -> None:
    world = World(lambda _now: 100, replicas=6, blind=lambda now: now < 1_000_010)
    await world.run(world.controller(lab), 6 * MINUTES)
    assert world.changes[0][0] >= 1_000_300


async def test_rates_count_what_an_old_process_has_changed(lab: Lab) -> None:
    world = World(lambda _now: 100, replicas=6)
    first = world.controller(lab)
    await world.run(first, 3)
    assert world.changes == [(1_000_000, 3)]
    original = world._measured  # pylint: disable=protected-access

    def remembered(when: float):  # type: ignore[no-untyped-def]
        measured = original(when)
        measured.ready = 6 if when < 1_000_000 else 3
        return measured

    world._measured = remembered  # type: ignore[method-assign]
    await world.run(world.controller(lab), 60)
    assert [when for when, _ in world.changes] == [1_000_000]


@pytest.mark.parametrize(("surprise", "counted"), [(None, "create"), (KeyError("Id"), "scale")])
async def test_failures_are_counted_and_attempts_back_off(lab: Lab, surprise: Exception | None, counted: str) -> None:
    attempts: list[float] = []
    world = World(lambda _now: 800)

    def fails(operation: str) -> bool:
        if operation == "create":
            attempts.append(world.time)
        failing = operation == "create" and world.time < 1_000_100
        if failing and surprise:
            raise surprise
        return failing

    world.fails = fails
    before = failures(counted)
    controller = world.controller(lab)
    await world.run(controller, 5 * MINUTES)
    gaps = [round(b - a) for a, b in zip(attempts, attempts[1:])]
    assert gaps[:4] == [12, 21, 42, 81] and failures(counted) - before == 4
    assert world.changes[-1][1] == 8, "it goes on when Docker does"
    await controller.tick(act=True)
    assert controller.status()[ACCOUNT]["failures"] == 0


async def test_replicas_that_never_get_ready_are_a_failure_and_are_tried_again_later(lab: Lab) -> None:
    world = World(lambda _now: 200)
    controller = world.controller(lab)
    await controller.tick(act=True)
    before = failures("health")
    world.cleared = 2
    await controller.tick(act=True)
    assert failures("health") == before + 1
    status = controller.status()[ACCOUNT]
    assert (status["failures"], status["next_try_in"]) == (1, 10)


async def test_what_cannot_be_removed_is_told_and_keeps_nobody_from_scaling(lab: Lab) -> None:
    world = World(lambda now: 800 if now >= 1_000_030 else 200, fails=lambda operation: operation == "remove")
    before = failures("remove")
    controller = world.controller(lab)
    await world.run(controller, 2 * MINUTES)
    assert [count for _, count in world.changes] == [6, 8] and world.changes[0][0] <= 1_000_033
    # After 0, 12, 33, 75 s.
    assert failures("remove") == before + 4
    assert controller.status()[ACCOUNT]["failures"] == 0
    world.fails = lambda _operation: False
    world.cleared = 1
    await world.run(controller, MINUTES)
    assert world.cleared == 0, "it tries again"


async def test_a_replica_that_is_drained_and_could_not_be_removed_has_gone(lab: Lab) -> None:
    world = World(lambda _now: 100, replicas=6, fails=lambda operation: operation == "remove")
    before = failures("remove")
    controller = world.controller(lab)
    await world.run(controller, 3)
    assert world.changes == [(1_000_000, 3)] and failures("remove") == before + 2
    # It counts for the rate: half of six in a minute were three.
    await world.run(controller, 54)
    assert [count for _, count in world.changes] == [3]
    await world.run(controller, 9)
    assert [count for _, count in world.changes] == [3, 2]


@pytest.mark.parametrize("load", [100, 3000])
async def test_while_a_new_version_comes_in_nothing_changes_and_nothing_is_forgotten(lab: Lab, load: float) -> None:
    world = World(lambda now: load if now < 1_000_240 else 100, replicas=6)
    before = [failures(operation) for operation in OPERATIONS]
    world.rolling, world.cleared = True, 1
    controller = world.controller(lab)
    await world.run(controller, 4 * MINUTES)
    status = controller.status()[ACCOUNT]
    assert (status["why"], status["desired"], world.changes, world.cleared) == ("rolling", 6, [], 1)
    assert [failures(operation) for operation in OPERATIONS] == before and status["failures"] == 0
    world.rolling, world.cleared = False, 0
    await world.run(controller, 6 * MINUTES)
    # What was asked for meanwhile counts: the window of five minutes begins with the last high load.
    assert world.changes[0][0] >= (1_000_237 + 300 if load == 3000 else 1_000_240)
    assert world.changes[0][0] < (1_000_237 + 306 if load == 3000 else 1_000_243)


async def test_a_version_that_comes_in_after_the_look_is_left_alone(lab: Lab) -> None:
    world = World(lambda _now: 800)
    controller = world.controller(lab)
    seen = world.observe()
    world.rolling, world.observe = True, lambda: seen  # type: ignore[method-assign]
    before = [failures(operation) for operation in OPERATIONS]
    await world.run(controller, MINUTES)
    assert world.changes == [] and controller.status()[ACCOUNT]["last_actions"] == []
    assert [failures(operation) for operation in OPERATIONS] == before


async def test_docker_away_is_a_failure_that_names_no_service_and_ends(lab: Lab) -> None:
    world = World(lambda _now: 800, fails=lambda operation: operation == "observe")
    controller = world.controller(lab)
    before = failures("observe", "all")
    assert await controller.tick(act=True) and not controller.observed
    assert failures("observe", "all") == before + 1
    await world.run(controller, 2 * MINUTES)
    # After 0, 12, 33, 63 and 93 s: twice as long each time, but never longer than it would rest anyway.
    assert failures("observe", "all") == before + 5
    world.fails = lambda _operation: False
    await world.run(controller, 12)
    assert controller.known == {ACCOUNT} and world.changes


async def test_who_does_not_lead_or_is_paused_only_watches(lab: Lab) -> None:
    world = World(lambda _now: 800)
    controller = world.controller(lab)
    assert await controller.tick(act=False)
    await controller.settle()
    status = controller.status()[ACCOUNT]
    assert (status["current"], status["desired"], status["why"], status["proposal"]) == (2, 6, "rate-limited", 8)
    assert world.changes == [] and math.isclose(status["load"]["requests_per_second"]["value"], 400)


async def test_the_loop_rests_while_nothing_is_due(lab: Lab) -> None:
    world = World(lambda _now: 200)
    controller: Controller = world.controller(lab)
    assert not await controller.tick(act=True)
    controller.notice(ACCOUNT, "scale_out", firing=True)
    assert await controller.tick(act=True)


async def test_a_service_whose_label_is_gone_is_forgotten(lab: Lab) -> None:
    world = World(lambda _now: 200)
    controller = world.controller(lab)
    await controller.tick(act=True)
    world.observe = lambda: {}  # type: ignore[method-assign]
    await controller.tick(act=True)
    assert controller.known == frozenset()


async def test_a_replica_that_stopped_is_missing_also_while_nobody_acts(lab: Lab) -> None:
    world = World(lambda _now: 100, replicas=2)
    world.stopped = 1
    await world.controller(lab).tick(act=False)
    assert REGISTRY.get_sample_value("autoscale_replicas", {"service": ACCOUNT, "kind": "desired"}) == 3
