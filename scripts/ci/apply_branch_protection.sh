#!/usr/bin/env bash
# Compare GitHub's rulesets with .github/rulesets and its environments with .github/environments.json:
# apply_branch_protection.sh [--apply]
# Without --apply it prints the differences and exits 1 if there are any; --apply updates GitHub. GH_REPO=owner/name names
# the repository; the account of gh needs administrator rights. Required reviewers are set on GitHub and stay unchanged.
set -euo pipefail
cd "$(dirname "$0")/../.."

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
    echo "branch protection: set GH_REPO=owner/name" >&2
    exit 2
}

# Keep the fields that this repository defines, in a fixed order.
normalize() {
    jq --sort-keys '{name, target, enforcement, bypass_actors, conditions, rules: (.rules | sort_by(.type))}'
}

existing=$(gh api --paginate "repos/$GH_REPO/rulesets" | jq --slurp 'add // []')
differ=
missing=
for file in .github/rulesets/*.json; do
    name=$(jq --raw-output .name "$file")
    id=$(jq --raw-output --arg name "$name" '[.[] | select(.name == $name)][0].id // empty' <<<"$existing")
    current='{"rules": []}'
    [ -z "$id" ] || current=$(gh api "repos/$GH_REPO/rulesets/$id")
    if changes=$(diff --unified=1 --label "$name on GitHub" --label "$file" <(normalize <<<"$current") <(normalize <"$file")); then
        echo "$name: up to date"
        continue
    fi
    if [ -z "$apply" ]; then
        differ=yes
        printf '%s: would be %s\n%s\n' "$name" "${id:+updated}${id:-created}" "$changes" | sed "1s/updated$id/updated/"
    elif [ -n "$id" ]; then
        gh api --method PUT "repos/$GH_REPO/rulesets/$id" --input "$file" --silent
        echo "$name: updated"
    else
        gh api --method POST "repos/$GH_REPO/rulesets" --input "$file" --silent
        echo "$name: created"
    fi
done

# differs NAME CURRENT EXPECTED: succeed if they differ, and print the difference.
differs() {
    local changes
    if changes=$(diff --unified=1 --label "$1 on GitHub" --label .github/environments.json <(echo "$2") <(echo "$3")); then
        echo "$1: up to date"
        return 1
    fi
    [ -n "$apply" ] || {
        differ=yes
        printf '%s: would be updated\n%s\n' "$1" "$changes"
    }
}

# Only the listed branches may deploy to an environment and read its secrets, and administrators cannot bypass its reviewers.
environments=$(gh api --paginate "repos/$GH_REPO/environments" | jq --slurp '[.[].environments[]?]')
while IFS=$'\t' read -r name branches reviewed; do
    environment=$(jq --arg name "$name" '[.[] | select(.name == $name)][0] // {}' <<<"$environments")
    policies='[]'
    if [ "$(jq .deployment_branch_policy.custom_branch_policies <<<"$environment")" = true ]; then
        policies=$(gh api --paginate "repos/$GH_REPO/environments/$name/deployment-branch-policies" |
            jq --slurp '[.[].branch_policies[]?]')
    fi
    current=$(jq --sort-keys --argjson policies "$policies" '{
        bypass: (if .can_admins_bypass == null then true else .can_admins_bypass end),
        branches: [$policies[] | "\(.type // "branch") \(.name)"] | sort,
        restricted: (.deployment_branch_policy.custom_branch_policies // false)}' <<<"$environment")
    expected=$(jq --sort-keys --null-input --argjson branches "$branches" \
        '{bypass: false, branches: [$branches[] | "branch \(.)"] | sort, restricted: true}')
    reviewers=$(jq '[.protection_rules[]? | select(.type == "required_reviewers")]' <<<"$environment")
    if [ "$reviewed" = true ] && [ "$reviewers" = '[]' ]; then
        echo "environment $name has no required reviewers; set them on GitHub" >&2
        missing=yes
    fi
    differs "environment $name" "$current" "$expected" || continue
    [ -n "$apply" ] || continue
    # The API resets omitted fields, so reviewers and wait timer are sent unchanged.
    jq '{can_admins_bypass: false,
         deployment_branch_policy: {protected_branches: false, custom_branch_policies: true},
         wait_timer: ([.protection_rules[]? | select(.type == "wait_timer").wait_timer][0] // 0),
         prevent_self_review: ([.protection_rules[]? | .prevent_self_review // empty][0] // false),
         reviewers: [.protection_rules[]?.reviewers[]? | {type, id: .reviewer.id}]}' <<<"$environment" |
        gh api --method PUT "repos/$GH_REPO/environments/$name" --input - --silent
    jq --raw-output '.[] | "\(.id)\t\(.type // "branch") \(.name)"' <<<"$policies" | while IFS=$'\t' read -r id policy; do
        jq --exit-status --arg policy "$policy" '.branches | index($policy)' <<<"$expected" >/dev/null ||
            gh api --method DELETE "repos/$GH_REPO/environments/$name/deployment-branch-policies/$id" --silent
    done
    jq --raw-output --argjson current "$current" '.branches - $current.branches | .[]' <<<"$expected" | while read -r type branch; do
        gh api --method POST "repos/$GH_REPO/environments/$name/deployment-branch-policies" \
            --raw-field "name=$branch" --raw-field "type=$type" --silent
    done
    echo "environment $name: updated"
done < <(jq --raw-output 'to_entries[] | "\(.key)\t\(.value.branches | tojson)\t\(.value.reviewed)"' .github/environments.json)
[ -z "$differ" ] || {
    echo "no changes made; run with --apply to apply them" >&2
    exit 1
}
[ -z "$missing" ] || exit 1
