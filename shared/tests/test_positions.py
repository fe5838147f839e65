"""Positions of processed events as ranges."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.messaging.positions import Positions, Range


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 9)), max_size=12))
def test_ranges_are_the_set_of_added_positions(added: list[tuple[int, int]]) -> None:
    found, expected = Positions(), set[int]()
    for first, length in added:
        found = found.add([Range(first, first + length)])
        expected |= {*range(first, first + length + 1)}
    assert {position for position in range(60) if position in found} == expected
    assert len(found) == len(expected)
    assert all(range_.last + 1 < other.first for range_, other in zip(found.ranges, found.ranges[1:]))
    assert Positions.loads(found.dumps()) == found
    missing = [position for position in range(1, 60) if position not in expected]
    assert found.gapless_end == missing[0] - 1
    later = [position for position in sorted(expected) if position > missing[0]]
    assert found.gap_end == (later[0] - 1 if later else None)


@pytest.mark.parametrize("text", ["[]", "[[1,500]]", "[[1,500],[800,900]]"])
def test_stored_form(text: str) -> None:
    assert Positions.loads(text).dumps() == text
