#!/usr/bin/env bash
# Kills an engine under load at many random instants: scripts/crash.sh [count] [seed]. With `steps` instead of a count: at each
# named step, each time that it is reached. Takes about 2 s for each crash.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

need_node
need_programs crun=crun runc=runc umoci=umoci skopeo=skopeo buildah=buildah gcc=gcc make=make /bin/busybox=busybox-static
[ "$(id -u)" = 0 ] || fail "this creates real sandboxes and needs root so far" "sudo scripts/crash.sh"
mend_hybrid_cgroups
install_node_modules
build_all

if [ "${1:-}" = steps ]; then
  WARREN_LONG=1 exec npx vitest run test/crash/life.test.ts test/crash/steps.test.ts
fi
export WARREN_CRASHES="${1:-200}"
[ -z "${2:-}" ] || export WARREN_SEED="$2"
exec npx vitest run test/crash/random.test.ts
