"""Selects the media type of a response by the Accept header (RFC 9110)."""

from collections.abc import Iterator, Sequence


def negotiate(accept: str, supported: Sequence[str]) -> str | None:
    """Return the media type that the client prefers, the first one of equals; None if it accepts none of them.

    Without a valid media range in the header, the client accepts everything.
    """
    ranges = list(_ranges(accept))
    if not ranges:
        return supported[0]
    weights = {media_type: _weight(media_type, ranges) for media_type in supported}
    best = max(supported, key=weights.__getitem__)
    return best if weights[best] > 0 else None


def _ranges(accept: str) -> Iterator[tuple[str, float]]:
    """Yield the valid media ranges with their weights."""
    for part in accept.lower().split(","):
        media_range, *parameters = (field.strip() for field in part.split(";"))
        weights = [parameter[2:] for parameter in parameters if parameter.startswith("q=")]
        try:
            weight = float(weights[0]) if weights else 1.0
        except ValueError:
            continue
        if "/" in media_range and 0 <= weight <= 1:
            yield media_range, weight


def _weight(media_type: str, ranges: Sequence[tuple[str, float]]) -> float:
    """Return the weight that the most specific range gives to a media type."""
    for candidate in (media_type, media_type.partition("/")[0] + "/*", "*/*"):
        weights = [weight for media_range, weight in ranges if media_range == candidate]
        if weights:
            return max(weights)
    return 0.0
