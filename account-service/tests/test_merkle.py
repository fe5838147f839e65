"""Merkle trees and proofs: the vectors of Certificate Transparency, and any tree with the verifier's own algorithm."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.transparency import merkle

LEAVES = [
    bytes.fromhex(data)
    for data in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
# Roots of the trees of the first 1, 2 … 8 leaves, as in the tests of Google's certificate-transparency.
ROOTS = """
    6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d
    fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125
    aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77
    d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7
    4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4
    76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef
    ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c
    5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328
""".split()
NODE_01 = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
NODE_4567 = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
LEAF_1 = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"


def nodes_of(leaves: list[bytes]) -> merkle.Nodes:
    return {(0, index): merkle.leaf_hash(data) for index, data in enumerate(leaves)}


def hexadecimal(path: list[bytes]) -> list[str]:
    return [each.hex() for each in path]


def test_roots_and_proofs_of_certificate_transparency() -> None:
    hashes = [merkle.leaf_hash(data) for data in LEAVES]
    assert [merkle.root_of(hashes[:size]).hex() for size in range(1, 9)] == ROOTS
    assert merkle.root_of([]) == sha256().digest()
    nodes = nodes_of(LEAVES)
    assert hexadecimal(merkle.inclusion_proof(nodes, 0, 8)) == [LEAF_1, NODE_01, NODE_4567]
    assert merkle.inclusion_proof(nodes, 0, 1) == []
    assert hexadecimal(merkle.consistency_proof(nodes, 1, 8)) == [LEAF_1, NODE_01, NODE_4567]
    assert hexadecimal(merkle.consistency_proof(nodes, 6, 8)) == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        ROOTS[3],
    ]
    assert merkle.consistency_proof(nodes, 8, 8) == []


def roots_by_consistency(proof: list[bytes], first: int, size: int, first_root: bytes) -> tuple[bytes, bytes]:
    """Return the roots of both trees that a proof leads to (RFC 9162, section 2.1.4.2)."""
    path = [first_root, *proof] if first & (first - 1) == 0 else list(proof)
    number, last = first - 1, size - 1
    while number & 1:
        number, last = number >> 1, last >> 1
    old = new = path[0]
    for step in path[1:]:
        assert last
        if number & 1 or number == last:
            old, new = merkle.node_hash(step, old), merkle.node_hash(step, new)
            while not number & 1 and number:
                number, last = number >> 1, last >> 1
        else:
            new = merkle.node_hash(new, step)
        number, last = number >> 1, last >> 1
    assert last == 0
    return old, new


@given(st.integers(1, 700), st.data())
def test_proofs_lead_to_the_roots(size: int, data: st.DataObject) -> None:
    hashes = [merkle.leaf_hash(str(index).encode()) for index in range(size)]
    first = data.draw(st.integers(1, size))
    nodes = {(0, index): each for index, each in enumerate(hashes)}
    root, first_root = merkle.root_of(hashes), merkle.root_of(hashes[:first])
    if first < size:
        proof = merkle.consistency_proof(nodes, first, size)
        assert roots_by_consistency(proof, first, size, first_root) == (first_root, root)
    assert merkle.range_hash(nodes, 0, size) == root


@given(st.integers(1, 200_000), st.data())
def test_few_stored_nodes_suffice_for_a_proof(size: int, data: st.DataObject) -> None:
    """The same proofs come from the nodes to load alone, at most 256 per level and position."""
    index, first = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    wanted = list(merkle.ranges_to_load(size, index, first))
    loaded = {(level, each): bytes(32) for level, start, end in wanted for each in range(start, end)}
    assert len(loaded) <= 3 * 3 * 256
    assert len(merkle.inclusion_proof(loaded, index, size)) <= size.bit_length()
    merkle.consistency_proof(loaded, first, size)
    merkle.range_hash(loaded, 0, size)


def test_a_grown_tree_completes_each_node_once() -> None:
    steps = [0, 1, 255, 256, 257, 1000, 70_000, 2**16 * 3]
    completed = [node for old, new in zip(steps, steps[1:]) for node in merkle.completed_nodes(old, new)]
    assert sorted(completed) == [*((8, index) for index in range(3 * 256)), *((16, index) for index in range(3))]


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0)])
def test_a_proof_outside_the_tree_is_an_error(index: int, size: int) -> None:
    with pytest.raises(ValueError):
        merkle.inclusion_proof({}, index, size)
    with pytest.raises(ValueError):
        merkle.consistency_proof({}, size + 1, size)
