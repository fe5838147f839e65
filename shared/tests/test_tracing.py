"""Trace context of received events: invalid values are ignored."""

import pytest

from shared.observability import tracing

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize("odd", [None, "", "x", f"00-{TRACE}", f"00-{'0' * 32}-b7ad6b7169203331-01", "00-ä" + "1" * 52])
def test_only_sampled_traces_are_returned(odd: str | None) -> None:
    parents = [odd, f"00-{TRACE}-b7ad6b7169203331-01", f"00-{'1' * 32}-b7ad6b7169203331-00"]
    assert tracing.sampled_ids(parents) == [TRACE]
