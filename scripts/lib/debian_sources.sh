# shellcheck shell=bash
# Sourced by scripts that build images from Debian packages: write_sources writes the package sources of $suite to
# $work/suite.list, and with sid to $work/all.list. The caller sets both and defines `fail`.
# shellcheck disable=SC2154

# Print apt's Debian archives on this machine as `RELEASE URL` lines.
archives() {
    # apt expands these, not the shell.
    # shellcheck disable=SC2016
    apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Identifier: Packages' 'Origin: Debian'
}

write_sources() {
    local all mirror security
    all=$(archives 2>/dev/null || true)
    mirror=${DEBIAN_MIRROR-$(awk '$1 !~ /-/ { print $2; exit }' <<<"$all")}
    [ -n "$mirror" ] || fail "apt has no Debian mirror on this machine; name one: DEBIAN_MIRROR=http://…"
    security=$(awk '$1 ~ /-security$/ { print $2; exit }' <<<"$all")
    {
        echo "deb $mirror $suite main"
        echo "deb $mirror $suite-updates main"
        [ -z "$security" ] || echo "deb $security $suite-security main"
    } >"$work/suite.list"
    # The release file of sid may have expired where a mirror lags; its signature is still verified.
    cp "$work/suite.list" "$work/all.list"
    echo "deb [check-valid-until=no] $mirror sid main" >>"$work/all.list"
}
