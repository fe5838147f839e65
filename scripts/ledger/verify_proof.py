"""Verify that a transaction is in the ledger, without access to it. Needs only `cryptography` and verify_ledger.py.

    python -m scripts.ledger.verify_proof PROOF.json --key PUBLIC_KEY

PROOF.json is a response of GET /api/v1/transactions/{id}/proof. Exits with 1 if it is not valid.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from scripts.ledger.verify_ledger import Row, node, signed_root


def verify_proof(proof: Row, keys: Sequence[str]) -> bool:
    """Return whether a proof (RFC 9162, section 2.1.3.2) leads from the disclosed transaction to a signed root."""
    leaf = b"".join(map(bytes.fromhex, proof["digests"]))
    number, last, root = proof["position"], proof["size"] - 1, sha256(b"\0" + leaf).digest()
    for step in map(bytes.fromhex, proof["path"]):
        if last == 0:
            return False
        if number & 1 or number == last:
            root = node(step, root)
            while not number & 1 and number:
                number, last = number >> 1, last >> 1
        else:
            root = node(root, step)
        number, last = number >> 1, last >> 1
    shown = {sha256(text.encode()).hexdigest() for text in proof["disclosures"]}
    ids = [json.loads(text)[2].get("id") for text in proof["disclosures"]]
    is_disclosed = shown <= set(proof["digests"]) and proof["transaction_id"] in ids
    return is_disclosed and last == 0 and signed_root(proof["checkpoint"], keys) == (proof["size"], root)


def main() -> int:
    """Verify the proof named on the command line."""
    parser = argparse.ArgumentParser(prog="verify_proof", description="Verify the inclusion proof of a transaction.")
    parser.add_argument("proof", type=Path)
    parser.add_argument("--key", action="append", required=True, help="announced public key")
    options = parser.parse_args()
    is_valid = verify_proof(json.loads(options.proof.read_text(encoding="utf-8")), options.key)
    print("the transaction is in the ledger" if is_valid else "the proof does not lead to a signed root")
    return 0 if is_valid else 1


if __name__ == "__main__":
    sys.exit(main())
