#!/usr/bin/env bash
# Render docs/diagrams/*.png from the .dot files, and store the checksums of both in drawn.sha256: diagrams.sh [--check]
# With --check nothing is rendered; a source that changed since it was rendered is an error.
set -euo pipefail
cd "$(dirname "$0")/../../docs/diagrams"

case ${1-} in
    '') ;;
    --check)
        if [ "$(printf '%s\n' *.dot *.png | sort)" != "$(cut -c 67- drawn.sha256 | sort)" ] || ! sha256sum --check --quiet drawn.sha256; then
            echo "diagrams: out of date; run: make diagrams" >&2
            exit 1
        fi
        exit
        ;;
    *)
        echo "usage: diagrams.sh [--check]" >&2
        exit 2
        ;;
esac

../../scripts/local/ensure_packages.sh graphviz fonts-dejavu-core
for source in *.dot; do
    dot -Tpng -Gdpi=110 "$source" -o "${source%.dot}.png"
    echo "docs/diagrams/${source%.dot}.png"
done
sha256sum -- *.dot *.png >drawn.sha256
