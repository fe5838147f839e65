"""The cluster drill counts lost and doubled transfers, and measures the time without commits."""

import pytest
from drills.recovery.cluster import lost_and_doubled
from harness.load import TransferLog


@pytest.mark.parametrize(
    ("posted", "expected"),
    [
        (["a", "b"], (0, 0)),
        (["a"], (1, 0)),
        (["a", "b", "c"], (0, 1)),
        (["a", "b", "b"], (0, 1)),
        (["a", "c"], (1, 1)),
    ],
)
def test_lost_and_doubled_transfers_are_counted(posted: list[str], expected: tuple[int, int]) -> None:
    assert lost_and_doubled(posted, {"key-1": "a", "key-2": "b"}) == expected


def test_the_longest_pause_includes_the_ends_of_the_period() -> None:
    transfers = TransferLog(times=[1.0, 13.0, 11.0, 12.5, 30.0])
    assert transfers.longest_pause(10.0, 13.0) == 1.5
    assert transfers.longest_pause(8.0, 13.0) == 3.0
    assert transfers.longest_pause(12.0, 20.0) == 7.0
    assert transfers.longest_pause(14.0, 20.0) == 6.0
