#!/bin/sh
# Installs what the tests need and runs every check: formatting, lints, documentation, all tests.
# CI=true turns a skipped test into a failure. Needs Rust and a C compiler; Debian packages are installed when run as root.
set -eu
cd "$(dirname "$0")/.."
needed="containerd docker-registry skopeo busybox-static umoci openssh-server qemu-user-static python3 xfsprogs btrfs-progs e2fsprogs"

missing=
for package in $needed; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $package"
done
if [ -n "$missing" ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing$missing"
    apt-get update -qq
    # RUNLEVEL=1: the registry is started by the tests that need it, not as a service of this machine
    # shellcheck disable=SC2086  # a list of words
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
  else
    echo "not installed (tests that need them will say so):$missing" >&2
  fi
fi

# A run is a function of the commit: generated inputs are the same every time. PROPTEST_RNG_SEED=NUMBER searches elsewhere.
export PROPTEST_RNG_SEED=${PROPTEST_RNG_SEED:-20261120}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
check() { echo "== $*"; "$@"; }

check cargo fmt --all --check
check cargo clippy --quiet --locked --workspace --all-targets -- -D warnings
RUSTDOCFLAGS="-D warnings" check cargo doc --quiet --locked --workspace --no-deps

echo "== cargo test"
status=0
cargo test --locked --workspace --no-fail-fast -- --show-output > "$log" 2>&1 || status=$?
grep -E '^(test result|     Running|   Doc-tests)' "$log" || true
if [ "$status" != 0 ]; then
  sed -n '/^failures:/,$p' "$log"
  grep -E '^(error|warning: unused)' "$log" || true
  echo "tests failed" >&2
  exit "$status"
fi
if grep -qE '^skipped: ' "$log"; then
  grep -E '^skipped: ' "$log" | sort | uniq -c
  if [ "${CI:-}" = true ]; then
    echo "a skipped test is a failure in CI" >&2
    exit 1
  fi
fi
