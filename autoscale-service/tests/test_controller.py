"""The controller in simulated worlds: ten minutes run in milliseconds."""

import math
import random
from collections.abc import Callable

import pytest

from app.controller import Controller
from app.scalers import OPERATIONS
from shared.prometheus.registry import REGISTRY
from shared.testing.fixtures import Lab
from tests.support import ACCOUNT, FakeCluster

MINUTES = 60


def failures(operation: str, service: str = ACCOUNT) -> float:
    name = "autoscale_failures_total"
    return REGISTRY.get_sample_value(name, {"service": service, "operation": operation}) or 0.0


async def test_four_times_the_load_scales_up_and_its_end_scales_down(lab: Lab) -> None:
    cluster = FakeCluster(lambda now: 800 if 1_000_030 <= now < 1_000_330 else 200)
    controller = cluster.controller(lab)
    await cluster.run(controller, 60)
    assert [count for _, count in cluster.changes] == [6, 8] and cluster.changes[-1][0] <= 1_000_030 + 20
    await cluster.run(controller, 12 * MINUTES)
    downs = [(when, count) for when, count in cluster.changes if when > 1_000_330]
    # Starting five minutes after the last high proposal, at most half per minute.
    assert downs[0][0] >= 1_000_327 + 300 and [count for _, count in downs] == [4, 2]
    assert downs[1][0] - downs[0][0] >= 60


def rate_over(seconds: float) -> Callable[[float], float]:
    """Return the measured rate over a window, of a load that quadruples for 25 seconds."""
    return lambda now: 140 + 420 * max(0.0, min(1.0, (now - 1_000_030) / seconds)) if now < 1_000_055 else 10


@pytest.mark.parametrize(("panicking", "seconds", "back"), [(False, 18, 1_000_075), (True, 6, 1_000_099)])
async def test_panic_mode_decides_before_the_stable_window_is_full(
    lab: Lab, panicking: bool, seconds: float, back: float
) -> None:
    cluster = FakeCluster(rate_over(20), burst=rate_over(5) if panicking else None)
    controller = cluster.controller(lab, scale_down_stabilization_seconds=20)
    await cluster.run(controller, 58, step=2)
    enough = next(when for when, count in cluster.changes if count >= 6)
    assert enough - 1_000_030 == pytest.approx(seconds, abs=2)
    assert controller.status()[ACCOUNT]["panic"] is panicking
    await cluster.run(controller, 3 * MINUTES)
    first_down = next(when for when, _ in cluster.changes if when > 1_000_055)
    assert first_down == pytest.approx(back, abs=3)


async def test_a_new_process_restores_panic_mode(lab: Lab) -> None:
    cluster = FakeCluster(lambda _now: 100, replicas=6, burst=lambda now: 2000 if now < 999_985 else 100)
    await cluster.run(cluster.controller(lab, scale_down_stabilization_seconds=0), 2 * MINUTES)
    assert 1_000_030 <= cluster.changes[0][0] <= 1_000_048


@pytest.mark.parametrize("seed", range(10))
async def test_noise_around_the_target_reverses_at_most_once(lab: Lab, seed: int) -> None:
    chance = random.Random(seed)
    cluster = FakeCluster(lambda _now: 400 * chance.uniform(0.85, 1.15), replicas=4)
    await cluster.run(cluster.controller(lab), 10 * MINUTES)
    assert cluster.reversals <= 1
    assert max(count for _, count in [(0, 4), *cluster.changes]) <= 5


@pytest.mark.parametrize("load", [40, 1000])
async def test_a_prometheus_outage_never_scales_down(lab: Lab, load: float) -> None:
    cluster = FakeCluster(lambda _now: load, replicas=6, blind=lambda now: 1_000_006 < now < 1_000_606)
    controller = cluster.controller(lab)
    await cluster.run(controller, 6)
    before = cluster.changes[-1][1] if cluster.changes else 6
    cluster.changes.clear()
    await cluster.run(controller, 10 * MINUTES)
    assert cluster.changes == [] and cluster.ready >= before


async def test_during_a_prometheus_outage_an_alert_adds_one_replica_at_a_time(lab: Lab) -> None:
    cluster = FakeCluster(lambda _now: 1000, blind=lambda _now: True)
    controller = cluster.controller(lab, max_replicas=4)
    await controller.reconcile(may_scale=True)
    controller.record_alert(ACCOUNT, "scale_in", firing=True)
    await cluster.run(controller, 5 * MINUTES)
    assert cluster.changes == []
    controller.record_alert(ACCOUNT, "scale_out", firing=True)
    await cluster.run(controller, 5 * MINUTES)
    assert [count for _, count in cluster.changes] == [3, 4]
    assert cluster.changes[1][0] - cluster.changes[0][0] >= 60


async def test_an_alert_ends_when_it_is_resolved_or_times_out(lab: Lab) -> None:
    cluster = FakeCluster(lambda _now: 100, blind=lambda _now: True)
    controller = cluster.controller(lab, alert_resolve_timeout_seconds=20)
    await controller.reconcile(may_scale=True)
    controller.record_alert(ACCOUNT, "scale_out", firing=True)
    controller.record_alert(ACCOUNT, "scale_out", firing=False)
    assert not await controller.reconcile(may_scale=True)
    controller.record_alert(ACCOUNT, "scale_out", firing=True)
    cluster.time += 21
    assert not await controller.reconcile(may_scale=True)
    assert cluster.changes == []


async def test_a_new_process_restores_the_stabilization_windows(lab: Lab) -> None:
    # High until a minute ago: the five-minute window from before this process is not over.
    cluster = FakeCluster(lambda now: 600 if now < 999_940 else 100, replicas=6)
    await cluster.run(cluster.controller(lab), 3 * MINUTES)
    assert cluster.changes == []
    # Low for ten minutes: the window is over.
    cluster = FakeCluster(lambda _now: 100, replicas=6)
    await cluster.run(cluster.controller(lab), 3)
    assert cluster.changes == [(1_000_000, 3)]


async def test_a_new_process_without_history_waits_a_whole_window(lab: Lab) -> None:
    cluster = FakeCluster(lambda _now: 100, replicas=6, blind=lambda now: now < 1_000_010)
    await cluster.run(cluster.controller(lab), 6 * MINUTES)
    assert cluster.changes[0][0] >= 1_000_300


async def test_policies_count_changes_of_the_previous_process(lab: Lab) -> None:
    cluster = FakeCluster(lambda _now: 100, replicas=6)
    first = cluster.controller(lab)
    await cluster.run(first, 3)
    assert cluster.changes == [(1_000_000, 3)]
    original = cluster._measured  # pylint: disable=protected-access

    def remembered(when: float):  # type: ignore[no-untyped-def]
        measured = original(when)
        measured.ready = 6 if when < 1_000_000 else 3
        return measured

    cluster._measured = remembered  # type: ignore[method-assign]
    await cluster.run(cluster.controller(lab), 60)
    assert [when for when, _ in cluster.changes] == [1_000_000]


@pytest.mark.parametrize(("surprise", "counted"), [(None, "create"), (KeyError("Id"), "scale")])
async def test_failures_are_counted_and_backed_off(lab: Lab, surprise: Exception | None, counted: str) -> None:
    attempts: list[float] = []
    cluster = FakeCluster(lambda _now: 800)

    def fails(operation: str) -> bool:
        if operation == "create":
            attempts.append(cluster.time)
        failing = operation == "create" and cluster.time < 1_000_100
        if failing and surprise:
            raise surprise
        return failing

    cluster.fails = fails
    before = failures(counted)
    controller = cluster.controller(lab)
    await cluster.run(controller, 5 * MINUTES)
    gaps = [round(b - a) for a, b in zip(attempts, attempts[1:])]
    assert gaps[:4] == [12, 21, 42, 81] and failures(counted) - before == 4
    assert cluster.changes[-1][1] == 8, "it goes on when Docker does"
    await controller.reconcile(may_scale=True)
    assert controller.status()[ACCOUNT]["failures"] == 0


async def test_replicas_that_never_become_ready_are_backed_off(lab: Lab) -> None:
    cluster = FakeCluster(lambda _now: 200)
    controller = cluster.controller(lab)
    await controller.reconcile(may_scale=True)
    before = failures("health")
    cluster.cleared = 2
    await controller.reconcile(may_scale=True)
    assert failures("health") == before + 1
    status = controller.status()[ACCOUNT]
    assert (status["failures"], status["retry_after_seconds"]) == (1, 10)


async def test_a_failed_removal_is_reported_and_does_not_block_scaling(lab: Lab) -> None:
    cluster = FakeCluster(lambda now: 800 if now >= 1_000_030 else 200, fails=lambda operation: operation == "remove")
    before = failures("remove")
    controller = cluster.controller(lab)
    await cluster.run(controller, 2 * MINUTES)
    assert [count for _, count in cluster.changes] == [6, 8] and cluster.changes[0][0] <= 1_000_033
    # After 0, 12, 33, 75 s.
    assert failures("remove") == before + 4
    assert controller.status()[ACCOUNT]["failures"] == 0
    cluster.fails = lambda _operation: False
    cluster.cleared = 1
    await cluster.run(controller, MINUTES)
    assert cluster.cleared == 0, "it tries again"


async def test_a_drained_replica_counts_as_removed(lab: Lab) -> None:
    cluster = FakeCluster(lambda _now: 100, replicas=6, fails=lambda operation: operation == "remove")
    before = failures("remove")
    controller = cluster.controller(lab)
    await cluster.run(controller, 3)
    assert cluster.changes == [(1_000_000, 3)] and failures("remove") == before + 2
    # It counts for the policy: at most half of six per minute.
    await cluster.run(controller, 54)
    assert [count for _, count in cluster.changes] == [3]
    await cluster.run(controller, 9)
    assert [count for _, count in cluster.changes] == [3, 2]


@pytest.mark.parametrize("load", [100, 3000])
async def test_during_an_update_nothing_changes_and_proposals_are_recorded(lab: Lab, load: float) -> None:
    cluster = FakeCluster(lambda now: load if now < 1_000_240 else 100, replicas=6)
    before = [failures(operation) for operation in OPERATIONS]
    cluster.updating, cluster.cleared = True, 1
    controller = cluster.controller(lab)
    await cluster.run(controller, 4 * MINUTES)
    status = controller.status()[ACCOUNT]
    assert (status["reason"], status["desired"], cluster.changes, cluster.cleared) == ("updating", 6, [], 1)
    assert [failures(operation) for operation in OPERATIONS] == before and status["failures"] == 0
    cluster.updating, cluster.cleared = False, 0
    await cluster.run(controller, 6 * MINUTES)
    # Proposals made meanwhile count: the window starts at the last high load.
    assert cluster.changes[0][0] >= (1_000_237 + 300 if load == 3000 else 1_000_240)
    assert cluster.changes[0][0] < (1_000_237 + 306 if load == 3000 else 1_000_243)


async def test_an_update_that_starts_after_the_observation_is_left_alone(lab: Lab) -> None:
    cluster = FakeCluster(lambda _now: 800)
    controller = cluster.controller(lab)
    seen = cluster.observe()
    cluster.updating, cluster.observe = True, lambda: seen  # type: ignore[method-assign]
    before = [failures(operation) for operation in OPERATIONS]
    await cluster.run(controller, MINUTES)
    assert cluster.changes == [] and controller.status()[ACCOUNT]["last_actions"] == []
    assert [failures(operation) for operation in OPERATIONS] == before


async def test_a_docker_outage_is_a_failure_of_no_particular_service(lab: Lab) -> None:
    cluster = FakeCluster(lambda _now: 800, fails=lambda operation: operation == "observe")
    controller = cluster.controller(lab)
    before = failures("observe", "all")
    assert await controller.reconcile(may_scale=True) and not controller.observed
    assert failures("observe", "all") == before + 1
    await cluster.run(controller, 2 * MINUTES)
    # After 0, 12, 33, 63 and 93 s: doubling, up to the idle interval.
    assert failures("observe", "all") == before + 5
    cluster.fails = lambda _operation: False
    await cluster.run(controller, 12)
    assert controller.services == {ACCOUNT} and cluster.changes


async def test_a_standby_or_paused_instance_only_observes(lab: Lab) -> None:
    cluster = FakeCluster(lambda _now: 800)
    controller = cluster.controller(lab)
    assert await controller.reconcile(may_scale=False)
    await controller.wait_idle()
    status = controller.status()[ACCOUNT]
    assert (status["current"], status["desired"], status["reason"], status["proposal"]) == (2, 6, "rate-limited", 8)
    assert cluster.changes == [] and math.isclose(status["load"]["requests_per_second"]["value"], 400)


async def test_a_dry_run_decides_and_changes_nothing(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    labels = {"service": ACCOUNT, "direction": "up", "reason": "rate-limited"}

    def decisions(dry_run: str) -> float:
        return REGISTRY.get_sample_value("autoscale_decisions_total", {**labels, "dry_run": dry_run}) or 0.0

    cluster = FakeCluster(lambda _now: 800)
    cluster.cleared = 1
    before = decisions("true"), decisions("")
    controller = cluster.controller(lab, dry_run=True)
    with caplog.at_level("INFO"):
        await cluster.run(controller, 2 * MINUTES)
    assert (cluster.changes, cluster.cleared) == ([], 1)
    assert controller.status()[ACCOUNT]["desired"] == 6 and controller.status()[ACCOUNT]["last_actions"] == []
    assert decisions("true") == before[0] + 40 and decisions("") == before[1]
    assert REGISTRY.get_sample_value("autoscale_dry_run_replicas", {"service": ACCOUNT}) == 6
    # The alert on missing replicas compares with this one.
    assert REGISTRY.get_sample_value("autoscale_replicas", {"service": ACCOUNT, "kind": "desired"}) == 2
    assert [vars(line)["dry_run"] for line in caplog.records if line.message == "scaling decision"] == [True]
    cluster.cleared = 0
    await cluster.run(cluster.controller(lab), 3)
    assert cluster.changes and decisions("") == before[1] + 1 and decisions("true") == before[0] + 40


async def test_the_loop_uses_the_idle_interval_while_nothing_is_due(lab: Lab) -> None:
    cluster = FakeCluster(lambda _now: 200)
    controller: Controller = cluster.controller(lab)
    assert not await controller.reconcile(may_scale=True)
    controller.record_alert(ACCOUNT, "scale_out", firing=True)
    assert await controller.reconcile(may_scale=True)


async def test_a_service_without_its_label_is_dropped(lab: Lab) -> None:
    cluster = FakeCluster(lambda _now: 200)
    controller = cluster.controller(lab)
    await controller.reconcile(may_scale=True)
    cluster.observe = lambda: {}  # type: ignore[method-assign]
    await controller.reconcile(may_scale=True)
    assert controller.services == frozenset()


async def test_a_stopped_replica_counts_as_missing_on_a_standby_instance(lab: Lab) -> None:
    cluster = FakeCluster(lambda _now: 100, replicas=2)
    cluster.stopped = 1
    await cluster.controller(lab).reconcile(may_scale=False)
    assert REGISTRY.get_sample_value("autoscale_replicas", {"service": ACCOUNT, "kind": "desired"}) == 3
