"""Merkle trees of RFC 9162 (section 2.1; the same as in RFC 6962): roots, inclusion proofs and consistency proofs.

A node is addressed by its level and its index: the node (level, index) is the root of the complete subtree of the
2 ** level leaves from `index << level` on.
"""

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256

Nodes = Mapping[tuple[int, int], bytes]

# Levels of stored nodes: 0, 8, 16 … A node of one of them has 256 children on the one below.
LEVEL_STEP = 8


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf."""
    return sha256(b"\0" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node."""
    return sha256(b"\1" + left + right).digest()


def range_hash(nodes: Nodes, start: int, end: int) -> bytes:
    """Return the root of the subtree of the leaves from `start` to before `end`.

    Raises KeyError if `nodes` lacks one that it consists of.
    """
    size = end - start
    if size == 0:
        return sha256(b"").digest()
    level = size.bit_length() - 1
    if size == 1 << level and start % size == 0:
        known = nodes.get((level, start >> level))
        if known is not None:
            return known
        if level == 0:
            raise KeyError((level, start))
    middle = start + _split(size)
    return node_hash(range_hash(nodes, start, middle), range_hash(nodes, middle, end))


def root_of(hashes: Sequence[bytes]) -> bytes:
    """Return the root of a tree of these leaf hashes, or of these nodes of one level."""
    return range_hash({(0, index): each for index, each in enumerate(hashes)}, 0, len(hashes))


def inclusion_proof(nodes: Nodes, index: int, size: int) -> list[bytes]:
    """Return the inclusion proof (PATH of RFC 9162) of a leaf in the tree of the first `size` leaves."""
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size}")
    path, start, end = [], 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(range_hash(nodes, middle, end))
            end = middle
        else:
            path.append(range_hash(nodes, start, middle))
            start = middle
    return path[::-1]


def consistency_proof(nodes: Nodes, first: int, size: int) -> list[bytes]:
    """Return the consistency proof (PROOF of RFC 9162) between the trees of the first `first` and `size` leaves."""
    if not 0 < first <= size:
        raise ValueError(f"a tree of {first} leaves cannot be compared with one of {size}")
    path, start, end = [], 0, size
    while end != first:
        middle = start + _split(end - start)
        if first <= middle:
            path.append(range_hash(nodes, middle, end))
            end = middle
        else:
            path.append(range_hash(nodes, start, middle))
            start = middle
    # A verifier knows the root of the first tree.
    if start:
        path.append(range_hash(nodes, start, end))
    return path[::-1]


def ranges_to_load(size: int, *positions: int) -> Iterator[tuple[int, int, int]]:
    """Yield the stored nodes that proofs need: level, first index, and the index after the last one.

    `positions` are the leaf and the sizes of the proof; `size` is the number of leaves. At most 256 nodes per level and
    position.
    """
    level = 0
    while level == 0 or size >> level:
        for block in sorted({position >> (level + LEVEL_STEP) for position in (size, *positions)}):
            first = block << LEVEL_STEP
            end = min(first + (1 << LEVEL_STEP), size >> level)
            if first < end:
                yield level, first, end
        level += LEVEL_STEP


def completed_nodes(old_size: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the nodes to store when the tree grows, as (level, index), those of lower levels first."""
    level = LEVEL_STEP
    while size >> level:
        yield from ((level, index) for index in range(old_size >> level, size >> level))
        level += LEVEL_STEP


def _split(size: int) -> int:
    """Return the largest power of two below `size`."""
    return 1 << ((size - 1).bit_length() - 1)
