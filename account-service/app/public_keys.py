"""`python -m app.public_keys ORIGIN < KEY.pem`: print the public keys to announce, one a line."""

import sys

from app.transparency.checkpoints import Signer

if __name__ == "__main__":
    try:
        print(*Signer(sys.argv[1], sys.stdin.read()).public_keys, sep="\n")
    except (IndexError, ValueError) as error:
        print(f"public keys: {error}; use: python -m app.public_keys ORIGIN < KEY.pem", file=sys.stderr)
        sys.exit(1)
