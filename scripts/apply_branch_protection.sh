#!/usr/bin/env bash
# Make GitHub's rulesets those of .github/rulesets: apply_branch_protection.sh [--apply]
# Without --apply it shows what would change and exits 1 when something would. GH_REPO=owner/name says where; whoever is
# logged in to gh has to be an administrator there.
set -euo pipefail
cd "$(dirname "$0")/.."

apply=
case ${1-} in
    '') ;;
    --apply) apply=yes ;;
    *)
        echo "usage: apply_branch_protection.sh [--apply]" >&2
        exit 2
        ;;
esac
[ -n "${GH_REPO-}" ] || {
    echo "branch protection: say where: GH_REPO=owner/name" >&2
    exit 2
}

# What a ruleset says, without what GitHub adds, in one order.
essence() {
    jq --sort-keys '{name, target, enforcement, bypass_actors, conditions, rules: (.rules | sort_by(.type))}'
}

existing=$(gh api --paginate "repos/$GH_REPO/rulesets" | jq --slurp 'add // []')
differ=
for file in .github/rulesets/*.json; do
    name=$(jq --raw-output .name "$file")
    id=$(jq --raw-output --arg name "$name" '[.[] | select(.name == $name)][0].id // empty' <<<"$existing")
    now='{"rules": []}'
    [ -z "$id" ] || now=$(gh api "repos/$GH_REPO/rulesets/$id")
    if changes=$(diff --unified=1 --label "$name on GitHub" --label "$file" <(essence <<<"$now") <(essence <"$file")); then
        echo "$name: as it should be"
        continue
    fi
    if [ -z "$apply" ]; then
        differ=yes
        printf '%s: would be %s\n%s\n' "$name" "${id:+changed}${id:-made}" "$changes" | sed "1s/changed$id/changed/"
    elif [ -n "$id" ]; then
        gh api --method PUT "repos/$GH_REPO/rulesets/$id" --input "$file" --silent
        echo "$name: changed"
    else
        gh api --method POST "repos/$GH_REPO/rulesets" --input "$file" --silent
        echo "$name: made"
    fi
done
[ -z "$differ" ] || {
    echo "nothing was changed; --apply does it" >&2
    exit 1
}
