#!/usr/bin/env bash
# Check commit subjects (`scope: imperative summary`, at most 72 characters): check_commits.sh [MESSAGE_FILE]
# Without a file it checks the commits from BASE_COMMIT (default: the merge base with develop or main) to COMMIT (default:
# HEAD). Merge commits are ignored.
set -euo pipefail
export LC_ALL=C.UTF-8

max_length=72
# Verbs that look like another form of a verb.
imperative=" alias bias bring embed exceed feed focus need proceed seed shed speed "

# problem_of SUBJECT: print why a subject is rejected, nothing if it is valid.
problem_of() {
    local subject=$1 verb
    if [ ${#subject} -gt $max_length ]; then
        echo "has ${#subject} characters, the maximum is $max_length"
    elif ! [[ $subject =~ ^[a-z0-9][a-z0-9._/-]*(,\ [a-z0-9][a-z0-9._/-]*)*:\ ([a-z][a-z-]*)(\ [^ ].*)$ ]]; then
        echo "must be 'scope: imperative summary' in lower case"
    elif [[ $subject == *. ]]; then
        echo "must not end with a full stop"
    else
        verb=${BASH_REMATCH[2]}
        if [[ $verb =~ (ed|ing|[^s]s)$ && $imperative != *" $verb "* ]]; then
            echo "must start with an imperative after the scope (add, fix, remove), not '$verb'"
        fi
    fi
}

# merge_base: print the merge base with develop or main.
merge_base() {
    local branch
    for branch in origin/develop develop origin/main main; do
        git merge-base HEAD "$branch" 2>/dev/null && return
    done
    echo "commits: no merge base with develop or main; checking the last commit only" >&2
    git rev-parse --verify --quiet HEAD~1 || git hash-object -t tree /dev/null
}

if [ $# -eq 1 ]; then
    subjects=$(sed -n '/^#/!{p;q}' "$1")
else
    from=${BASE_COMMIT:-$(merge_base)}
    subjects=$(git log --no-merges --format=%s "$from..${COMMIT:-HEAD}")
fi
checked=0 failed=0
while IFS= read -r subject; do
    [ -n "$subject" ] || continue
    checked=$((checked + 1))
    problem=$(problem_of "$subject")
    [ -z "$problem" ] || {
        failed=$((failed + 1))
        echo "commits: FAILED: '$subject' $problem" >&2
    }
done <<<"$subjects"
[ "$failed" -eq 0 ] || exit 1
echo "commits: $checked subjects checked"
