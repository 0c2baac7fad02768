#!/bin/bash
# Many builds in one place, some of them killed: the others must be right, and nothing may stay behind.
#
#   soak.sh RBUILD [OPTION OF RBUILD]...      with RBUILD_ROOT set, and `--build-context busybox=…` among the options
#
# Environment: SOAK_ROW builds one after another (50), SOAK_BATCHES times SOAK_ONCE builds at once (8) of which some are killed
# with SIGKILL until SOAK_KILLED are (10); SOAK_TREE is hashed before and after, without the store (/). Needs bash and coreutils.
# tests/soak.rs runs it with small numbers; tests/pods/README.md says how it is run in pods.
set -euo pipefail
rbuild=$1; shift
options=("$@")
row=${SOAK_ROW:-50} once=${SOAK_ONCE:-8} killed=${SOAK_KILLED:-10} tree=${SOAK_TREE:-/}
: "${RBUILD_ROOT:?}"
mkdir -p "$RBUILD_ROOT"
work=$(mktemp -d "$RBUILD_ROOT/../soak.XXXXXX")
trap 'rm -rf "$work"' EXIT
mark=${work##*/}
mkdir "$work/context" "$work/out"
cat > "$work/context/Dockerfile" <<'DOCKERFILE'
FROM busybox AS made
ARG MARK
RUN : $MARK; mkdir -p /srv/a && for i in $(seq 300); do echo $i > /srv/a/$i; done; setsid sleep 600 >/dev/null 2>&1 & sleep 0.05
RUN : $MARK; rm /srv/a/1*; chmod 2750 /srv/a; ln -s a /srv/link; sleep 0.1; echo done > /srv/done
FROM busybox
COPY --from=made /srv /srv
ARG MARK
RUN --mount=type=cache,target=/cache,sharing=locked : $MARK; echo $$ >> /cache/log; cat /srv/done > /end; rm /srv/done
DOCKERFILE
build() { # NAME: builds without cache and prints the digest
  SOURCE_DATE_EPOCH=1 "$rbuild" --quiet --no-cache --build-arg "MARK=$mark" "${options[@]}" \
    --output "type=oci,dest=$work/out/$1.tar,rewrite-timestamp=true" "$work/context"
}
mounts() { cut -d ' ' -f 5- /proc/self/mountinfo | sort; }
processes() { # those of steps and builders, wherever they are
  local line
  for line in /proc/[0-9]*/cmdline; do
    if tr '\0' ' ' 2>/dev/null < "$line" | grep -q -- "$mark"; then echo "$line"; fi
  done
}
hash_tree() { # what may be read of it
  local skipped=(\( -path "$(realpath "$RBUILD_ROOT")" -o -path "$(realpath "$work")" -o -path /proc -o -path /sys -o -path /dev \) -prune -o)
  { find "$tree" -xdev "${skipped[@]}" ! -path "$(dirname "$(realpath "$work")")" -printf '%p %y %m %U %G %n %s %T@ %l\n' 2>/dev/null || true; } \
    | sort | sha256sum
  { find "$tree" -xdev "${skipped[@]}" -type f -readable -print0 2>/dev/null || true; } | sort -z | xargs -0r sha256sum | sha256sum
}
fail() { echo "FAILED: $*"; exit 1; }

mounts > "$work/mounts"; hash_tree > "$work/tree"
start=$SECONDS
expected=$(build first)
for ((i = 1; i < row; i++)); do
  [ "$(build row)" = "$expected" ] || fail "build $i in a row is another image"
done
in_row=$((SECONDS - start))

start=$SECONDS survived=0 dead=0
while [ "$dead" -lt "$killed" ] || [ "$survived" = 0 ]; do
  pids=() victims=()
  for ((i = 0; i < once; i++)); do
    if [ "$dead" -lt "$killed" ] && [ $((RANDOM % 2)) = 0 ]; then
      # Between its first system call and about its end; --foreground: the builder alone, not its group.
      ( exec timeout --foreground --signal KILL "$(printf '0.%03d' $((RANDOM % 900 + 20)))" env SOURCE_DATE_EPOCH=1 "$rbuild" --quiet --no-cache \
          --build-arg "MARK=$mark" "${options[@]}" --output "type=oci,dest=$work/out/killed-$i.tar,rewrite-timestamp=true" "$work/context" \
          > /dev/null 2>&1 ) &
      victims+=($!) dead=$((dead + 1))
    else
      build "$i" > "$work/out/$i" &
      pids+=("$!:$i")
    fi
  done
  for pid in "${victims[@]}"; do wait "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do
    wait "${pid%:*}" || fail "a build beside killed ones failed"
    [ "$(cat "$work/out/${pid#*:}")" = "$expected" ] || fail "a build beside killed ones is another image"
    survived=$((survived + 1))
  done
done
at_once=$((SECONDS - start))

for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do [ -z "$(processes)" ] && break; sleep 0.1; done
[ -z "$(processes)" ] || fail "processes are left: $(processes)"
[ "$(build last)" = "$expected" ] || fail "the build after killed ones is another image"
mounts | diff "$work/mounts" - || fail "mounts are left"
left=$(find "$RBUILD_ROOT/tmp" -mindepth 1 -maxdepth 1 2>/dev/null || true)
[ -z "$left" ] || fail "scratch is left: $left"
left=$(find "$work/out" -name '*.tar?*')
[ -z "$left" ] || echo "note: unfinished outputs of killed builds: $left"
hash_tree | diff "$work/tree" - || fail "something outside the store changed"
echo "ok: $row in a row in $in_row s, $survived beside $dead killed ones in $at_once s, $expected"
